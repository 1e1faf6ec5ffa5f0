"""A model that rounds as int8 does is the end of a chain: what changes or trains it asks here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertwright.errors import UsageError

if TYPE_CHECKING:
    from bertwright.models.task_model import TaskModel

__all__ = ["refuse_quantized"]


def refuse_quantized(model: TaskModel, consequence: str) -> None:
    """Raise unless the model still has its exact weights.

    A model of several heads has no lineage of its own, and is never quantized.

    Raises:
        UsageError: it has been quantized; `consequence` says what cannot be done.
    """
    done = getattr(model, "lineage", {}).get("quantized")
    if done:
        raise UsageError(
            f"the model has been quantized ({done}): {consequence}",
            hint="change the shape and train first, quantize last",
        )
