"""A model's outputs and scores on rows with labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from bertwright.data.gather import Gathered, RowOutputs
from bertwright.errors import DataError
from bertwright.tasks.forward import forward_batches
from bertwright.training.precision import resolve_precision

if TYPE_CHECKING:
    from bertwright.data.tokenise import EncodedRows
    from bertwright.models.task_model import TaskModel
    from bertwright.tasks.objective import Objective

__all__ = ["compute_logits", "evaluate_model"]


def compute_logits(
    model: TaskModel,
    encoded: EncodedRows,
    *,
    batch_tokens: int = 2048,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
) -> RowOutputs:
    """Return the logits [N,C] (fp32) of all rows, in the order of the rows, dropout off.

    Args:
        model: stays on its device, and in its mode.
        encoded: N rows.
        batch_tokens: most tokens in a batch, padding counted.
        precision: of the matrix products; auto is bf16 where the processor has it.
    """
    outputs = encoded.gathered()
    for indices, batch, logits in _batches(model, encoded, batch_tokens, precision):
        _gather(outputs, indices, batch, logits)
    return outputs.in_order()


def evaluate_model(
    model: TaskModel,
    encoded: EncodedRows,
    task: Objective,
    batch_tokens: int = 2048,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
) -> tuple[dict[str, float], RowOutputs]:
    """Return (metrics, logits [N,C] in the order of the rows).

    The metrics are the task's, and `loss`, the mean over the rows. What decoding can tune is tuned
    on these very rows.

    Args:
        model: any device; its mode is left as it was.
        encoded: N rows with labels.
        task: says which metrics.
        batch_tokens: most tokens in a batch, padding counted.
        precision: of the matrix products.

    Raises:
        DataError: there are no rows, or they have no labels.
    """
    if len(encoded) == 0:
        raise DataError("there are no rows to evaluate on")
    if not encoded.targets:
        raise DataError("the rows to evaluate on have no labels")
    outputs, loss = encoded.gathered(), 0.0
    for indices, batch, logits in _batches(model, encoded, batch_tokens, precision):
        loss += float(task.per_example_loss(logits, batch, model).sum())
        _gather(outputs, indices, batch, logits)
    found = outputs.in_order()
    task = task.judging(encoded)
    metrics = task.metrics(task.judge(found, encoded, task.tune(model, found, encoded)))
    return {**metrics, "loss": loss / len(encoded)}, found


def _batches(
    model: TaskModel,
    encoded: EncodedRows,
    batch_tokens: int,
    precision: Literal["auto", "fp32", "bf16"],
) -> Iterator[tuple[np.ndarray, dict[str, Any], Tensor]]:
    """Yield (positions, the collated batch, logits in fp32), longest rows first."""
    bf16 = resolve_precision(precision) == "bf16"
    for indices, batch, output in forward_batches(
        model, encoded, batch_tokens=batch_tokens, bf16=bf16, answer_alone=True
    ):
        yield indices, batch, output.logits.float()


def _gather(outputs: Gathered, indices: np.ndarray, batch: dict[str, Any], logits: Tensor) -> None:
    outputs.add(indices, logits.cpu().numpy(), batch["attention_mask"].cpu().numpy())
