"""Which layers go: against finite differences, searches worked out by hand, and planted layers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bertwright.data.batching import MODEL_INPUTS
from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.errors import ConfigError, UnsupportedRoleError, UsageError
from bertwright.methods.prune import layers as layer_pruning
from bertwright.methods.prune.layers import (
    DroppedLayer,
    LayerPruning,
    LayerPruningConfig,
    drop_by_importance,
    kept_layers,
    layer_importance,
    only_layers,
    search_layers,
)
from bertwright.methods.quantize.int8 import simulate_int8
from bertwright.models.build import build_task_model, copy_with_layers
from bertwright.models.roles import Roles
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.tasks import find_task
from bertwright.training.evaluation import compute_logits
from methods.cases import (
    LABELS,
    inputs_of,
    same_weights,
    some_batch,
    tiny_rows,
    tiny_teacher,
    trained_teacher,
    weights,
)
from tiny import FAMILY_NAMES, tiny_encoder

TASK = find_task("classify")


def logits_of(model, batch):
    with torch.no_grad():
        return model(**inputs_of(batch)).logits


def losses_of(model, rows, positions):
    batch = rows.collate(np.array(positions))
    with torch.no_grad():
        logits = model(**{k: batch[k] for k in MODEL_INPUTS if k in batch}).logits
    return torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")


def losses_with_gate(model, rows, positions, place, gate):
    """Return the losses [B] when the change that the layer at a place makes is scaled."""
    calls = []

    def hook(module, args, output):
        calls.append(1)
        if len(calls) - 1 != place:
            return None
        after = output[0] if isinstance(output, tuple) else output
        scaled = args[0] + gate * (after - args[0])
        return (scaled, *output[1:]) if isinstance(output, tuple) else scaled

    layers = set(model.roles.layers)
    handles = [layer.register_forward_hook(hook) for layer in layers]
    losses = losses_of(model, rows, positions)
    for handle in handles:
        handle.remove()
    assert len(calls) == model.roles.num_layers
    return losses


def by_differences(model, rows, place, *, together=False):
    """Return mean over rows of |d loss / d gate|; `together`: the wrong one, rows cancel out."""
    step, every = 1e-4, [[i] for i in range(len(rows))]
    slopes = [
        losses_with_gate(model, rows, one, place, 1 + step)
        - losses_with_gate(model, rows, one, place, 1 - step)
        for one in every
    ]
    slopes = torch.cat(slopes) / (2 * step)
    return float(slopes.sum().abs() if together else slopes.abs().sum()) / len(rows)


def model_with_a_useless_layer(place):
    """Return a model whose layer at `place` changes nothing, and rows labelled by its answers."""
    model = tiny_teacher(initializer_range=0.2)
    rows = tiny_rows(model, 60, seed=3)
    with torch.no_grad():
        for role in ("attention_output", "ffn_out"):
            part = model.roles.part(place, role)
            part.weight.zero_()
            part.bias.zero_()
        model.head.out.bias -= torch.tensor(compute_logits(model, rows, precision="fp32").mean(0))
    answers = compute_logits(model, rows, precision="fp32").argmax(axis=1)
    assert min(np.bincount(answers, minlength=3)) > 10
    records = [
        {"text": text, "label": LABELS[answer]}
        for text, answer in zip(rows.rows.dataset["text"][:], answers, strict=True)
    ]
    labelled = load_rows(records, labels=LabelSet(tuple(LABELS)))
    return model, tokenise(labelled, model.tokenizer, max_length=32)


@pytest.mark.parametrize("family", ["bert", "albert", "mpnet", "deberta-v2", "modernbert", "xlnet"])
def test_importance_is_finite_differences_row_by_row(family):
    model = tiny_teacher(family).double()
    rows = tiny_rows(model, 6)
    found = layer_importance(model, rows, TASK, batch_tokens=40)
    assert found.shape == (4,) and found.isfinite().all() and found.min() > 0
    for place in range(4):
        wanted = by_differences(model, rows, place)
        assert float(found[place]) == pytest.approx(wanted, rel=1e-3, abs=1e-8)
        assert float(found[place]) != pytest.approx(
            by_differences(model, rows, place, together=True), rel=1e-2
        )


def test_batches_do_not_matter_and_nothing_is_left_behind():
    model = trained_teacher()
    rows = tiny_rows(model, 24)
    batch = some_batch(rows)
    before, whole = weights(model), logits_of(model, batch)
    model.train()
    one, many = (layer_importance(model, rows, TASK, batch_tokens=n) for n in (10_000, 20))
    assert_close(one, many, rtol=1e-4, atol=1e-7)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(layer._forward_hooks for layer in model.roles.layers)
    model.eval()
    assert same_weights(weights(model), before) and torch.equal(logits_of(model, batch), whole)


def test_layers_that_a_pooling_does_not_read_have_no_importance():
    encoder, tokenizer = tiny_encoder()
    config = ModelConfig(pooling="cls-layer:2")
    model = build_task_model(
        encoder, task="classify", labels=LABELS, config=config, max_length=32, tokenizer=tokenizer
    )
    found = layer_importance(model, tiny_rows(model, 9), TASK)
    assert found[:2].min() > 0 and found[2:].tolist() == [0, 0]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_only_layers_is_the_cut_model_and_leaves_no_trace(family):
    model = tiny_teacher(family)
    batch = some_batch(tiny_rows(model))
    before, whole = copy.deepcopy(model.encoder.config.to_dict()), logits_of(model, batch)
    names = list(model.state_dict())
    for kept in ([0, 2], [0], [0, 1, 3]):
        cut = copy_with_layers(model, kept)
        with only_layers(model, kept) as smaller:
            assert smaller is model and model.roles.num_layers == len(kept)
            assert torch.equal(logits_of(smaller, batch), logits_of(cut, batch))
            assert not torch.allclose(logits_of(smaller, batch), whole, atol=1e-7, rtol=0)
    with pytest.raises(KeyError), only_layers(model, [0]):
        raise KeyError
    assert model.encoder.config.to_dict() == before and list(model.state_dict()) == names
    assert torch.equal(logits_of(model, batch), whole)


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra", "mpnet", "deberta-v2"])
def test_a_cut_model_is_the_stack_of_the_kept_layers_by_hand(family):
    model = tiny_teacher(family)
    batch = some_batch(tiny_rows(model))
    given = []
    handle = model.roles.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: given.append((args, kwargs)), with_kwargs=True
    )
    logits_of(model, batch)
    handle.remove()
    ((hidden, *more), named) = given[0]
    with torch.no_grad():
        for index in (1, 3):
            output = model.roles.layers[index](hidden, *more, **named)
            hidden = output[0] if isinstance(output, tuple) else output
        by_hand = model.head(hidden[:, 0])
    cut = copy_with_layers(model, [1, 3])
    assert torch.equal(logits_of(cut, batch), by_hand)
    assert not torch.equal(logits_of(copy_with_layers(model, [0, 3]), batch), by_hand)


def test_a_pooling_of_inner_layers_is_tried_as_it_will_be():
    encoder, tokenizer = tiny_encoder()
    config = ModelConfig(pooling="weighted-layers:4")
    model = build_task_model(
        encoder, task="classify", labels=LABELS, config=config, max_length=32, tokenizer=tokenizer
    )
    batch = some_batch(tiny_rows(model))
    with only_layers(model, [0, 3]) as smaller:
        assert smaller is not model and model.roles.num_layers == 4
        cut = copy_with_layers(model, [0, 3])
        assert torch.equal(logits_of(smaller, batch), logits_of(cut, batch))


@pytest.mark.parametrize("place", range(4))
def test_a_planted_useless_layer_goes_first(place):
    model, rows = model_with_a_useless_layer(place)
    found = layer_importance(model, rows, TASK)
    others = [float(found[i]) for i in range(4) if i != place]
    assert float(found[place]) < 1e-5 < min(others)
    assert drop_by_importance(model, found, 3)[0].layer == place
    first, second = search_layers(model, rows, TASK, 2)
    assert first == DroppedLayer(place, 1.0), "without it every answer is the same"
    assert second.layer != place and second.figure < 0.9
    for by in ("importance", "search"):
        cut = LayerPruning(LayerPruningConfig(num_layers=3, by=by)).apply(model, rows, TASK)
        kept = [i for i in range(4) if i != place]
        assert cut.surgery.to_json() == [{"op": "keep_layers", "indices": kept}]
        batch = some_batch(rows)
        assert_close(logits_of(cut, batch), logits_of(model, batch), atol=1e-4, rtol=0)


SCORES = {  # by the layers that are left: worked out so that going one by one differs from at once
    (1, 2, 3): 0.8,
    (0, 2, 3): 0.9,
    (0, 1, 3): 0.9,
    (0, 1, 2): 0.5,
    (2, 3): 0.6,
    (0, 3): 0.4,
    (0, 2): 0.7,
    (2,): 0.3,
    (0,): 0.3,
}


def by_table(monkeypatch, model):
    """Let evaluations give the scores of the table; returns the list of what was evaluated."""
    layers, asked = model.roles.layers, []

    def evaluate(smaller, rows, task, *args):
        left = tuple(layers.index(layer) for layer in smaller.roles.layers)
        asked.append(left)
        return {"accuracy": SCORES[left]}, None

    monkeypatch.setattr(layer_pruning, "evaluate_model", evaluate)
    return asked


def test_the_search_goes_one_by_one_and_of_equals_the_lower_goes(monkeypatch):
    model = tiny_teacher()
    rows = tiny_rows(model, 6)
    asked = by_table(monkeypatch, model)
    dropped = search_layers(model, rows, TASK, 1)
    assert dropped == [DroppedLayer(1, 0.9), DroppedLayer(3, 0.7), DroppedLayer(0, 0.3)]
    assert asked == list(SCORES) and model.roles.num_layers == 4
    assert kept_layers(4, dropped) == (2,) and kept_layers(4, dropped[:2]) == (0, 2)
    at_once = sorted(range(4), key=lambda i: -list(SCORES.values())[i])[:2]
    assert at_once == [1, 2] != [one.layer for one in dropped[:2]]
    assert search_layers(model, rows, TASK, 4) == []


def test_a_score_that_is_no_number_is_the_worst(monkeypatch):
    model = tiny_teacher()
    by_table(monkeypatch, model)
    monkeypatch.setitem(SCORES, (1, 2, 3), float("nan"))
    assert search_layers(model, tiny_rows(model, 6), TASK, 3) == [DroppedLayer(1, 0.9)]


def test_the_least_important_go_of_equals_the_lower():
    model = tiny_teacher()
    dropped = drop_by_importance(model, [0.3, 0.1, 0.2, 0.1], 1)
    assert [one.layer for one in dropped] == [1, 3, 2]
    assert [one.figure for one in dropped] == [0.1, 0.1, 0.2]
    assert drop_by_importance(model, [0.3, 0.1, 0.2, 0.1], 4) == []
    assert model.roles.num_layers == 4


def test_a_layer_that_the_family_needs_stays(monkeypatch):
    model = tiny_teacher("modernbert")
    rows = tiny_rows(model, 9)
    dropped = drop_by_importance(model, [0.0, 0.1, 0.2, 0.3], 1)
    assert [one.layer for one in dropped] == [1, 2, 3]
    assert [one.layer for one in search_layers(model, rows, TASK, 1)].count(0) == 0

    def refuse(self, layers):
        raise UnsupportedRoleError("no layer can go")

    monkeypatch.setattr(Roles, "set_layers", refuse)
    for drop in (
        lambda: drop_by_importance(model, [0.0, 0.1, 0.2, 0.3], 2),
        lambda: search_layers(model, rows, TASK, 2),
    ):
        with pytest.raises(UnsupportedRoleError, match="cannot do without any of .* 0\\+1\\+2\\+3"):
            drop()


@pytest.mark.parametrize("by", ["importance", "search"])
def test_what_is_cut_is_an_ordinary_model(by, tmp_path):
    model = trained_teacher()
    rows = tiny_rows(model, 24)
    before = weights(model)
    cut = LayerPruning(LayerPruningConfig(num_layers=2, by=by)).apply(model, rows, TASK)
    assert cut.roles.num_layers == 2 and same_weights(weights(model), before)
    cut.save(tmp_path / "model")
    loaded = TaskModel.load(tmp_path / "model")
    batch = some_batch(rows)
    assert torch.equal(logits_of(loaded, batch), logits_of(cut, batch))
    again = LayerPruning(LayerPruningConfig(num_layers=1, by=by)).apply(cut, rows, TASK)
    assert len(again.surgery.ops) == 2


def test_what_cannot_be_is_said():
    model = tiny_teacher()
    rows = tiny_rows(model, 6)
    pruning = LayerPruning(LayerPruningConfig(num_layers=5))
    with pytest.raises(ConfigError, match="num_layers 5: the model has 4"):
        pruning.apply(model, rows, TASK)
    with pytest.raises(UsageError, match="cannot be taken out"):
        LayerPruning(LayerPruningConfig(num_layers=2)).apply(simulate_int8(model), rows, TASK)
    with pytest.raises(ConfigError, match="--num-layers 0"):
        LayerPruningConfig(num_layers=0)
