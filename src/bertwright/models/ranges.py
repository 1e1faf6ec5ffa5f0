"""Ranges that a model learned in training for 8-bit kernels, and the rounding that they mean.

A model that was trained with rounding (`methods/quantize/qat.py`) carries them beside its weights,
which stay float. What changes shapes or trains again makes a model without them.

Shape letters: O outputs (or table rows), I inputs (or features of a row).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["LearnedRanges", "WeightBits", "input_grid", "largest_step", "row_scales"]

LEVELS = 255
"""Steps of an unsigned 8-bit grid."""
WeightBits = Literal[8, 7]
"""7 where kernels add products in pairs in 16 bits: x86 without VNNI."""
SCALE_MIN = 1e-12


@dataclass(frozen=True)
class LearnedRanges:
    """What int8 needs to know besides the weights."""

    inputs: Mapping[str, tuple[float, float]]
    """Path of a linear layer in the model -> least and largest of what enters it, 0 between."""
    tables: tuple[str, ...] = ()
    """Paths of the embedding tables whose rows were rounded, to 8 bits."""
    weight_bits: WeightBits = 8
    """Of the linear layers in training; kernels may have fewer."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values, exact to the last bit."""
        return {
            "inputs": {path: list(ends) for path, ends in self.inputs.items()},
            "tables": list(self.tables),
            "weight_bits": self.weight_bits,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LearnedRanges:
        """Read what `to_json` gave.

        Raises:
            TypeError: a range is not two numbers around 0, or weights have another number of bits.
            KeyError: a part is missing.
        """
        inputs = {str(path): _ends(ends) for path, ends in values["inputs"].items()}
        bits = values.get("weight_bits", 8)
        if bits not in (8, 7):
            raise TypeError(f"weights of {bits} bits are not known")
        return cls(inputs=inputs, tables=tuple(map(str, values["tables"])), weight_bits=bits)


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


def largest_step(bits: WeightBits) -> int:
    """Return the largest weight in steps of its row: 127 or 63; the grid is symmetric."""
    return 2 ** (bits - 1) - 1


def row_scales(weight: Tensor, bits: WeightBits = 8) -> Tensor:
    """Return the scale of each row of a matrix [O, I] in signed integers, [O].

    max|row| / 127 in 8 bits, max|row| / 63 in 7.
    """
    return (weight.detach().float().abs().amax(dim=1) / largest_step(bits)).clamp_min(SCALE_MIN)
