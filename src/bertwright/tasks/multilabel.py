"""Several labels a text: a threshold for each label, or one class for each set of labels.

Shapes: N rows, B batch, C labels, P label sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bertwright.data.encode import Inputs, RowEncoder, Target, TextEncoder
from bertwright.data.gather import RowOutputs
from bertwright.data.schema import LABEL, RowSchema, read_label, texts_and
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import DataError, UnknownLabelError
from bertwright.models.outputs import Outputs
from bertwright.models.task_model import TaskModel
from bertwright.tasks.base import Task
from bertwright.tasks.classify import class_losses, judge_classes, softmax, true_labels
from bertwright.tasks.metrics import multilabel_metrics, multilabel_statistics

__all__ = ["Multilabel", "Powerset", "best_thresholds", "read_labels"]

SEPARATORS = ",;|"
JOINT = " + "
"""Stands between the labels of a set in its name."""
PAD = -1


def read_labels(value: object, column: str) -> list[str]:
    """Return the labels of a row, each once, in alphabetical order; there may be none.

    They are a list, or a text in which commas, semicolons or bars separate them. Nothing at all,
    an empty text and an empty list mean that no label applies.

    Raises:
        UnknownLabelError: one can be no label.
    """
    if value is None:
        return []
    if isinstance(value, str):
        for mark in SEPARATORS[1:]:
            value = value.replace(mark, SEPARATORS[0])
        value = [part for part in value.split(SEPARATORS[0]) if part.strip()]
    if not isinstance(value, list):
        raise UnknownLabelError(f"{column} {value!r} is neither a list nor a text of labels")
    return sorted({read_label(item, column) for item in value})


def read_label_set(value: object, column: str) -> str:
    """Return the name of the set of a row's labels: the labels, joined."""
    return JOINT.join(read_labels(value, column)) or EMPTY


EMPTY = "(none)"
"""The name of the set without labels."""

LABELS = replace(LABEL, noun="label list", read=read_labels)
LABEL_SET = replace(LABEL, noun="label list", read=read_label_set)


def best_thresholds(probabilities: np.ndarray, gold: np.ndarray, *, each: bool) -> np.ndarray:
    """Return the thresholds [C] that give the best F1 on these rows.

    One for all labels, by micro-F1, or one for each label by its own F1. They lie midway between
    two probabilities that occur; a label that is never right keeps 0.5.

    Args:
        probabilities: [N,C].
        gold: [N,C] bool.
        each: one threshold a label.
    """
    num_labels = probabilities.shape[1]
    if each:
        pairs = zip(probabilities.T, gold.T, strict=True)
        return np.array([_best_threshold(column, truth) for column, truth in pairs])
    return np.full(num_labels, _best_threshold(probabilities.ravel(), gold.ravel()))


def _best_threshold(probabilities: np.ndarray, gold: np.ndarray) -> float:
    order = np.argsort(-probabilities, kind="stable")
    sorted_p, right = probabilities[order], np.cumsum(gold[order])
    if not right[-1]:
        return 0.5
    f1 = 2 * right / (np.arange(1, len(order) + 1) + right[-1])
    last_of_ties = np.append(sorted_p[1:] < sorted_p[:-1], True)
    best = int(np.argmax(np.where(last_of_ties, f1, -1)))
    below = sorted_p[best + 1] if best + 1 < len(sorted_p) else 0.0
    return float((sorted_p[best] + below) / 2)


