"""Choosing, calibrating and bagging classic models; the result is a model like any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.errors import ConfigError, DataError, UnknownChoiceError
from bertwright.features.classic import fit_classic, fit_temperature, fold_places
from bertwright.features.frozen import with_reads
from bertwright.features.learners import LEARNERS
from bertwright.models.build import build_task_model
from bertwright.models.heads import BagHead
from bertwright.models.outputs import Outputs
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.tasks import find_task
from bertwright.training.evaluation import compute_logits, evaluate_model
from tiny import tiny_encoder

OTHERS = "the a an is was are movie book food time place day man woman dog".split()


def rows(task, count=60, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        words = [*rng.choice(OTHERS, size=rng.integers(1, 4)), ("cat", "car", "red")[number % 3]]
        label = "abc"[number % 3] if task == "classify" else float(10 + 5 * (number % 3))
        made.append({"text": " ".join(rng.permutation(words)), "label": label})
    return made


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BERTWRIGHT_CACHE", str(tmp_path / "cache"))


def setup(name="classify", pooling="mean", count=60, seed=0):
    task = find_task(name)
    loaded = load_rows(rows(name, count, seed), schema=task.schema)
    encoder, tokenizer = tiny_encoder("bert")
    labels = [] if loaded.labels is None else list(loaded.labels.names)
    model = build_task_model(
        encoder,
        task=task.spec,
        labels=labels,
        tokenizer=tokenizer,
        config=ModelConfig(pooling=pooling),
        max_length=16,
        outputs=task.outputs(labels),
    )
    encoded = tokenise(loaded, tokenizer, encoder=task.encoder, max_length=16)
    task.prepare(model, encoded)
    return model, with_reads([model], encoded)[0], encoded, task


@pytest.mark.parametrize("learner", list(LEARNERS))
@pytest.mark.parametrize("bags", [1, 3])
def test_a_model_with_a_classic_head_is_saved_loaded_and_judged_like_any(learner, bags, tmp_path):
    model, read, encoded, task = setup()
    fit = fit_classic(model, read, task, learners=[learner], bags=bags)
    assert fit.chosen.learner == learner and len(fit.trials) == len(LEARNERS[learner].grid)
    assert fit.chosen.score == max(trial.score for trial in fit.trials) > 0.6
    assert isinstance(model.head, BagHead) == (bags > 1)
    assert model.config.head == LEARNERS[learner].head and model.config.head_bags == bags
    logits = compute_logits(model.eval(), encoded, precision="fp32")
    np.testing.assert_allclose(compute_logits(model, read, precision="fp32"), logits, atol=1e-3)
    model.save(tmp_path / "m")
    loaded = TaskModel.load(tmp_path / "m")
    assert np.array_equal(compute_logits(loaded, encoded, precision="fp32"), logits)
    assert evaluate_model(loaded, encoded, task, precision="fp32")[0]["accuracy"] > 0.8


@pytest.mark.parametrize("learner", ["ridge", "svm", "nearest", "boosting"])
def test_numbers_come_out_in_their_own_units(learner):
    model, read, encoded, task = setup("regress")
    fit = fit_classic(model, read, task, learners=[learner], bags=2)
    assert fit.temperature is None
    metrics, outputs = evaluate_model(model.eval(), encoded, task, precision="fp32")
    assert metrics["pearson"] > 0.7 and 8 < outputs.mean() < 22


def test_the_best_of_all_is_chosen_and_the_same_again():
    found = []
    for _ in range(2):
        model, read, _, task = setup()
        fit = fit_classic(model, read, task)
        assert {trial.learner for trial in fit.trials} == set(LEARNERS)
        assert fit.chosen.score == max(trial.score for trial in fit.trials)
        found.append((fit.chosen.learner, compute_logits(model.eval(), read, precision="fp32")))
    assert found[0][0] == found[1][0] and np.array_equal(found[0][1], found[1][1])


def test_scores_are_of_rows_that_were_not_fitted():
    """Labels that say nothing: one neighbour knows every training row, and no other."""
    model, read, _, task = setup(count=90)
    rng = np.random.default_rng(3)
    ids = read.label_ids
    shuffled = {"labels": rng.permutation(ids)}
    read._numbers.update(shuffled)
    fit = fit_classic(model, read, task, learners=["nearest"])
    assert fit.trials[0].setting == {"k": 1} and fit.trials[0].score < 0.6


def test_calibrated_logits_have_a_smaller_loss_and_the_same_answers():
    model, read, _, task = setup()
    fit = fit_classic(model, read, task, learners=["ridge"])
    assert fit.loss_after <= fit.loss_before and fit.temperature < 1
    shares = torch.from_numpy(compute_logits(model.eval(), read)).softmax(dim=1)
    assert shares.max(dim=1).values.mean() > 0.5, "ridge alone gives scores near a third"


def test_a_temperature_that_was_planted_is_found():
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(20000, 4)).astype(np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = np.array([rng.choice(4, p=share / share.sum()) for share in shares.astype(np.float64)])
    temperature, before, after = fit_temperature(3 * logits, y)
    assert temperature == pytest.approx(3, rel=0.05) and after < before


def test_folds_hold_each_row_once_and_each_class_evenly():
    y = np.repeat(np.arange(3), [50, 25, 5])
    folds = fold_places(y, Outputs(3), 5, 0)
    assert sorted(np.concatenate(folds)) == list(range(80))
    assert all(np.bincount(y[fold], minlength=3).tolist() == [10, 5, 1] for fold in folds)
    rare = fold_places(np.arange(7), Outputs(7), 5, 0)
    assert sorted(np.concatenate(rare)) == list(range(7))


def test_what_cannot_be_is_refused():
    model, read, _, task = setup(pooling="lstm:4")
    with pytest.raises(ConfigError, match="lstm:4 has to be trained"):
        fit_classic(model, read, task)
    model, read, _, task = setup("regress")
    with pytest.raises(ConfigError, match="--learner: none of logistic"):
        fit_classic(model, read, task, learners=["logistic"])
    with pytest.raises(UnknownChoiceError, match="forest"):
        fit_classic(model, read, task, learners=["forest"])
    model, read, _, task = setup(count=4)
    with pytest.raises(DataError, match="5 folds"):
        fit_classic(model, read, task)
