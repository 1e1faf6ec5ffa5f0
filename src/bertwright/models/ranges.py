"""Ranges that a model learned in training for 8-bit kernels, and the rounding that they mean.

A model that was trained with rounding (`methods/quantize/qat.py`) carries them beside its weights,
which stay float. What changes shapes or trains again makes a model without them.

Shape letters: O outputs (or table rows), I inputs (or features of a row).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["LearnedRanges", "input_grid", "row_scales"]

LEVELS = 255
"""Steps of an unsigned 8-bit grid."""
LARGEST = 127
"""Largest weight in steps of its row; -128 is not used, so that the grid is symmetric."""
SCALE_MIN = 1e-12


@dataclass(frozen=True)
class LearnedRanges:
    """What int8 needs to know besides the weights."""

    inputs: Mapping[str, tuple[float, float]]
    """Path of a linear layer in the model -> least and largest of what enters it, 0 between."""
    tables: tuple[str, ...] = ()
    """Paths of the embedding tables whose rows were rounded."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values, exact to the last bit."""
        return {
            "inputs": {path: list(ends) for path, ends in self.inputs.items()},
            "tables": list(self.tables),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LearnedRanges:
        """Read what `to_json` gave.

        Raises:
            TypeError: a range is not two numbers around 0.
            KeyError: a part is missing.
        """
        inputs = {str(path): _ends(ends) for path, ends in values["inputs"].items()}
        return cls(inputs=inputs, tables=tuple(map(str, values["tables"])))


def _ends(ends: Any) -> tuple[float, float]:
    numbers = isinstance(ends, list) and [type(end) for end in ends] == [float, float]
    if not (numbers and ends[0] <= 0 <= ends[1] and math.isfinite(ends[1] - ends[0])):
        raise TypeError(f"{ends} is not a range around 0")
    return ends[0], ends[1]


def input_grid(ends: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and zero point of the unsigned 8-bit grid of a range; 0 is exact.

    S = (max - min) / 255, Z = round(-min / S), with min <= 0 <= max.

    Args:
        ends: [2], least and largest.

    Returns:
        Scalars: the scale (float32), the zero point (int32, in 0..255).

    Source: Jacob et al. 2018.
    """
    low, high = ends.float().unbind()
    low, high = low.clamp_max(0), high.clamp_min(0)
    scale = ((high - low) / LEVELS).clamp_min(SCALE_MIN)
    return scale, (-low / scale).round().clamp(0, LEVELS).to(torch.int32)


def row_scales(weight: Tensor) -> Tensor:
    """Return the scale of each row of a matrix [O, I] in signed 8 bits: max|row| / 127, [O]."""
    return (weight.detach().float().abs().amax(dim=1) / LARGEST).clamp_min(SCALE_MIN)
