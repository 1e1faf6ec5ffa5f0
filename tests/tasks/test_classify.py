from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bertwright.errors import UnknownChoiceError
from bertwright.tasks import find_task
from bertwright.tasks.classify import largest

NO_INPUTS: Any = None
TASK = find_task("classify")


def loss_of(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return TASK.per_example_loss(logits, batch, nn.Identity())


def score(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return TASK.metrics(TASK.judge(logits, encoded_with(labels), {}))


def encoded_with(labels: np.ndarray) -> Any:
    """Return what `judge` looks at of encoded rows."""
    return SimpleNamespace(label_ids=np.asarray(labels))


def one_hot_logits(predicted: list[int], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[predicted]


def test_loss_is_the_cross_entropy_of_each_row_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0)], [2.0, 2.0]])
    batch = {"labels": torch.tensor([1, 0])}
    expected = torch.tensor([-math.log(3 / 4), math.log(2)])
    loss = loss_of(logits, batch)
    assert loss.shape == (2,)
    torch.testing.assert_close(loss, expected)
    wrong = loss_of(logits, {"labels": torch.tensor([0, 0])})
    assert not torch.allclose(wrong, expected)


def test_loss_of_bf16_logits_is_fp32():
    logits = torch.randn(4, 3, dtype=torch.bfloat16)
    labels = torch.tensor([0, 1, 2, 0])
    loss = loss_of(logits, {"labels": labels})
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_of(logits.float(), {"labels": labels}))


def test_loss_gradient_is_softmax_minus_one_hot():
    logits = torch.randn(3, 4, requires_grad=True)
    labels = torch.tensor([0, 3, 1])
    loss_of(logits, {"labels": labels}).sum().backward()
    expected = logits.softmax(-1) - torch.nn.functional.one_hot(labels, 4)
    torch.testing.assert_close(logits.grad, expected.detach())


def test_metrics_by_hand():
    # class 0: tp 2 fp 1 fn 0 (F1 4/5); class 1: tp 1 fp 0 fn 1 (2/3); class 2 does not occur.
    labels = np.array([0, 0, 1, 1])
    metrics = score(one_hot_logits([0, 0, 0, 1], 3), labels)
    assert metrics["accuracy"] == 0.75
    assert metrics["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    # Gorodkin: c=3, s=4, p=(3,1), t=(2,2): (12-8)/sqrt((16-10)(16-8))
    assert metrics["mcc"] == pytest.approx(4 / math.sqrt(48))
    assert set(metrics) == set(TASK.metric_names)
    assert TASK.primary in metrics


def test_macro_f1_counts_a_class_that_is_predicted_but_never_right():
    # class 2 is predicted once, wrongly: F1 0 and it takes part in the mean.
    metrics = score(one_hot_logits([0, 2], 4), np.array([0, 0]))
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_metrics_of_constant_predictions_are_finite_and_quiet():
    metrics = score(one_hot_logits([1, 1, 1], 2), np.array([0, 1, 0]))
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["mcc"] == 0.0


def test_metrics_refuse_no_rows_and_judging_other_labels():
    with pytest.raises(ValueError, match="rows"):
        score(np.zeros((0, 2)), np.zeros(0, dtype=np.int64))
    with pytest.raises(ValueError, match="2 rows of logits, 1 labels"):
        TASK.judge(np.zeros((2, 2)), encoded_with([0]), {})


def test_row_scores_average_to_the_accuracy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    scores = TASK.row_scores(TASK.judge(logits, encoded_with(labels), {}))
    assert set(scores) == {0.0, 1.0} and len(scores) == 50
    assert scores.mean() == score(logits, labels)["accuracy"]


def test_decode_gives_label_score_and_the_top_five():
    logits = np.array([[0.0, math.log(2), 0.0, 0.0, 0.0, -9.0, -8.0]], dtype=np.float32)
    (answer,) = TASK.decode(logits, NO_INPUTS, list("abcdefg"), {})
    total = 6 + math.exp(-9) + math.exp(-8)
    assert answer["label"] == "b"
    assert answer["score"] == pytest.approx(2 / total, rel=1e-6)
    assert list(answer["scores"]) == ["b", "a", "c", "d", "e"]
    assert answer["scores"]["a"] == pytest.approx(1 / total, rel=1e-6)
    assert type(answer["score"]) is float


def test_decode_survives_large_logits_and_no_rows():
    (answer,) = TASK.decode(np.array([[1e4, 0.0]], dtype=np.float32), NO_INPUTS, ["x", "y"], {})
    assert answer["score"] == 1.0
    assert TASK.decode(np.zeros((0, 2)), NO_INPUTS, ["x", "y"], {}) == []


def test_unknown_task_names_the_known_ones():
    with pytest.raises(UnknownChoiceError, match="classify"):
        find_task("clasify")


def test_a_single_class_has_no_correlation_and_no_warning():
    logits = np.array([[3.0, 1.0], [2.0, 0.0]])
    assert score(logits, np.array([0, 0])) == {
        "accuracy": 1.0,
        "macro_f1": 1.0,
        "mcc": 0.0,
    }


@pytest.mark.parametrize("num_classes", [1, 3, 5, 40])
def test_the_largest_are_those_of_a_stable_sort(num_classes):
    values = np.random.default_rng(0).integers(0, 7, (200, num_classes)) / 7.0  # many are equal
    before = values.copy()
    expected = np.argsort(-values, axis=1, kind="stable")[:, :5]
    assert (largest(values, 5) == expected).all()
    assert (values == before).all()
