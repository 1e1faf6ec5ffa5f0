"""What a task is: its rows, its loss, its metrics, and how its outputs become answers.

Shapes: N features, R rows, B batch, C outputs, S statistics. Most tasks have one feature a row; a
long text may have several (windows).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from bertwright.data.encode import Inputs, RowEncoder, TextEncoder
from bertwright.data.gather import RowOutputs
from bertwright.data.schema import RowSchema
from bertwright.data.tokenise import EncodedRows
from bertwright.models.outputs import Outputs
from bertwright.models.task_model import TaskModel

__all__ = ["Task"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of question asked of a text. Stateless; its fields are its options.

    What most tasks do alike is done here; a task says what is its own.
    """

    name: ClassVar[str]
    metric_names: ClassVar[tuple[str, ...]]
    """By the first of them models are compared; more of it is better."""
    schema: ClassVar[RowSchema]
    """What its rows hold."""
    inputs: ClassVar[tuple[str, ...]] = ("text", "text_b")
    """Stored columns that ask the question; the others are its answer."""
    shown: ClassVar[tuple[str, ...]] = ("text", "text_b")
    """Those of them that stand beside a prediction."""
    encoder: ClassVar[RowEncoder] = TextEncoder()
    """How its rows become features."""
    names_outputs: ClassVar[bool] = True
    """Whether the labels of the rows, where they have any, name the outputs of the model."""
    tunes_on_rows: ClassVar[bool] = False
    """Whether `tune` looks at outputs of labelled rows that were not trained on."""

    @property
    def primary(self) -> str:
        """The metric by which models are compared."""
        return self.metric_names[0]

    @property
    def training_encoder(self) -> RowEncoder:
        """How rows to train on become features; as all rows do, but for few tasks."""
        return self.encoder

    @property
    def spec(self) -> str:
        """Its name with the options that are not as usual, as `find_task` takes it."""
        given = [(f.name, getattr(self, f.name)) for f in fields(self)]
        usual = {f.name: f.default for f in fields(self)}
        options = ",".join(f"{key}={value}" for key, value in given if value != usual[key])
        return f"{self.name}:{options}" if options else self.name

    @property
    def trains(self) -> bool:
        """Whether there is anything to train; if not, the encoder is taken as it is."""
        return True

    def judging(self, encoded: EncodedRows) -> Self:
        """Return the task as it judges these rows: the same, but where the rows tell the metric."""
        return self

    def outputs(self, labels: Sequence[str]) -> Outputs:
        """Return what a model of these labels has to give."""
        raise NotImplementedError

    def prepare(self, model: TaskModel, train_rows: EncodedRows) -> None:
        """Set what a new model takes from the training rows; called before every training."""

    def per_example_loss(
        self, logits: Tensor, batch: Mapping[str, Any], model: TaskModel
    ) -> Tensor:
        """Return the loss of each feature [B], fp32, from logits [B,C] and a collated batch."""
        raise NotImplementedError

    def tune(
        self, model: TaskModel, logits: RowOutputs | None, encoded: EncodedRows | None
    ) -> dict[str, Any]:
        """Return what decoding needs beside the outputs, as plain values; most tasks have nothing.

        It is saved with the model and given to `judge` and `decode`. What can be tuned (thresholds)
        is tuned on labelled rows that were not trained on, where there are any.
        """
        return {}

    def judge(
        self, logits: RowOutputs, encoded: EncodedRows, decoding: Mapping[str, Any]
    ) -> np.ndarray:
        """Return statistics of each row, float64 [R,S], from logits [N,C] and labelled features."""
        raise NotImplementedError

    def metrics(self, statistics: np.ndarray) -> dict[str, float]:
        """Return every metric of `metric_names` from the statistics of some rows, at least one."""
        raise NotImplementedError

    def row_scores(self, statistics: np.ndarray) -> np.ndarray | None:
        """Return [R] whose mean is the primary metric, or None where that is no mean over rows."""
        return None

    def decode(
        self,
        logits: RowOutputs,
        inputs: Inputs,
        labels: Sequence[str],
        decoding: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        """Return one answer a row from the outputs of its features."""
        raise NotImplementedError

    def describe(self, answer: Mapping[str, Any]) -> tuple[str, float | None]:
        """Return an answer of `decode` in a few words, and how sure it is if it says so."""
        raise NotImplementedError

    def describe_truth(self, encoded: EncodedRows) -> list[str]:
        """Return the right answer of each row, worded as `describe` does, [R]."""
        raise NotImplementedError
