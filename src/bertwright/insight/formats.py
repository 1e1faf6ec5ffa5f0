"""Figures as words; a dash where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "FILTERS",
    "millions",
    "milliseconds",
    "number",
    "p_value",
    "plain",
    "score_formatter",
    "share",
    "times",
]

_PERCENT_METRICS = ("accuracy", "f1", "precision", "recall")


def score_formatter(primary: str) -> Any:
    """Return what writes a score of this metric: a percentage, or three digits."""
    if primary.endswith(_PERCENT_METRICS):
        return lambda value: "–" if value is None else f"{100 * value:.1f}%"
    return lambda value: "–" if value is None else f"{value:.3f}"


def share(value: float | None) -> str:
    """Return 98.7%."""
    return "–" if value is None else f"{100 * value:.1f}%"


def p_value(value: float | None) -> str:
    """Return < 0.001, 0.012 or 0.34."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def milliseconds(value: float | None) -> str:
    """Return 1.23, 12.3 or 1,234."""
    if value is None:
        return "–"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def number(value: float | None, digits: int = 0) -> str:
    """Return 1,234."""
    return "–" if value is None else f"{value:,.{digits}f}"


def times(value: float | None) -> str:
    """Return 1.23× or 12.3×."""
    if value is None:
        return "–"
    return f"{value:.2f}×" if value < 10 else f"{value:.1f}×"


def millions(value: float | None) -> str:
    """Return 22.7 M."""
    return "–" if value is None else f"{value / 1e6:.1f} M"


def plain(value: Any) -> str:
    """Return a fact of the machine as words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value) or "none"
    return str(value)


FILTERS = {
    "share": share,
    "p_value": p_value,
    "ms": milliseconds,
    "number": number,
    "times": times,
    "millions": millions,
    "plain": plain,
}
