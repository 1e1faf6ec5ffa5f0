"""What a task is: its rows, its loss, its metrics, and how its outputs become answers.

Shapes: N features, R rows, B batch, C outputs, S statistics. Most tasks have one feature a row; a
long text may have several (windows).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from bertwright.data.encode import Inputs, RowEncoder
from bertwright.data.gather import RowOutputs
from bertwright.data.schema import RowSchema
from bertwright.data.tokenise import EncodedRows
from bertwright.models.outputs import Outputs
from bertwright.models.task_model import TaskModel

__all__ = ["Task"]


class Task(Protocol):
    """One kind of question asked of a text. Stateless; one instance serves all runs."""

    name: str
    primary: str
    """The metric by which models are compared; more is better."""
    metric_names: tuple[str, ...]
    schema: RowSchema
    """What its rows hold."""
    inputs: tuple[str, ...]
    """Stored columns that ask the question; the others are its answer."""
    shown: tuple[str, ...]
    """Those of them that stand beside a prediction."""
    encoder: RowEncoder
    """How its rows become features."""
    tunes: bool
    """Whether decoding has something to tune."""

    def outputs(self, labels: Sequence[str]) -> Outputs:
        """Return what a model of these labels has to give."""
        ...

    def prepare(self, model: TaskModel, train_rows: EncodedRows) -> None:
        """Set what a new model takes from the training rows; called before every training."""
        ...

    def per_example_loss(
        self, logits: Tensor, batch: Mapping[str, Any], model: TaskModel
    ) -> Tensor:
        """Return the loss of each feature [B], fp32, from logits [B,C] and a collated batch."""
        ...

    def tune(
        self, model: TaskModel, logits: RowOutputs | None, encoded: EncodedRows | None
    ) -> dict[str, Any]:
        """Return what decoding needs beside the outputs, as plain values; most tasks have nothing.

        It is saved with the model and given to `judge` and `decode`. What can be tuned (thresholds)
        is tuned on labelled rows that were not trained on, where there are any.
        """
        ...

    def judge(
        self, logits: RowOutputs, encoded: EncodedRows, decoding: Mapping[str, Any]
    ) -> np.ndarray:
        """Return statistics of each row, float64 [R,S], from logits [N,C] and labelled features."""
        ...

    def metrics(self, statistics: np.ndarray) -> dict[str, float]:
        """Return every metric of `metric_names` from the statistics of some rows, at least one."""
        ...

    def row_scores(self, statistics: np.ndarray) -> np.ndarray | None:
        """Return [R] whose mean is the primary metric, or None where that is no mean over rows."""
        ...

    def decode(
        self,
        logits: RowOutputs,
        inputs: Inputs,
        labels: Sequence[str],
        decoding: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        """Return one answer a row from the outputs of its features."""
        ...

    def describe(self, answer: Mapping[str, Any]) -> tuple[str, float | None]:
        """Return an answer of `decode` in a few words, and how sure it is if it says so."""
        ...

    def describe_truth(self, encoded: EncodedRows) -> list[str]:
        """Return the right answer of each row, worded as `describe` does, [R]."""
        ...
