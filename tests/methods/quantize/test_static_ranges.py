"""Ranges found on rows, against numpy's own figures, and scales that change no answer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bertwright.data.batching import MODEL_INPUTS
from bertwright.errors import ConfigError, UnsupportedFamilyError, UsageError
from bertwright.methods.quantize.int8 import simulate_int8
from bertwright.methods.quantize.qat import rounding
from bertwright.methods.quantize.static_ranges import (
    StaticRanges,
    StaticRangesConfig,
    best_range,
    central_range,
    smooth_values,
)
from bertwright.models.task_model import TaskModel
from bertwright.models.token_drop import TokenDrop
from methods.cases import (
    inputs_of,
    some_batch,
    tiny_rows,
    tiny_teacher,
    trained_teacher,
    weights,
)


def what_enters(model, rows, path):
    """Return the numbers that enter a layer at real tokens, row by row."""
    found = []
    for row in range(len(rows)):
        batch = rows.collate(np.array([row]))
        length = int(batch["attention_mask"].sum())

        def note(module, args, length=length):
            states = args[0][0, :length] if args[0].ndim == 3 else args[0]
            found.append(states.flatten())

        handle = model.get_submodule(path).register_forward_pre_hook(note)
        with torch.no_grad():
            model(**{k: batch[k] for k in MODEL_INPUTS if k in batch})
        handle.remove()
    return torch.cat(found).numpy()


def found_by(model, rows, **options):
    return StaticRanges(StaticRangesConfig(**options)).apply(model, rows).ranges


def rounding_error(x, low, high):
    scale = (high - low) / 255
    zero = np.round(-low / scale)
    rounded = scale * (np.clip(np.round(x / scale) + zero, 0, 255) - zero)
    return float(np.mean((x - rounded) ** 2))


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_ranges_are_those_of_the_numbers_themselves(family):
    model = tiny_teacher(family)
    rows = tiny_rows(model, 24)
    paths = [p for p, one in model.named_modules() if type(one) is torch.nn.Linear]
    ranges = found_by(model, rows, by="min-max")
    assert set(ranges.inputs) <= set(paths) and len(ranges.inputs) > 24
    central = found_by(model, rows, by="percentile", percentile=99.0)
    for path in (paths[0], paths[7], next(p for p in paths if p.startswith("head"))):
        numbers = what_enters(model, rows, path)
        low, high = ranges.inputs[path]
        assert low == pytest.approx(min(numbers.min(), 0), abs=1e-5)
        assert high == pytest.approx(max(numbers.max(), 0), abs=1e-5)
        width = (high - low) / 4096
        expected = np.quantile(numbers, [0.01, 0.99])
        assert central.inputs[path] == pytest.approx(tuple(expected), abs=3 * width + 0.02)
    assert "encoder.embeddings.word_embeddings" in ranges.tables


def test_a_central_range_is_numpys_quantile():
    numbers = np.random.default_rng(0).standard_normal(100_000)
    counts, edges = np.histogram(numbers, 4096)
    low, high = central_range(counts, edges, 99.9)
    assert (low, high) == pytest.approx(tuple(np.quantile(numbers, [0.001, 0.999])), abs=0.01)
    assert central_range(counts, edges, 100.0) == pytest.approx((edges[0], edges[-1]))
    positive, its_edges = np.histogram(np.abs(numbers) + 1, 64)
    assert central_range(positive, its_edges, 99.0)[0] == 0.0


@pytest.mark.parametrize("tails", ["even", "heavy"])
def test_the_best_range_has_the_least_error_of_all_tried(tails):
    rng = np.random.default_rng(0)
    numbers = rng.standard_t(3, 200_000) if tails == "heavy" else rng.uniform(-1, 3, 50_000)
    counts, edges = np.histogram(numbers, 4096)
    low, high = best_range(counts, edges)
    error = rounding_error(numbers, low, high)
    ends = numbers.min(), numbers.max()
    for a in (0.1, 0.3, 0.6, 1.0):
        for b in (0.1, 0.3, 0.6, 1.0):
            assert error <= 1.02 * rounding_error(numbers, a * ends[0], b * ends[1])
    clipped = high - low < 0.9 * (ends[1] - ends[0])
    assert clipped == (tails == "heavy")


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "deberta-v2"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_smoothing_changes_weights_and_no_answer(family, alpha):
    model = tiny_teacher(family)
    with torch.no_grad():
        for layer in range(4):
            model.roles.part(layer, "value").bias.normal_()
    rows = tiny_rows(model, 12)
    batch = inputs_of(some_batch(rows))
    smooth = copy.deepcopy(model)
    smooth_values(smooth, rows, alpha)
    before, after = weights(model), weights(smooth)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == 4 * 3  # values and their biases, and the projections
    with torch.no_grad():
        assert_close(smooth(**batch).logits, model(**batch).logits, atol=1e-5, rtol=0)
    if alpha == 1.0:  # all unevenness is in the weights: every channel enters alike
        largest = []
        part = smooth.roles.part(0, "attention_output")
        handle = part.register_forward_pre_hook(lambda m, a: largest.append(a[0].abs()))
        for row in range(len(rows)):
            one = rows.collate(np.array([row]))
            with torch.no_grad():
                smooth(**{k: one[k] for k in MODEL_INPUTS if k in one})
        handle.remove()
        tops = torch.stack([one.flatten(0, -2).amax(dim=0) for one in largest]).amax(dim=0)
        assert_close(tops, torch.ones_like(tops), atol=1e-3, rtol=0)


def test_smoothing_lowers_the_error_of_a_channel_that_stands_out():
    model = trained_teacher()
    with torch.no_grad():  # one channel of the values is 50 times as large, and is read as before
        for layer in range(4):
            model.roles.part(layer, "value").weight[5] *= 50
            model.roles.part(layer, "value").bias[5] *= 50
            model.roles.part(layer, "attention_output").weight[:, 5] /= 50
    rows = tiny_rows(model, 48)
    batch = inputs_of(some_batch(rows, 24))
    errors = []
    for smooth in (None, 0.5):
        config = StaticRangesConfig(by="min-max", smooth=smooth)
        ranged = StaticRanges(config).apply(model, rows)
        with torch.no_grad(), rounding(ranged):
            errors.append((ranged(**batch).logits - model(**batch).logits).abs().mean())
    assert errors[1] < 0.7 * errors[0]


def test_ranges_are_saved_and_no_model_is_changed(tmp_path):
    model = trained_teacher()
    rows = tiny_rows(model, 24)
    before = weights(model)
    ranged = StaticRanges().apply(model, rows)
    assert model.ranges is None and all(
        torch.equal(before[name], now) for name, now in weights(model).items()
    )
    ranged.save(tmp_path / "m")
    assert TaskModel.load(tmp_path / "m").ranges == ranged.ranges
    assert StaticRanges().apply(model, rows).ranges == ranged.ranges


def test_a_model_that_leaves_tokens_out_has_the_ranges_of_all_tokens():
    model = trained_teacher()
    rows = tiny_rows(model, 24)
    whole = StaticRanges().apply(model, rows).ranges
    model.token_drop = TokenDrop(layer=1, share=0.3, least=1)
    ranged = StaticRanges().apply(model, rows)
    assert ranged.ranges == whole and ranged.token_drop == model.token_drop


def test_what_it_cannot_do_is_refused_with_the_reason():
    model = tiny_teacher()
    rows = tiny_rows(model, 4)
    with pytest.raises(UsageError, match="quantize"):
        StaticRanges().apply(simulate_int8(model), rows)
    with pytest.raises(UsageError, match="there are none"):
        StaticRanges().apply(model, rows.select([]))
    albert = tiny_teacher("albert")
    with pytest.raises(UnsupportedFamilyError, match="ranges of its own"):
        StaticRanges().apply(albert, tiny_rows(albert, 4))
    for wrong in ({"percentile": 50.0}, {"rows": 0}, {"smooth": 1.5}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            StaticRangesConfig(**wrong)
