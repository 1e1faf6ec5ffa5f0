"""How many bits a weight may have so that int8 kernels add their products exactly.

Without VNNI, x86 multiplies unsigned by signed bytes and adds the products in pairs in 16 bits:
255 * 127 * 2 does not fit and becomes 32767, 255 * 63 * 2 does.

Source: Intel's description of VPMADDUBSW; ONNX Runtime's documentation on `reduce_range`.
"""

from __future__ import annotations

import functools

import torch

from bertwright.models.ranges import WeightBits

__all__ = ["exact_weight_bits"]


@functools.cache
def exact_weight_bits() -> WeightBits:
    """Return 7 for x86 without VNNI, and 8 elsewhere."""
    features = torch.cpu.get_capabilities()
    if features.get("architecture") != "x86_64":
        return 8
    vnni = any(features.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
    return 8 if vnni else 7
