"""Outputs of batches, put back in the order of the features.

Shapes: N features, B batch, L length, C outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Gathered", "RowOutputs"]

RowOutputs = Any
"""An array [N, C]; or a list with one [length, C] a feature, where there are outputs a token."""


class Gathered:
    """Collects the outputs of batches in whatever order they come."""

    def __init__(self, num_features: int) -> None:
        self._found: list[np.ndarray | None] = [None] * num_features
        self._rows: np.ndarray | None = None

    def add(self, positions: np.ndarray, outputs: np.ndarray, attention_mask: np.ndarray) -> None:
        """Take the outputs [B, C] or [B, L, C] of the features at these positions.

        Args:
            positions: which features, [B].
            outputs: padding included; copied.
            attention_mask: [B, L], right-padded.
        """
        if outputs.ndim == 2:
            if self._rows is None:
                shape = (len(self._found), outputs.shape[1])
                self._rows = np.zeros(shape, dtype=np.float32)
            self._rows[positions] = outputs
            return
        lengths = attention_mask.sum(axis=1).tolist()
        for position, row, length in zip(positions.tolist(), outputs, lengths, strict=True):
            self._found[position] = row[:length].astype(np.float32)

    def in_order(self) -> RowOutputs:
        """Return the outputs of all features.

        Raises:
            ValueError: some features have none.
        """
        if self._rows is not None:
            return self._rows
        found = [row for row in self._found if row is not None]
        if len(found) != len(self._found):
            raise ValueError(f"{len(self._found) - len(found)} features have no outputs")
        return found
