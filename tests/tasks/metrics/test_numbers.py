"""Referees: scipy's correlations, scikit-learn's errors, and numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from bertwright.tasks.metrics.numbers import number_metrics, number_statistics


@st.composite
def number_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw related or unrelated numbers, with many ties or none, far from zero or around it."""
    size = draw(st.integers(1, 40))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    gold = generator.normal(size=size)
    predicted = draw(st.sampled_from([-2.0, 0.0, 1.0])) * gold + generator.normal(size=size)
    if draw(st.booleans()):
        predicted, gold = predicted.round(), gold.round()
    scale, offset = draw(st.sampled_from([(1.0, 0.0), (1e-12, 0.0), (1e12, 0.0), (1.0, 1e4)]))
    return scale * predicted + offset, scale * gold - offset


def referee(predicted: np.ndarray, gold: np.ndarray) -> dict[str, float]:
    defined = len(set(predicted)) > 1 and len(set(gold)) > 1
    return {
        "rmse": root_mean_squared_error(gold, predicted),
        "mae": mean_absolute_error(gold, predicted),
        "pearson": pearsonr(predicted, gold).statistic if defined else 0.0,
        "spearman": spearmanr(predicted, gold).statistic if defined else 0.0,
    }


def same(found: dict[str, float], wanted: dict[str, float]) -> None:
    assert all(type(value) is float for value in found.values())
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@given(number_pairs())
@settings(max_examples=200, deadline=None)
def test_agrees_with_scipy_and_sklearn(pair: tuple[np.ndarray, np.ndarray]) -> None:
    found = number_metrics(number_statistics(*pair))
    same(found, referee(*pair))
    assert -1 <= found["pearson"] <= 1 and -1 <= found["spearman"] <= 1


@given(number_pairs(), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_drawn_rows_score_as_if_judged_anew(pair: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    predicted, gold = pair
    rows = np.random.default_rng(seed).integers(0, len(gold), size=len(gold) + 3)
    drawn = number_metrics(number_statistics(predicted, gold)[rows])
    assert drawn == number_metrics(number_statistics(predicted[rows], gold[rows]))


def test_by_hand() -> None:
    statistics = number_statistics(np.array([1, 2, 2, 7]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert statistics.dtype == np.float64 and statistics.shape == (4, 2)
    # errors 0, 0, -1, 3; deviations of predictions (-2, -1, -1, 4), of gold (-1.5, -.5, .5, 1.5)
    # ranks of predictions (0, 1.5, 1.5, 3): deviations (-1.5, 0, 0, 1.5)
    assert number_metrics(statistics) == pytest.approx(
        {
            "rmse": math.sqrt(10 / 4),
            "mae": 1.0,
            "pearson": 9 / math.sqrt(22 * 5),
            "spearman": 4.5 / math.sqrt(4.5 * 5),
        }
    )


def test_ranks_see_only_order() -> None:
    gold = np.random.default_rng(0).normal(size=30)
    found = number_metrics(number_statistics(np.exp(3 * gold), gold))
    assert found["spearman"] == pytest.approx(1.0)
    assert found["pearson"] < 0.9
    assert number_metrics(number_statistics(-np.exp(3 * gold), gold))["spearman"] < -0.999999


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_a_correlation_with_equal_numbers_is_zero_not_noise(size: int) -> None:
    """0.1 has no exact mean in floats: its deviations must not pass for a signal."""
    alike = np.full(size, 0.1)
    others = np.arange(size) / 3
    for predicted, gold in ((alike, others), (others, alike), (alike, alike)):
        found = number_metrics(number_statistics(predicted, gold))
        assert found["pearson"] == found["spearman"] == 0.0
        assert found["rmse"] >= found["mae"] >= 0 or found["rmse"] == pytest.approx(found["mae"])


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e149])
def test_extreme_numbers_overflow_nothing(scale: float) -> None:
    predicted, gold = np.array([1.0, 2.0, 3.0]) * scale, np.array([1.0, 2.0, 4.0]) * scale
    found = number_metrics(number_statistics(predicted, gold))
    assert found["pearson"] == pytest.approx(3 / math.sqrt(2 * 42 / 9))
    assert all(math.isfinite(value) for value in found.values())


def test_a_wrong_definition_is_noticed() -> None:
    predicted, gold = np.array([1.0, 1.0, 2.0, 2.0, 5.0]), np.array([3.0, 1.0, 2.0, 4.0, 5.0])
    found = number_metrics(number_statistics(predicted, gold))
    same(found, referee(predicted, gold))
    as_they_come = np.argsort(np.argsort(predicted, kind="stable")), np.argsort(np.argsort(gold))
    with pytest.raises(AssertionError):
        wrong = found | {"spearman": float(np.corrcoef(*as_they_come)[0, 1])}
        same(wrong, referee(predicted, gold))


def test_useless_input_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        number_statistics(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="twice"):
        number_statistics(np.zeros((3, 1)), np.zeros((3, 1)))
    for broken in (math.nan, math.inf, -math.inf, 1e200):
        with pytest.raises(ValueError, match="1 rows hold .* first is row 2"):
            number_statistics(np.array([0, 1, broken]), np.zeros(3))
    with pytest.raises(ValueError, match="no rows"):
        number_metrics(np.zeros((0, 2)))
