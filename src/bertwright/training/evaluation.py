"""A model's outputs and scores on rows with labels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn

from bertwright.data.batching import collate, plan_batches
from bertwright.errors import DataError
from bertwright.training.precision import resolve_precision

if TYPE_CHECKING:
    from bertwright.data.tokenise import EncodedRows
    from bertwright.models.task_model import TaskModel
    from bertwright.tasks.base import Task

__all__ = ["MODEL_INPUTS", "compute_logits", "eval_mode", "evaluate_model"]

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""The keys of a collated batch that the model takes."""


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode inside the block; each module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def compute_logits(
    model: TaskModel,
    encoded: EncodedRows,
    *,
    batch_tokens: int = 2048,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
) -> np.ndarray:
    """Return the logits [N,C] (fp32) of all rows, in the order of the rows, dropout off.

    Args:
        model: stays on its device, and in its mode.
        encoded: N rows.
        batch_tokens: most tokens in a batch, padding counted.
        precision: of the matrix products; auto is bf16 where the processor has it.
    """
    device = next(model.parameters()).device
    autocast = torch.autocast(
        device.type, torch.bfloat16, enabled=resolve_precision(precision) == "bf16"
    )
    plan = plan_batches(encoded.lengths, batch_tokens=batch_tokens, seed=0, epoch=0, shuffle=False)
    parts: list[np.ndarray] = []
    with eval_mode(model), torch.no_grad(), autocast:
        for indices in plan:
            batch = collate(encoded, indices)
            inputs = {key: batch[key].to(device) for key in MODEL_INPUTS if key in batch}
            parts.append(model(**inputs).logits.float().cpu().numpy())
    gathered = np.concatenate(parts)
    logits = np.empty_like(gathered)
    logits[np.concatenate(plan)] = gathered
    return logits


def evaluate_model(
    model: TaskModel,
    encoded: EncodedRows,
    task: Task,
    batch_tokens: int = 2048,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
) -> tuple[dict[str, float], np.ndarray]:
    """Return (metrics, logits [N,C] in the order of the rows).

    The metrics are the task's, and `loss`, the mean over the rows.

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
    labels = encoded.label_ids
    if labels is None:
        raise DataError("the rows to evaluate on have no labels")
    logits = compute_logits(model, encoded, batch_tokens=batch_tokens, precision=precision)
    loss = task.per_example_loss(torch.from_numpy(logits), {"labels": torch.tensor(labels)})
    return {**task.compute_metrics(logits, labels), "loss": float(loss.mean())}, logits
