"""Importance of the dimensions of the states, against finite differences row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bertwright.data.batching import MODEL_INPUTS
from bertwright.errors import ConfigError, UnsupportedRoleError, UsageError
from bertwright.methods.prune.width import (
    WidthPruning,
    WidthPruningConfig,
    width_gradients,
    width_magnitudes,
)
from bertwright.methods.quantize.int8 import simulate_int8
from bertwright.models.stream import READERS, WRITERS
from bertwright.tasks import find_task
from methods.cases import tiny_rows, tiny_teacher, trained_teacher

TASK = find_task("classify")


def loss_of_row(model, rows, row, dimension, scale):
    """Return the loss of one row when a dimension is multiplied wherever states are made."""
    encoder = model.encoder
    project = getattr(encoder, "embeddings_project", None)
    places = [encoder.embeddings.LayerNorm if project is None else project]
    for layer in encoder.encoder.layer:
        places += [layer.attention.output.LayerNorm, layer.output.LayerNorm]

    def hook(module, args, output):
        changed = output.clone()
        changed[..., dimension] *= scale
        return changed

    handles = [place.register_forward_hook(hook) for place in places]
    batch = rows.collate(np.array([row]))
    with torch.no_grad():
        logits = model(**{k: batch[k] for k in MODEL_INPUTS if k in batch}).logits
    for handle in handles:
        handle.remove()
    return float(torch.nn.functional.cross_entropy(logits, batch["labels"]))


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_gradients_of_gates_are_finite_differences_row_by_row(family):
    model = tiny_teacher(family).double()
    rows = tiny_rows(model, 6)
    found = width_gradients(model, rows, TASK, batch_tokens=40)
    assert found.shape == (32,) and bool((found > 0).all())
    step = 1e-4
    for dimension in (0, 13, 31):
        slopes = [
            (
                loss_of_row(model, rows, row, dimension, 1 + step)
                - loss_of_row(model, rows, row, dimension, 1 - step)
            )
            / (2 * step)
            for row in range(len(rows))
        ]
        expected = sum(map(abs, slopes)) / len(rows)
        assert float(found[dimension]) == pytest.approx(expected, rel=1e-3, abs=1e-8)
        together = abs(sum(slopes)) / len(rows)
        assert abs(together - expected) > 1e-3 * expected, "rows would cancel each other"


def test_batches_do_not_matter_and_nothing_is_left_behind():
    model = trained_teacher()
    rows = tiny_rows(model, 24)
    one, many = (width_gradients(model, rows, TASK, batch_tokens=n) for n in (10_000, 20))
    assert_close(one, many, rtol=1e-4, atol=1e-7)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_magnitudes_are_shares_of_every_matrix():
    model = tiny_teacher()
    embeddings = model.encoder.embeddings
    tables = [embeddings.word_embeddings, embeddings.position_embeddings]
    matrices = [table.weight.T for table in (*tables, embeddings.token_type_embeddings)]
    for layer in range(4):
        matrices += [model.roles.part(layer, role).weight.T for role in READERS]
        matrices += [model.roles.part(layer, role).weight for role in WRITERS]
    expected = [0.0] * 32
    for matrix in matrices:
        lengths = [sum(x * x for x in row) for row in matrix.tolist()]
        for dimension, length in enumerate(lengths):
            expected[dimension] += length / (sum(lengths) / len(lengths))
    assert_close(width_magnitudes(model), torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert sum(expected) == pytest.approx(32 * len(matrices))


@pytest.mark.parametrize("by", ["gradient", "magnitude", "random"])
def test_dead_dimensions_go_first(by):
    model = trained_teacher()
    rows = tiny_rows(model, 24)
    dead = [2, 5, 11, 30]
    embeddings = model.encoder.embeddings
    with torch.no_grad():
        for table in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
            getattr(embeddings, table).weight[:, dead] = 0
        for norm in (m for m in model.encoder.modules() if isinstance(m, torch.nn.LayerNorm)):
            norm.weight[dead] = 0
            norm.bias[dead] = 0
        for layer in range(4):
            for role in WRITERS:
                model.roles.part(layer, role).weight[dead] = 0
            for role in READERS:
                model.roles.part(layer, role).weight[:, dead] = 0
    config = WidthPruningConfig(share=28 / 32, by=by, multiple=4, seed=1)
    narrow = WidthPruning(config).apply(model, rows, TASK)
    kept = narrow.surgery.ops[-1]["indices"]
    assert len(kept) == 28 == narrow.roles.hidden_size
    assert (set(range(32)) - set(kept) == set(dead)) == (by != "random")


def test_so_many_stay_as_were_asked_for():
    model = tiny_teacher()
    rows = tiny_rows(model, 6)
    for share, multiple, expected in ((0.5, 8, 16), (0.4, 8, 16), (0.3, 32, 32), (0.01, 5, 5)):
        options = {"share": share, "multiple": multiple, "by": "magnitude"}
        narrow = WidthPruning(WidthPruningConfig(**options)).apply(model, rows, TASK)
        assert narrow.roles.hidden_size == expected


def test_what_cannot_be_pruned_is_refused():
    model = tiny_teacher()
    rows = tiny_rows(model, 6)
    method = WidthPruning(WidthPruningConfig(multiple=8))
    with pytest.raises(UsageError, match="quantize last"):
        method.apply(simulate_int8(model), rows, TASK)
    with pytest.raises(UnsupportedRoleError, match="albert keeps the width"):
        method.apply(tiny_teacher("albert"), rows, TASK)
    for options in ({"share": 0.0}, {"share": 1.5}, {"multiple": 0}):
        with pytest.raises(ConfigError):
            WidthPruningConfig(**options)
