"""Regression: one number for a text or a pair of texts.

Shapes: N rows, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from bertwright.data.encode import Inputs, RowEncoder, Target, TextEncoder
from bertwright.data.gather import RowOutputs
from bertwright.data.schema import LABEL, RowSchema, texts_and
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import DataError
from bertwright.models.outputs import Outputs, OutputScale
from bertwright.models.task_model import TaskModel
from bertwright.tasks.base import Task
from bertwright.tasks.metrics import number_metrics, number_statistics

__all__ = ["Regress", "read_number"]

_HINT = "give a number, or leave such rows out with --on-bad-row skip"


def read_number(value: object, column: str) -> float:
    """Return a finite number, given as one or as its text.

    Raises:
        DataError: it is none.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        number = float(value)
    except ValueError:
        raise DataError(f"{column} {value!r} is not a number", hint=_HINT) from None
    if not math.isfinite(number):
        raise DataError(f"{column} {value!r} is not a finite number", hint=_HINT)
    return number


NUMBER = replace(
    LABEL,
    noun="number",
    read=read_number,
    aliases=(
        "score", "scores", "similarity", "relatedness_score", "rating", "value", "labels", "target",
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Regress(Task):
    """One output, squared error of standardised targets, answers in the targets' units."""

    name: ClassVar[str] = "regress"
    metric_names: ClassVar[tuple[str, ...]] = ("pearson", "spearman", "rmse", "mae")
    schema: ClassVar[RowSchema] = texts_and(NUMBER, pa.float64())
    encoder: ClassVar[RowEncoder] = TextEncoder(target=Target(pa.float32()))

    @property
    def answers_numbers(self) -> bool:
        """Each answer is one."""
        return True

    def outputs(self, labels: Sequence[str]) -> Outputs:
        """Return one number a row, in the units of the targets."""
        return Outputs(1, kind="numbers", scaled=True)

    def prepare(self, model: TaskModel, train_rows: EncodedRows) -> None:
        """Take mean and deviation of the training targets, unless the model has some already."""
        super().prepare(model, train_rows)
        assert isinstance(model.scale, OutputScale)
        if not model.scale.fitted:
            targets = torch.from_numpy(_numbers(train_rows)).double()
            spread = targets.std(correction=0)
            model.scale.fit(targets.mean().float()[None], spread.float()[None])

    def per_example_loss(
        self, logits: Tensor, batch: Mapping[str, Any], model: TaskModel
    ) -> Tensor:
        """Return the squared error of each row [B] in deviations of the training targets.

        Args:
            logits: [B,1], any float type, in the targets' units.
            batch: has `labels` [B].
            model: its `scale` tells the deviation.
        """
        spread: Any = model.scale.spread
        error = (logits[:, 0].float() - batch["labels"].float()) / spread[0]
        return error.square()

    def judge(
        self, logits: RowOutputs, encoded: EncodedRows, decoding: Mapping[str, Any]
    ) -> np.ndarray:
        """Return the predicted and the true number of each row, [N,2]."""
        return number_statistics(logits[:, 0], _numbers(encoded))

    def metrics(self, statistics: np.ndarray) -> dict[str, float]:
        """Return RMSE, mean absolute error, Pearson and Spearman; see `number_metrics`."""
        return number_metrics(statistics)

    def decode(
        self,
        logits: RowOutputs,
        inputs: Inputs,
        labels: Sequence[str],
        decoding: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        """Return `{"value"}` a row from logits [N,1]."""
        return [{"value": value} for value in logits[:, 0].astype(float).tolist()]

    def label_in(self, answer: Mapping[str, Any]) -> Any:
        """Return the number of an answer."""
        return answer["value"]

    def describe(self, answer: Mapping[str, Any]) -> tuple[str, float | None]:
        """Return the number with three significant digits."""
        return f"{answer['value']:.3g}", None

    def describe_truth(self, encoded: EncodedRows) -> list[str]:
        """Return the number of each row."""
        return [f"{number:.3g}" for number in _numbers(encoded).tolist()]


def _numbers(encoded: EncodedRows) -> np.ndarray:
    if "labels" not in encoded.targets:
        raise DataError("the rows have no numbers to judge by")
    numbers = encoded.field("labels", np.arange(len(encoded)))
    assert isinstance(numbers, np.ndarray)
    return numbers
