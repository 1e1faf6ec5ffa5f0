"""Classification: one of C labels for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bertwright.data.encode import Inputs, RowEncoder, TextEncoder
from bertwright.data.gather import RowOutputs
from bertwright.data.schema import RowSchema, classes
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import DataError
from bertwright.models.outputs import Outputs
from bertwright.models.task_model import TaskModel
from bertwright.tasks.base import Task
from bertwright.tasks.metrics.classes import class_metrics, class_statistics

__all__ = ["Classify", "class_losses", "judge_classes", "largest", "softmax", "true_labels"]

TOP_SCORES = 5


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities [N,C] (float64) from logits [N,C]; safe for large logits."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    powers = np.exp(shifted)
    return powers / powers.sum(axis=-1, keepdims=True)


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the largest of each row, the first of equal ones first.

    Far less work than sorting rows of many classes.

    Args:
        values: [N,C].
        count: K; all C where there are no more.

    Returns:
        [N,K], in falling order of the values.
    """
    left = values.copy()
    rows = np.arange(len(left))
    places = np.empty((len(left), min(count, left.shape[1])), dtype=np.int64)
    for rank in range(places.shape[1]):
        places[:, rank] = left.argmax(axis=1)
        left[rows, places[:, rank]] = -np.inf
    return places


def class_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy in nats of each row [B], computed in fp32.

    Args:
        logits: [B,C], any float type.
        labels: [B], int64 in 0..C-1.
    """
    return F.cross_entropy(logits.float(), labels, reduction="none")


def judge_classes(logits: np.ndarray, encoded: EncodedRows) -> np.ndarray:
    """Return the id with the largest of the logits [N,C] and the true one of each row, [N,2].

    Raises:
        DataError: the rows have no labels.
    """
    labels = encoded.label_ids
    if labels is None:
        raise DataError("the rows have no labels to judge by")
    if len(labels) != len(logits):
        raise ValueError(f"{len(logits)} rows of logits, {len(labels)} labels")
    return class_statistics(logits.argmax(axis=-1), labels)


def true_labels(encoded: EncodedRows) -> list[str]:
    """Return the name of the label of each row, [N]."""
    assert encoded.labels is not None and encoded.label_ids is not None
    return [encoded.labels.name_of(int(index)) for index in encoded.label_ids]


@dataclass(frozen=True, kw_only=True)
class Classify(Task):
    """Single-label classification with cross-entropy."""

    name: ClassVar[str] = "classify"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "mcc")
    schema: ClassVar[RowSchema] = classes()
    encoder: ClassVar[RowEncoder] = TextEncoder()

    def per_example_loss(
        self, logits: Tensor, batch: Mapping[str, Any], model: TaskModel
    ) -> Tensor:
        """Return the cross-entropy in nats of each row [B]; see `class_losses`."""
        return class_losses(logits, batch["labels"])

    def outputs(self, labels: Sequence[str]) -> Outputs:
        """Return one output a label."""
        return Outputs(len(labels))

    def judge(
        self, logits: RowOutputs, encoded: EncodedRows, decoding: Mapping[str, Any]
    ) -> np.ndarray:
        """Return the predicted and the true id of each row, [N,2]."""
        return judge_classes(logits, encoded)

    def metrics(self, statistics: np.ndarray) -> dict[str, float]:
        """Return accuracy, macro-F1 and Matthews correlation; see `class_metrics`."""
        return class_metrics(statistics)

    def row_scores(self, statistics: np.ndarray) -> np.ndarray:
        """Return 1 for each row that is right and 0 for each that is wrong, [N]."""
        return (statistics[:, 0] == statistics[:, 1]).astype(np.float64)

    def decode(
        self,
        logits: RowOutputs,
        inputs: Inputs,
        labels: Sequence[str],
        decoding: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        """Return `{"label", "score", "scores"}` a row; `scores` has the five most likely labels.

        Args:
            logits: [N,C].
            inputs: not asked.
            labels: the C label names.
            decoding: not asked.
        """
        if len(logits) == 0:
            return []
        probabilities = softmax(logits)
        top = largest(probabilities, TOP_SCORES)
        values = np.take_along_axis(probabilities, top, axis=-1)
        return [
            {
                "label": labels[ids[0]],
                "score": scores[0],
                "scores": {labels[i]: score for i, score in zip(ids, scores, strict=True)},
            }
            for ids, scores in zip(top.tolist(), values.tolist(), strict=True)
        ]

    def label_in(self, answer: Mapping[str, Any]) -> Any:
        """Return the label of an answer."""
        return answer["label"]

    def describe(self, answer: Mapping[str, Any]) -> tuple[str, float | None]:
        """Return the label and its probability."""
        return answer["label"], answer["score"]

    def describe_truth(self, encoded: EncodedRows) -> list[str]:
        """Return the label of each row."""
        return true_labels(encoded)
