"""What of a teacher matters to its task, for the report: layers, heads, neurons."""

from __future__ import annotations

from typing import Any

import numpy as np

from bertwright.data.tokenise import EncodedRows
from bertwright.errors import BertwrightError
from bertwright.methods.prune.importance import gate_gradients
from bertwright.methods.prune.layers import layer_importance
from bertwright.models.heads.fitted import find_fitted_head
from bertwright.models.task_model import TaskModel
from bertwright.tasks.objective import Objective

__all__ = ["measure_importance"]

MOST_ROWS = 128


def measure_importance(
    teacher: TaskModel, rows: EncodedRows, task: Objective
) -> dict[str, Any] | None:
    """Return what the loss would notice most; None where the family or the head has no gates.

    Args:
        teacher: stays as it is.
        rows: labelled; some of them are drawn.
        task: whose loss.

    Returns:
        `layers` [K], and where the family can be pruned `heads` [K][N] and `neurons` [K], the mean
        over the neurons of a layer.
    """
    if find_fitted_head(teacher) is not None:
        return None
    count = min(MOST_ROWS, len(rows))
    drawn = rows.select(np.sort(np.random.default_rng(0).choice(len(rows), count, replace=False)))
    try:
        found: dict[str, Any] = {"layers": layer_importance(teacher, drawn, task).tolist()}
        parts = gate_gradients(teacher, drawn, task)
    except BertwrightError:
        return None
    if parts.heads is not None:
        found["heads"] = [layer.tolist() for layer in parts.heads]
    if parts.neurons is not None:
        found["neurons"] = [float(layer.mean()) for layer in parts.neurons]
    return found
