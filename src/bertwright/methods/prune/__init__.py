"""Pruning: parts of a model that matter least are taken out, and its shapes become smaller."""

from __future__ import annotations

__all__: list[str] = []