@dataclass(frozen=True, kw_only=True)
class Multilabel(Task):
    """A sigmoid a label, binary cross-entropy, thresholds tuned on the evaluation rows."""

    name: ClassVar[str] = "multilabel"
    metric_names: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1", "subset_accuracy")
    schema: ClassVar[RowSchema] = texts_and(LABELS, pa.list_(pa.int64()), label_fields=("label",))
    encoder: ClassVar[RowEncoder] = TextEncoder(
        target=Target(pa.list_(pa.int64()), pad=PAD, width="longest")
    )
    tunes_on_rows: ClassVar[bool] = True
    thresholds: Literal["one", "each"] = "one"
    """One threshold for all labels, tuned for micro-F1, or one for each, tuned for its F1."""

    def outputs(self, labels: Sequence[str]) -> Outputs:
        """Return one output a label."""
        return Outputs(len(labels), kind="labels")

    def per_example_loss(
        self, logits: Tensor, batch: Mapping[str, Any], model: TaskModel
    ) -> Tensor:
        """Return the binary cross-entropy in nats of each row [B], the mean over its labels.

        Args:
            logits: [B,C], any float type.
            batch: has `labels` [B,n]: the ids of the labels that apply, filled up with -1.
            model: not asked.
        """
        ids = batch["labels"]
        wanted = torch.zeros(len(ids), logits.shape[1] + 1, device=logits.device)
        wanted.scatter_(1, torch.where(ids == PAD, logits.shape[1], ids), 1.0)
        losses = F.binary_cross_entropy_with_logits(
            logits.float(), wanted[:, :-1], reduction="none"
        )
        return losses.mean(dim=1)

    def tune(
        self, model: TaskModel, logits: RowOutputs | None, encoded: EncodedRows | None
    ) -> dict[str, Any]:
        """Return the threshold of each label, tuned on the rows; none without rows."""
        if logits is None or encoded is None:
            return {}
        gold = _indicators(encoded, logits.shape[1])
        thresholds = best_thresholds(sigmoid(logits), gold, each=self.thresholds == "each")
        return {"thresholds": thresholds.tolist()}

    def judge(
        self, logits: RowOutputs, encoded: EncodedRows, decoding: Mapping[str, Any]
    ) -> np.ndarray:
        """Return the predicted and the true indicators of each row, [N,2C]."""
        predicted = sigmoid(logits) >= _thresholds(decoding, logits.shape[1])
        return multilabel_statistics(predicted, _indicators(encoded, logits.shape[1]))

    def metrics(self, statistics: np.ndarray) -> dict[str, float]:
        """Return micro-F1, macro-F1 and subset accuracy; see `multilabel_metrics`."""
        return multilabel_metrics(statistics)

    def decode(
        self,
        logits: RowOutputs,
        inputs: Inputs,
        labels: Sequence[str],
        decoding: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        """Return `{"labels", "scores"}` a row: the labels that apply, all with probabilities.

        The most likely come first.

        Args:
            logits: [N,C].
            inputs: not asked.
            labels: the C label names.
            decoding: the thresholds.
        """
        probabilities = sigmoid(logits)
        applies = probabilities >= _thresholds(decoding, len(labels))
        return [
            _answer(labels, row, chosen) for row, chosen in zip(probabilities, applies, strict=True)
        ]

    def label_in(self, answer: Mapping[str, Any]) -> Any:
        """Return the labels of an answer."""
        return answer["labels"]

    def describe(self, answer: Mapping[str, Any]) -> tuple[str, float | None]:
        """Return the labels that apply."""
        return JOINT.join(sorted(answer["labels"])) or EMPTY, None

    def describe_truth(self, encoded: EncodedRows) -> list[str]:
        """Return the labels of each row."""
        labels = encoded.labels
        assert labels is not None
        rows = encoded.field("labels", np.arange(len(encoded)))
        return [JOINT.join(sorted(labels.name_of(int(i)) for i in ids)) or EMPTY for ids in rows]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return probabilities (float64) from logits; safe for large ones."""
    return 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))


def _answer(labels: Sequence[str], row: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    order = np.argsort(-row, kind="stable").tolist()
    return {
        "labels": [labels[i] for i in order if chosen[i]],
        "scores": {labels[i]: float(row[i]) for i in order},
    }


def _thresholds(decoding: Mapping[str, Any], num_labels: int) -> np.ndarray:
    return np.asarray(decoding.get("thresholds") or [0.5] * num_labels)


def _indicators(encoded: EncodedRows, num_labels: int) -> np.ndarray:
    """Return which labels apply to each row, bool [N,C]."""
    if "labels" not in encoded.targets:
        raise DataError("the rows have no labels to judge by")
    found = np.zeros((len(encoded), num_labels), dtype=bool)
    for row, ids in zip(found, encoded.field("labels", np.arange(len(encoded))), strict=True):
        row[ids] = True
    return found


@dataclass(frozen=True, kw_only=True)
class Powerset(Task):
    """One class for each set of labels that occurs (label power-set)."""

    name: ClassVar[str] = "powerset"
    metric_names: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1", "subset_accuracy")
    schema: ClassVar[RowSchema] = texts_and(LABEL_SET, pa.int64(), label_fields=("label",))

    def outputs(self, labels: Sequence[str]) -> Outputs:
        """Return one output a set of labels."""
        return Outputs(len(labels))

    def per_example_loss(
        self, logits: Tensor, batch: Mapping[str, Any], model: TaskModel
    ) -> Tensor:
        """Return the cross-entropy in nats of each row [B]; see `class_losses`."""
        return class_losses(logits, batch["labels"])

    def judge(
        self, logits: RowOutputs, encoded: EncodedRows, decoding: Mapping[str, Any]
    ) -> np.ndarray:
        """Return the predicted and the true indicators of each row, [N,2C], C labels in all."""
        pairs = judge_classes(logits, encoded).astype(int)
        assert encoded.labels is not None
        _, members = split_sets(encoded.labels.names)
        return multilabel_statistics(members[pairs[:, 0]], members[pairs[:, 1]])

    def metrics(self, statistics: np.ndarray) -> dict[str, float]:
        """Return micro-F1, macro-F1 and subset accuracy; see `multilabel_metrics`."""
        return multilabel_metrics(statistics)

    def decode(
        self,
        logits: RowOutputs,
        inputs: Inputs,
        labels: Sequence[str],
        decoding: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        """Return `{"labels", "score", "scores"}` a row.

        `labels` are those of the most likely set, `score` is its probability, and `scores` are the
        marginal probabilities of all labels: the sum over the sets that hold them.

        Args:
            logits: [N,P].
            inputs: not asked.
            labels: the P set names.
            decoding: not asked.
        """
        if len(logits) == 0:
            return []
        probabilities = softmax(logits)
        names, members = split_sets(labels)
        marginals = probabilities @ members
        return [
            {
                **_answer(names, row, members[best]),
                "score": float(of_sets[best]),
            }
            for row, of_sets, best in zip(
                marginals, probabilities, probabilities.argmax(axis=-1).tolist(), strict=True
            )
        ]

    def label_in(self, answer: Mapping[str, Any]) -> Any:
        """Return the labels of an answer."""
        return answer["labels"]

    def describe(self, answer: Mapping[str, Any]) -> tuple[str, float | None]:
        """Return the labels of the set, and its probability."""
        return JOINT.join(sorted(answer["labels"])) or EMPTY, answer["score"]

    def describe_truth(self, encoded: EncodedRows) -> list[str]:
        """Return the set of labels of each row."""
        return true_labels(encoded)


def split_sets(sets: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """Return the labels that occur in sets of these names, and who is in which, bool [P,C]."""
    parts = [[] if name == EMPTY else name.split(JOINT) for name in sets]
    names = sorted({label for part in parts for label in part})
    members = np.array([[label in part for label in names] for part in parts])
    return names, members.reshape(len(parts), len(names))
