"""What a task is: its loss, its metrics, and how its outputs become answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

__all__ = ["Task"]


class Task(Protocol):
    """One kind of question asked of a text. Stateless; one instance serves all runs."""

    name: str
    primary: str
    """The metric by which models are compared."""
    metric_names: tuple[str, ...]

    def per_example_loss(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return the loss of each row [B], fp32, from logits [B,C] and a collated batch."""
        ...

    def compute_metrics(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return every metric of `metric_names` from logits [N,C] and labels [N]."""
        ...

    def correct(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return which rows are right, bool [N]."""
        ...

    def decode(self, logits: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return one answer a row from logits [N,C] and the C label names."""
        ...
