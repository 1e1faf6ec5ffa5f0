"""Early exit: a text runs through no more layers than its answer needs."""

from __future__ import annotations

__all__: list[str] = []
