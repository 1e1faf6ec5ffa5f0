"""Importance of heads and neurons, against finite differences and passes row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bertwright.data.batching import MODEL_INPUTS
from bertwright.methods.prune.importance import (
    choose_kept,
    gate_gradients,
    neuron_activations,
    neuron_magnitudes,
)
from bertwright.models.build import copy_with_widths
from bertwright.tasks import find_task
from methods.cases import inputs_of, some_batch, tiny_rows, tiny_teacher, trained_teacher

TASK = find_task("classify")


def loss_of_row(model, rows, row, role, layer, features, scale):
    """Return the loss of one row when these features before a projection are multiplied."""

    def hook(module, args):
        states = args[0].clone()
        states[..., features] *= scale
        return (states,)

    handle = model.roles.part(layer, role).register_forward_pre_hook(hook)
    batch = rows.collate(np.array([row]))
    with torch.no_grad():
        logits = model(**{k: batch[k] for k in MODEL_INPUTS if k in batch}).logits
    handle.remove()
    return float(torch.nn.functional.cross_entropy(logits, batch["labels"]))


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "xlnet"])
def test_gradients_of_gates_are_finite_differences_row_by_row(family):
    model = tiny_teacher(family).double()
    rows = tiny_rows(model, 9)
    found = gate_gradients(model, rows, TASK, batch_tokens=60)
    step = 1e-4
    wanted = [("ffn_out", layer, [3], found.neurons[layer][3]) for layer in (0, 3)]
    if found.heads is not None:
        features = list(range(8, 16))
        wanted += [("attention_output", i, features, found.heads[i][1]) for i in (0, 3)]
    assert (found.heads is None) == (family == "xlnet")
    for role, layer, features, importance in wanted:
        total = 0.0
        for row in range(len(rows)):
            up, down = (
                loss_of_row(model, rows, row, role, layer, features, 1 + s) for s in (step, -step)
            )
            total += abs(up - down) / (2 * step)
        assert float(importance) == pytest.approx(total / len(rows), rel=1e-3, abs=1e-8)


def test_batches_do_not_matter_and_nothing_is_left_behind():
    model = trained_teacher()
    rows = tiny_rows(model, 24)
    model.train()
    one, many = (gate_gradients(model, rows, TASK, batch_tokens=n) for n in (10_000, 20))
    for a, b in ((one.heads, many.heads), (one.neurons, many.neurons)):
        for x, y in zip(a, b, strict=True):
            assert_close(x, y, rtol=1e-4, atol=1e-7)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    batch = inputs_of(some_batch(rows))
    assert not model.roles.part(0, "ffn_out")._forward_pre_hooks
    assert model(**batch).logits.requires_grad


def test_dead_neurons_have_no_importance_and_are_not_missed():
    model = trained_teacher()
    rows = tiny_rows(model, 24)
    dead = [2, 5, 11]
    with torch.no_grad():
        for layer in range(4):
            model.roles.part(layer, "ffn_out").weight[:, dead] = 0
    by_gradient = gate_gradients(model, rows, TASK).neurons
    kept = choose_kept(by_gradient, 45 / 48)
    assert all(by_gradient[layer][dead].max() == 0 for layer in range(4))
    assert all(set(kept[layer]) == set(range(48)) - set(dead) for layer in range(4))
    assert choose_kept(neuron_magnitudes(model).neurons, 45 / 48) == kept
    batch = inputs_of(some_batch(rows))
    with torch.no_grad():
        narrow = copy_with_widths(model, neurons=kept)
        assert_close(narrow(**batch).logits, model(**batch).logits, atol=1e-6, rtol=0)


def test_activations_are_means_over_real_tokens():
    model = tiny_teacher()
    rows = tiny_rows(model, 10)
    found = neuron_activations(model, rows, batch_tokens=64).neurons
    sums, tokens = torch.zeros(48), 0
    for row in range(len(rows)):
        batch = rows.collate(np.array([row]))
        length = int(batch["attention_mask"].sum())
        seen = []
        part = model.roles.part(2, "ffn_out")
        handle = part.register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(args[0])
        )
        with torch.no_grad():
            model(**{k: batch[k] for k in MODEL_INPUTS if k in batch})
        handle.remove()
        sums += seen[0][0, :length].abs().sum(dim=0)
        tokens += length
    assert_close(found[2], sums / tokens, rtol=1e-4, atol=1e-6)


def test_what_is_kept_is_the_share_that_was_asked_for():
    scores = [torch.tensor([0.1, 0.9, 0.5, 0.7]), torch.tensor([4.0, 1.0, 2.0, 3.0])]
    assert choose_kept(scores, 0.5) == {0: [1, 3], 1: [0, 3]}
    assert choose_kept(scores, 0.5, multiple=3) == {0: [1, 2, 3], 1: [0, 2, 3]}
    assert choose_kept(scores, 0.01) == {0: [1], 1: [0]}
    assert choose_kept(scores, 1.0) == {0: [0, 1, 2, 3], 1: [0, 1, 2, 3]}
    assert choose_kept(scores, 0.75, multiple=8) == {0: [0, 1, 2, 3], 1: [0, 1, 2, 3]}


def test_all_layers_compete_by_their_own_scale():
    scores = [torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([50.0, 50.0, 50.0, 50.0])]
    assert choose_kept(scores, 5 / 8, scope="global") == {0: [0], 1: [0, 1, 2, 3]}
    assert choose_kept(scores, 1 / 8, scope="global") == {0: [0], 1: [0]}, "each keeps one"
    torch.manual_seed(0)
    many = [torch.rand(64) for _ in range(6)]
    kept = choose_kept(many, 0.25, scope="global")
    assert sum(map(len, kept.values())) == 6 * 64 // 4
