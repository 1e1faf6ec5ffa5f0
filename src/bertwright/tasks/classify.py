"""Classification: one of C labels for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import f1_score, matthews_corrcoef
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

__all__ = ["Classify", "softmax"]

TOP_SCORES = 5


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities [N,C] (float64) from logits [N,C]; safe for large logits."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    powers = np.exp(shifted)
    return powers / powers.sum(axis=-1, keepdims=True)


class Classify:
    """Single-label classification with cross-entropy."""

    name: str = "classify"
    primary: str = "accuracy"
    metric_names: tuple[str, ...] = ("accuracy", "macro_f1", "mcc")

    def per_example_loss(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return the cross-entropy in nats of each row [B], computed in fp32.

        Args:
            logits: [B,C], any float type.
            batch: has `labels` [B], int64 in 0..C-1.
        """
        return F.cross_entropy(logits.float(), batch["labels"], reduction="none")

    def compute_metrics(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return accuracy, macro-F1 and Matthews correlation, each a share (0..1, MCC -1..1).

        Macro-F1 is the plain mean over the classes that occur in the labels or the predictions;
        a class without a true positive counts 0. MCC is the multi-class form (Gorodkin 2004).

        Args:
            logits: [N,C], N at least 1.
            labels: [N], ints in 0..C-1.

        Raises:
            ValueError: there are no rows, or the lengths differ.
        """
        if len(labels) == 0 or len(labels) != len(logits):
            raise ValueError(f"metrics need rows: {len(logits)} logits, {len(labels)} labels")
        predicted = logits.argmax(axis=-1)
        seen = np.union1d(predicted, labels)
        macro_f1 = f1_score(labels, predicted, average="macro", zero_division=0)  # type: ignore[arg-type]
        return {
            "accuracy": float((predicted == labels).mean()),
            "macro_f1": float(macro_f1),
            "mcc": float(matthews_corrcoef(labels, predicted)) if len(seen) > 1 else 0.0,
        }

    def correct(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return which rows are right, bool [N], from logits [N,C] and labels [N]."""
        return logits.argmax(axis=-1) == np.asarray(labels)

    def decode(self, logits: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return `{"label", "score", "scores"}` a row; `scores` has the five most likely labels.

        Args:
            logits: [N,C].
            labels: the C label names.
        """
        if len(logits) == 0:
            return []
        probabilities = softmax(logits)
        top = np.argsort(-probabilities, axis=-1, kind="stable")[:, :TOP_SCORES]
        values = np.take_along_axis(probabilities, top, axis=-1)
        return [
            {
                "label": labels[ids[0]],
                "score": scores[0],
                "scores": {labels[i]: score for i, score in zip(ids, scores, strict=True)},
            }
            for ids, scores in zip(top.tolist(), values.tolist(), strict=True)
        ]
