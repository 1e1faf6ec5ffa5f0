"""Heads against scikit-learn, what they read, and the promise on rows of a trained model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F  # noqa: N812

from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.errors import ConfigError, UnsupportedFamilyError, UsageError
from bertwright.methods.exit.early_exit import (
    EarlyExit,
    EarlyExitConfig,
    answer_rows,
    calibrate_exits,
    exit_layers,
    fit_exits,
)
from bertwright.methods.exit.heads import exit_readings, fit_soft_head
from bertwright.methods.quantize.int8 import simulate_int8
from bertwright.models.agreement import agreement_bound
from bertwright.models.exits import Exits
from bertwright.training.evaluation import compute_logits
from engines_models import make_model, make_texts
from methods.cases import same_weights, tiny_rows, tiny_teacher, trained_teacher, weights

FEW = EarlyExitConfig(agreement=0.9, confidence=0.9)


def soft_rows(count=40, width=6, classes=3):
    random = torch.Generator().manual_seed(5)
    readings = torch.randn(count, width, generator=random, dtype=torch.float64) * 3 + 2
    targets = torch.randn(count, classes, generator=random, dtype=torch.float64).softmax(1)
    return readings, targets


@pytest.mark.parametrize("penalty", [1.0, 20.0])
def test_a_head_is_scikit_learns_on_every_row_with_every_label(penalty):
    """Soft targets are rows that come once with each label, weighted."""
    readings, targets = soft_rows()
    weight, bias = fit_soft_head(readings, targets, penalty=penalty, iterations=300)
    centre = readings.mean(0)
    spread = (readings - centre).square().mean().sqrt()
    theirs = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=5000)
    theirs.fit(
        ((readings - centre) / spread).repeat_interleave(3, dim=0).numpy(),
        np.tile(np.arange(3), 40),
        sample_weight=targets.flatten().numpy(),
    )
    expected = theirs.predict_proba(((readings - centre) / spread).numpy())
    ours = F.linear(readings, weight, bias).softmax(1).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert np.isfinite(ours).all() and ours.std() > 0.01
    other, _ = fit_soft_head(readings, targets, penalty=penalty * 2, iterations=300)
    assert not torch.allclose(other, weight, rtol=1e-3)


def test_a_feature_that_never_changes_is_harmless():
    readings, targets = soft_rows()
    readings[:, 2] = 7.0
    weight, bias = fit_soft_head(readings, targets)
    assert weight.isfinite().all() and bias.isfinite().all() and (weight[:, 2] == 0).all()


def test_a_feature_that_hardly_changes_gets_no_weight_of_thousands():
    readings, targets = soft_rows()
    faint = readings.clone()
    faint[:, 2] = 7.0 + 1e-5 * readings[:, 2]
    weight, _ = fit_soft_head(faint, targets)
    assert 0 < weight[:, 2].abs().max() < weight.abs().max() < 100


def test_readings_are_those_of_each_row_in_their_order():
    model = tiny_teacher()
    rows = tiny_rows(model, 9)
    readings, logits = exit_readings(model, rows, (1, 3))
    assert readings.shape == (2, 9, 64) and logits.shape == (9, 3)
    for row in range(9):
        batch = rows.collate(np.array([row]))
        ids, length = batch["input_ids"], int(rows.lengths[row])
        with torch.no_grad():
            states = model.encoder(ids[:, :length], output_hidden_states=True).hidden_states
        for place, layer in enumerate((1, 3)):
            state = states[layer][0]
            expected = torch.cat([state[0], state.sum(0) / length])
            torch.testing.assert_close(readings[place, row], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        logits, torch.from_numpy(compute_logits(model, rows, precision="fp32"))
    )


def unlabelled(model, count, seed):
    rows = load_rows([{"text": text} for text in make_texts(count, seed)], need_label=False)
    return tokenise(rows, model.tokenizer, max_length=32)


@pytest.mark.parametrize("measure", ["probability", "entropy"])
def test_what_is_promised_is_what_the_running_model_does(measure):
    model = make_model()
    rows, others = unlabelled(model, 300, 0), unlabelled(model, 200, 1)
    before = weights(model)
    config = EarlyExitConfig(agreement=0.9, confidence=0.9, measure=measure)
    early, found = EarlyExit(config).apply(model, rows, others)
    assert model.exits is None and same_weights(weights(model), before)
    assert early.exits is not None and early.exits.layers == (1, 2, 3)
    assert early.exits.threshold == found.threshold and found.threshold is not None
    logits, layers = answer_rows(early, others)
    whole = compute_logits(model, others, precision="fp32")
    assert (logits.argmax(1) == whole.argmax(1)).sum() == found.num_agreeing < 200
    assert layers.mean() == found.average_layers and set(layers) == {1, 2, 3, 4}
    assert agreement_bound(found.num_agreeing, 200, 0.9) == found.bound >= 0.9
    unseen = unlabelled(model, 400, 2)
    answers, _ = answer_rows(early, unseen)
    same = answers.argmax(1) == compute_logits(model, unseen, precision="fp32").argmax(1)
    assert 0.88 < same.mean() < 1
    early.exits.threshold = 0.0
    greedy, layers = answer_rows(early, unseen)
    assert (layers == 1).all()
    assert (greedy.argmax(1) == answers.argmax(1)).mean() < 0.97


def test_heads_learn_and_need_no_labels():
    model = trained_teacher()
    rows, others = tiny_rows(model, 96), tiny_rows(model, 80, seed=1)
    exits = fit_exits(model, rows, FEW)
    bare = fit_exits(model, rows.without_targets(), FEW)
    assert torch.equal(exits.weight, bare.weight) and torch.equal(exits.bias, bare.bias)
    assert exits.threshold is None
    readings, logits = exit_readings(model, others, exits.layers)
    answers = logits.argmax(1)
    assert len(answers.unique()) == 3
    for layer, read in zip(exits.layers, readings, strict=True):
        learned = (exits.logits(layer, read).argmax(1) == answers).float().mean()
        mixed = (exits.logits(layer, read.flip(0)).argmax(1) == answers).float().mean()
        assert learned > 0.75 > mixed


def test_a_stronger_promise_lets_fewer_leave():
    model = trained_teacher()
    exits = fit_exits(model, tiny_rows(model, 96), FEW)
    others = tiny_rows(model, 80, seed=1)
    assert (exits.agreement, exits.confidence) == (FEW.agreement, FEW.confidence)
    found = []
    for exits.agreement, exits.confidence in ((0.8, 0.8), (0.96, 0.9), (0.99, 0.95)):
        found.append(calibrate_exits(model, exits, others))
    weak, strong, never = found
    assert weak.threshold is not None and strong.threshold is not None
    assert weak.threshold <= strong.threshold and weak.average_layers <= strong.average_layers
    assert never.threshold is None and never.average_layers == 4


def test_of_many_rows_some_are_drawn():
    model = trained_teacher()
    rows = tiny_rows(model, 96)

    def learned(**options):
        return fit_exits(model, rows, EarlyExitConfig(layers=(2,), **options)).weight

    drawn = learned(most_rows=30)
    assert torch.equal(learned(most_rows=30), drawn) and torch.equal(learned(), learned())
    assert not torch.equal(learned(), drawn)
    assert not torch.equal(learned(most_rows=30, seed=1), drawn)


def test_which_layers():
    assert exit_layers((), 4) == (1, 2, 3) and exit_layers((1, 3), 4) == (1, 3)
    for wrong in ((0, 1), (4,), (2, 1), (1, 1)):
        with pytest.raises(ConfigError, match="increasing numbers of layers"):
            exit_layers(wrong, 4)
    with pytest.raises(ConfigError, match="one layer"):
        exit_layers((), 1)


@pytest.mark.parametrize(
    "options",
    [
        {"agreement": 1.0},
        {"agreement": 0.4},
        {"confidence": 1.0},
        {"penalty": -1.0},
        {"iterations": 0},
        {"most_rows": 0},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options)).replace("_", "-")):
        EarlyExitConfig(**options)


def test_what_cannot_have_exits_is_refused():
    model = tiny_teacher()
    rows, others = tiny_rows(model), tiny_rows(model, seed=1)
    with pytest.raises(UsageError, match="those that the heads learn from"):
        EarlyExit().apply(model, rows, tiny_rows(model))
    with pytest.raises(UsageError, match="no rows"):
        EarlyExit().apply(model, rows, others.select([]))
    with pytest.raises(UsageError, match="quantize last"):
        EarlyExit().apply(simulate_int8(model), rows, others)
    with pytest.raises(UnsupportedFamilyError, match="albert"):
        EarlyExit().check(tiny_teacher("albert"))
    model.task = "multilabel:thresholds=each"
    with pytest.raises(UsageError, match="for the task classify, and this model is for multilabel"):
        EarlyExit().check(model)


def test_a_new_set_of_exits_takes_the_place_of_the_old():
    model = trained_teacher()
    rows, others = tiny_rows(model, 96), tiny_rows(model, 80, seed=1)
    model.exits = Exits((3,), torch.zeros(1, 3, 64), torch.zeros(1, 3), threshold=0.0)
    early, _ = EarlyExit(FEW).apply(model, rows, others)
    assert early.exits is not None and early.exits.layers == (1, 2, 3)
    assert model.exits.layers == (3,)
