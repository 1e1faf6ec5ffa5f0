"""Scores with intervals, speed, size and memory: everything a claim about a model rests on."""

from __future__ import annotations

__all__: list[str] = []
