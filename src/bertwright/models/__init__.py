"""Encoders, where each family keeps its parts, pooling, heads, and the three together."""

from __future__ import annotations

__all__: list[str] = []
