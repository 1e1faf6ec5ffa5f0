"""Referee: scikit-learn. Plus numbers worked out by hand, and what has no natural answer."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from bertwright.tasks.metrics.classes import (
    class_metrics,
    class_statistics,
    multilabel_metrics,
    multilabel_statistics,
)


@st.composite
def label_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    ids = st.integers(0, draw(st.sampled_from([0, 1, 2, 5, 40])))
    pairs = draw(st.lists(st.tuples(ids, ids), min_size=1, max_size=40))
    predicted, gold = np.array(pairs, dtype=np.int64).T
    return predicted, gold


@st.composite
def indicator_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.integers(1, 20)), draw(st.integers(2, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    predicted, gold = (generator.random((2, *shape)) < share).astype(np.int64)
    return predicted, gold


def referee_classes(predicted: np.ndarray, gold: np.ndarray) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "accuracy": accuracy_score(gold, predicted),
            "macro_f1": f1_score(gold, predicted, average="macro", zero_division=0),
            "mcc": matthews_corrcoef(gold, predicted),
        }


def referee_multilabel(predicted: np.ndarray, gold: np.ndarray) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "micro_f1": f1_score(gold, predicted, average="micro", zero_division=0),
            "macro_f1": f1_score(gold, predicted, average="macro", zero_division=0),
            "subset_accuracy": accuracy_score(gold, predicted),
        }


def same(found: dict[str, float], wanted: dict[str, float]) -> None:
    assert all(type(value) is float for value in found.values())
    assert found == pytest.approx(wanted, abs=1e-12)


@given(label_pairs())
@settings(max_examples=150, deadline=None)
def test_single_label_agrees_with_sklearn(pair: tuple[np.ndarray, np.ndarray]) -> None:
    same(class_metrics(class_statistics(*pair)), referee_classes(*pair))


@given(indicator_pairs())
@settings(max_examples=100, deadline=None)
def test_multilabel_agrees_with_sklearn(pair: tuple[np.ndarray, np.ndarray]) -> None:
    same(multilabel_metrics(multilabel_statistics(*pair)), referee_multilabel(*pair))


@given(label_pairs(), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_drawn_rows_score_as_if_judged_anew(pair: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    predicted, gold = pair
    rows = np.random.default_rng(seed).integers(0, len(gold), size=len(gold) + 3)
    drawn = class_metrics(class_statistics(predicted, gold)[rows])
    assert drawn == class_metrics(class_statistics(predicted[rows], gold[rows]))


@given(indicator_pairs(), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_drawn_multilabel_rows_score_as_if_judged_anew(
    pair: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    predicted, gold = pair
    rows = np.random.default_rng(seed).integers(0, len(gold), size=len(gold) + 3)
    drawn = multilabel_metrics(multilabel_statistics(predicted, gold)[rows])
    assert drawn == multilabel_metrics(multilabel_statistics(predicted[rows], gold[rows]))


def test_single_label_by_hand() -> None:
    # class 0: right 2, predicted 3, gold 2 (F1 4/5); class 1: 1, 1, 2 (2/3); class 2 never occurs
    # Gorodkin: right 3 of 4, predicted (3, 1), gold (2, 2): (12 - 8) / sqrt((16 - 10) (16 - 8))
    statistics = class_statistics(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
    assert statistics.dtype == np.float64 and statistics.shape == (4, 2)
    assert statistics[2].tolist() == [0, 1]
    found = class_metrics(statistics)
    assert found == pytest.approx(
        {"accuracy": 3 / 4, "macro_f1": (4 / 5 + 2 / 3) / 2, "mcc": 4 / math.sqrt(48)}
    )


def test_a_class_only_ever_predicted_wrongly_counts_in_the_mean() -> None:
    found = class_metrics(class_statistics(np.array([0, 2]), np.array([0, 0])))
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_multilabel_by_hand() -> None:
    predicted = np.array([[1, 1, 0], [0, 1, 0]])
    gold = np.array([[1, 0, 0], [0, 1, 0]])
    statistics = multilabel_statistics(predicted.astype(bool), gold)
    assert statistics.dtype == np.float64
    assert statistics[0].tolist() == [1, 1, 0, 1, 0, 0]
    # class 0: F1 1; class 1: right 1, predicted 2, gold 1: 2/3; class 2: nowhere, counts 0
    assert multilabel_metrics(statistics) == pytest.approx(
        {"micro_f1": 4 / 5, "macro_f1": (1 + 2 / 3 + 0) / 3, "subset_accuracy": 1 / 2}
    )


@pytest.mark.parametrize("predicted", [[1, 1, 1], [0, 1, 0]])
def test_matthews_of_anything_constant_is_zero(predicted: list[int]) -> None:
    constant = np.array([1, 1, 1])
    assert class_metrics(class_statistics(np.array(predicted), constant))["mcc"] == 0.0
    assert class_metrics(class_statistics(constant, np.array(predicted)))["mcc"] == 0.0


def test_one_row_and_no_label() -> None:
    one = class_metrics(class_statistics(np.array([3]), np.array([3])))
    assert one == {"accuracy": 1.0, "macro_f1": 1.0, "mcc": 0.0}
    nothing = np.zeros((1, 3))
    assert multilabel_metrics(multilabel_statistics(nothing, nothing)) == {
        "micro_f1": 0.0,
        "macro_f1": 0.0,
        "subset_accuracy": 1.0,
    }


def test_a_perfect_score_is_exactly_one() -> None:
    labels = np.random.default_rng(0).integers(0, 7, 100_003)
    assert set(class_metrics(class_statistics(labels, labels)).values()) == {1.0}


def test_a_wrong_definition_is_noticed() -> None:
    predicted, gold = np.array([0, 0, 0, 4]), np.array([0, 0, 4, 4])
    found = class_metrics(class_statistics(predicted, gold))
    same(found, referee_classes(predicted, gold))
    over_all_ids = found["macro_f1"] * 2 / 5
    with pytest.raises(AssertionError):
        same(found | {"macro_f1": over_all_ids}, referee_classes(predicted, gold))


def test_useless_input_is_refused() -> None:
    with pytest.raises(ValueError, match="2 predictions for 3 labels"):
        class_statistics(np.array([0, 1]), np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="ints from 0"):
        class_statistics(np.array([0, 1]), np.array([0, -100]))
    with pytest.raises(ValueError, match="ints from 0"):
        class_statistics(np.array([0.5, 1]), np.array([0, 1]))
    with pytest.raises(ValueError, match="one id a row"):
        class_statistics(np.zeros((2, 2), dtype=int), np.array([0, 1]))
    with pytest.raises(ValueError, match="no rows"):
        class_metrics(class_statistics(np.array([]), np.array([])))
    with pytest.raises(ValueError, match="twice"):
        multilabel_statistics(np.zeros((2, 3)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="0 or 1"):
        multilabel_statistics(np.full((2, 3), 0.7), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="no rows"):
        multilabel_metrics(np.zeros((0, 6)))
