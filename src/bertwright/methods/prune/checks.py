"""What is asked before anything is taken out of a model."""

from __future__ import annotations

from bertwright.errors import UnsupportedRoleError
from bertwright.methods.quantize.int8 import refuse_quantized
from bertwright.models.task_model import TaskModel

__all__ = ["check_prunable"]


def check_prunable(model: TaskModel, what: str, reason: str | None) -> None:
    """Check that heads or neurons can be taken out of this model.

    Raises:
        UnsupportedRoleError: there is a reason why not.
        UsageError: the model has been quantized; its weights are rounded.
    """
    refuse_quantized(model, "it cannot be pruned")
    if reason is not None:
        raise UnsupportedRoleError(f"{model.roles.family} keeps its {what}: {reason}")
