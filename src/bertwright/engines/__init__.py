"""Engines: compile a model directory for fast inference, check it against torch, and run it."""

from __future__ import annotations

__all__: list[str] = []
