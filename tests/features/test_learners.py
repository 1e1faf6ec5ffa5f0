"""Classic models as heads, against scikit-learn's own predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.svm import LinearSVC, LinearSVR

from bertwright.card import MethodCard
from bertwright.features.classic import run_head
from bertwright.features.learners import LEARNERS, fit_softmax
from bertwright.models.outputs import Outputs

NUMBERS = Outputs(1, kind="numbers", scaled=True)


def data(count=240, width=6, classes=3, seed=0):
    """Vectors of very different scales, one coordinate dead, and classes that they tell."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % classes
    x = rng.normal(size=(count, width)) + 1.2 * rng.normal(size=(classes, width))[y]
    x = x * np.array([1, 100, 0.01, 1, 5, 1])[:width] + 3
    return np.concatenate([x, np.full((count, 1), 1e-32)], axis=1).astype(np.float32), y


def scaled(x):
    spread = x.std(axis=0, dtype=np.float64)
    spread[-1] = 1.0
    return (x - x.mean(axis=0, dtype=np.float64)) / spread


def fitted(name, x, y, outputs, setting):
    return run_head(LEARNERS[name]().fit(x, y, outputs, setting, 0), x)


def test_every_learner_has_a_card():
    for name, kind in LEARNERS.items():
        assert isinstance(kind.card, MethodCard) and kind.card.name == name
        assert kind.card.kind == "frozen" and kind.grid


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_is_scikit_learns(classes):
    x, y = data(classes=classes)
    referee = LogisticRegression(C=0.3, tol=1e-10, max_iter=10000).fit(scaled(x), y)
    logits = torch.from_numpy(fitted("logistic", x, y, Outputs(classes), {"C": 0.3}))
    shares = logits.double().softmax(dim=1).numpy()
    np.testing.assert_allclose(shares, referee.predict_proba(scaled(x)), atol=2e-3)


def test_softmax_finds_the_least_of_its_objective():
    x, y = data()
    x = scaled(x).astype(np.float32)
    weight, bias = fit_softmax(x, y, 3, 0.1)
    referee = LogisticRegression(C=0.1, tol=1e-10, max_iter=10000).fit(x.astype(np.float64), y)

    def objective(w, b):
        logits = torch.from_numpy(x.astype(np.float64) @ w.T + b)
        losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y), reduction="sum")
        return 0.1 * float(losses) + 0.5 * float((w**2).sum())

    least = objective(referee.coef_, referee.intercept_)
    assert objective(weight, bias) == pytest.approx(least, rel=1e-5)
    assert objective(0 * weight, bias) > 1.2 * least


@pytest.mark.parametrize(
    ("name", "setting", "referee"),
    [
        ("svm", {"C": 0.03}, LinearSVC(C=0.03, dual=False, random_state=0)),
        ("ridge", {"alpha": 10.0}, RidgeClassifier(alpha=10.0)),
    ],
)
@pytest.mark.parametrize("classes", [2, 3])
def test_linear_classifiers_say_what_scikit_learns_say(name, setting, referee, classes):
    x, y = data(classes=classes)
    decision = referee.fit(scaled(x), y).decision_function(scaled(x))
    found = fitted(name, x, y, Outputs(classes), setting)
    if classes == 2:
        found = found[:, 1] - found[:, 0]
    np.testing.assert_allclose(found, decision, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "setting", "referee"),
    [
        ("ridge", {"alpha": 10.0}, Ridge(alpha=10.0)),
        (
            "svm",
            {"C": 0.03},
            LinearSVR(C=0.03, loss="squared_epsilon_insensitive", dual=False, random_state=0),
        ),
    ],
)
def test_linear_numbers_are_scikit_learns(name, setting, referee):
    x, y = data()
    target = y + 0.1 * np.random.default_rng(1).normal(size=len(y))
    expected = referee.fit(scaled(x), target).predict(scaled(x))
    found = fitted(name, x, target, NUMBERS, setting)[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("k", [1, 4])
def test_neighbours_are_scikit_learns(k):
    x, y = data()
    asked = data(seed=0, count=300)[0][240:]
    head = LEARNERS["nearest"]().fit(x, y, Outputs(3), {"k": k}, 0)
    votes = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(x, y)
    shares = np.exp(run_head(head, asked))
    expected = (votes.predict_proba(asked) * k + 1 / 3) / (k + 1)
    np.testing.assert_allclose(shares, expected, atol=1e-5)
    numbers = LEARNERS["nearest"]().fit(x, y.astype(float), NUMBERS, {"k": k}, 0)
    mean = KNeighborsRegressor(k, metric="cosine", algorithm="brute").fit(x, y)
    np.testing.assert_allclose(run_head(numbers, asked)[:, 0], mean.predict(asked), atol=1e-5)


def boosted(kind):
    return kind(n_estimators=100, max_depth=3, subsample=0.5, max_features="sqrt", random_state=0)


@pytest.mark.parametrize("classes", [2, 3])
def test_boosted_trees_are_scikit_learns(classes):
    x, y = data(classes=classes)
    expected = boosted(GradientBoostingClassifier).fit(x, y).predict_proba(x)
    logits = fitted("boosting", x, y, Outputs(classes), {"rounds": 100})
    shares = torch.from_numpy(logits).double().softmax(dim=1).numpy()
    np.testing.assert_allclose(shares, expected, atol=1e-4)


def test_boosted_numbers_are_scikit_learns():
    x, y = data()
    expected = boosted(GradientBoostingRegressor).fit(x, y).predict(x)
    found = fitted("boosting", x, y.astype(float), NUMBERS, {"rounds": 100})
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-4)


@pytest.mark.parametrize("name", list(LEARNERS))
def test_a_class_without_rows_is_never_chosen(name):
    x, y = data()
    y = np.where(y == 2, 4, y)
    logits = fitted(name, x, y, Outputs(6), LEARNERS[name].grid[0])
    assert logits.shape == (240, 6) and np.isfinite(logits).all()
    assert set(logits.argmax(axis=1)) <= {0, 1, 4}
    assert (logits.argmax(axis=1) == y).mean() > 0.6


@pytest.mark.parametrize("name", list(LEARNERS))
def test_rows_of_one_class_alone_are_defined(name):
    x, y = data()
    logits = fitted(name, x, np.ones_like(y), Outputs(3), LEARNERS[name].grid[0])
    assert np.isfinite(logits).all() and (logits.argmax(axis=1) == 1).all()


def test_what_would_take_hours_is_not_tried():
    assert not LEARNERS["svm"]().affordable(15000, 384, Outputs(150))
    assert not LEARNERS["boosting"]().affordable(15000, 384, Outputs(150))
    assert not LEARNERS["boosting"]().affordable(100, 384, Outputs(150))
    assert LEARNERS["boosting"]().affordable(5000, 384, Outputs(2))
    assert LEARNERS["ridge"]().affordable(15000, 384, Outputs(150))
    assert not LEARNERS["logistic"]().affordable(100, 8, NUMBERS)
