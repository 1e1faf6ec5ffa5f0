"""Pure functions that change shapes, and the plan that records them so that a load can replay."""

from __future__ import annotations

__all__: list[str] = []
