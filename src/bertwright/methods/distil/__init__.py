"""Distillation: a student learns from a teacher's outputs and hidden states."""

from __future__ import annotations

__all__: list[str] = []
