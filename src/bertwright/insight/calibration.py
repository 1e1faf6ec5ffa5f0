"""Whether a model is right as often as it is sure: by how sure it was, how often it was right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bertwright.insight.charts import Box, Curve, Plot, Scale, linear_ticks, spread_apart

__all__ = ["calibration_error", "calibration_view"]

_SIZE = 360
_GAP = 15


def calibration_error(bins: Sequence[Mapping[str, float]]) -> float:
    """Return the mean distance of sureness and share right, each bin by its rows (ECE)."""
    total = sum(one["rows"] for one in bins)
    return sum(one["rows"] * abs(one["right"] - one["sure"]) for one in bins) / total


def calibration_view(bins: Mapping[str, Sequence[Mapping[str, float]]] | None) -> Any:
    """Return a plot of how often each model was right (up) by how sure it was, and their errors.

    Args:
        bins: by model (`teacher`, `chosen`): `sure`, `right` (means) and `rows` of each.
    """
    if not bins:
        return None
    area = Box(46, 22, _SIZE - 66, _SIZE - 46)
    low = min(one[key] for model in bins.values() for one in model for key in ("sure", "right"))
    low = max(0.0, min(low, 0.9) - 0.02)
    x_of, y_of = Scale(low, 1.0, area.left, area.right), Scale(low, 1.0, area.bottom, area.top)
    ticks = linear_ticks(low, 1.0, 5)
    plot = Plot(
        width=_SIZE,
        height=_SIZE,
        area=area,
        x_ticks=[(x_of(v), f"{100 * v:.0f}%") for v in ticks],
        y_ticks=[(y_of(v), f"{100 * v:.0f}%") for v in ticks],
        line=f"M{x_of(low)} {y_of(low)}L{x_of(1.0)} {y_of(1.0)}",
    )
    ends = [y_of(model[-1]["right"]) for model in bins.values()]
    places = iter(spread_apart(ends, _GAP, area.top, area.bottom))
    for name, model in bins.items():
        points = [(x_of(one["sure"]), y_of(one["right"])) for one in model]
        plot.curves.append(
            Curve(
                path="M" + "L".join(f"{x} {y}" for x, y in points),
                css="teacher" if name == "teacher" else "f0 chosen",
                title=_title(name, model),
                label=name,
                label_x=area.right + 12,
                label_y=round(next(places), 2),
                end_x=points[-1][0],
                end_y=points[-1][1],
            )
        )
    return {
        "plot": plot,
        "errors": {name: calibration_error(model) for name, model in bins.items()},
    }


def _title(name: str, bins: Sequence[Mapping[str, float]]) -> str:
    parts = [
        f"{100 * one['sure']:.0f}% sure, {100 * one['right']:.0f}% right ({one['rows']:.0f} rows)"
        for one in bins
    ]
    return f"{name}: " + "; ".join(parts)
