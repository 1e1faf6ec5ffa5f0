"""What is trained for, and judged by: the half of a task that the training loop knows.

Shapes: N features, R rows, B batch, C outputs, S statistics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from bertwright.data.gather import RowOutputs
from bertwright.data.tokenise import EncodedRows
from bertwright.models.task_model import TaskModel
from bertwright.tasks.fit_pooling import fit_pooling

__all__ = ["Objective"]


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """A loss and the scores of what it leads to. Stateless; its fields are its options."""

    name: ClassVar[str]
    metric_names: ClassVar[tuple[str, ...]]
    """By the first of them models are compared; more of it is better."""
    tunes_on_rows: ClassVar[bool] = False
    """Whether `tune` looks at outputs of labelled rows that were not trained on."""

    @property
    def primary(self) -> str:
        """The metric by which models are compared."""
        return self.metric_names[0]

    @property
    def trains(self) -> bool:
        """Whether there is anything to train; if not, the encoder is taken as it is."""
        return True

    def judging(self, encoded: EncodedRows) -> Self:
        """Return the task as it judges these rows: the same, but where the rows tell the metric."""
        return self

    def prepare(self, model: TaskModel, train_rows: EncodedRows) -> None:
        """Set what a new model takes from the training rows; called before every training."""
        fit_pooling(model, train_rows)

    @abstractmethod
    def per_example_loss(
        self, logits: Tensor, batch: Mapping[str, Any], model: TaskModel
    ) -> Tensor:
        """Return the loss of each feature [B], fp32, from logits [B,C] and a collated batch."""

    def tune(
        self, model: TaskModel, logits: RowOutputs | None, encoded: EncodedRows | None
    ) -> dict[str, Any]:
        """Return what decoding needs beside the outputs, as plain values; most tasks have nothing.

        It is saved with the model and given to `judge` and `decode`. What can be tuned (thresholds)
        is tuned on labelled rows that were not trained on, where there are any.
        """
        return {}

    @abstractmethod
    def judge(
        self, logits: RowOutputs, encoded: EncodedRows, decoding: Mapping[str, Any]
    ) -> np.ndarray:
        """Return statistics of each row, float64 [R,S], from logits [N,C] and labelled features."""

    @abstractmethod
    def metrics(self, statistics: np.ndarray) -> dict[str, float]:
        """Return every metric of `metric_names` from the statistics of some rows, at least one."""

    def row_scores(self, statistics: np.ndarray) -> np.ndarray | None:
        """Return [R] whose mean is the primary metric, or None where that is no mean over rows."""
        return None
