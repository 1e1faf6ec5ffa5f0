"""Quantization: weights and activations as small integers."""

from __future__ import annotations

__all__: list[str] = []
