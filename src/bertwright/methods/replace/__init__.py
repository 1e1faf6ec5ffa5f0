"""Replacement: parts of a model give way to smaller ones while it trains."""

from __future__ import annotations

__all__: list[str] = []
