"""The geometry of the report's charts: where points, ticks and labels stand, in SVG units.

Everything here is numbers in, numbers out; the templates draw. Colours come from the page's style
sheet through class names, so that one drawing serves light, dark and paper.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Box",
    "Curve",
    "Label",
    "Plot",
    "Point",
    "Scale",
    "find_unbeaten",
    "layout_curves",
    "layout_frontier",
    "linear_ticks",
    "log_ticks",
    "marker_path",
    "place_labels",
    "spread_apart",
]

CHARACTER_WIDTH = 0.56
"""Of the mean character, as a share of the font size; a little more than sans-serifs need."""

BOLD_CHARACTER_WIDTH = 0.63

SHAPES = ("circle", "triangle", "square", "hexagon", "wedge", "bar")


@dataclass(frozen=True)
class Box:
    """An upright rectangle: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Return whether the two share any area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """Return whether `other` lies wholly inside."""
        return (
            self.left <= other.left
            and self.top <= other.top
            and self.right >= other.right
            and self.bottom >= other.bottom
        )


@dataclass(frozen=True)
class Scale:
    """Maps values to positions, on a line or on a logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of `value`, rounded to a hundredth."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 2)


@dataclass(frozen=True)
class Label:
    """A placed label; `leader` joins it to its point when it stands away from it."""

    text: str
    x: float
    y: float
    anchor: str
    css: str
    leader: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Point:
    """One model in the frontier plot."""

    x: float
    y: float
    low: float
    high: float
    path: str
    css: str
    title: str


@dataclass(frozen=True)
class Curve:
    """One line of a training chart, with its label at the right."""

    path: str
    css: str
    title: str
    label: str
    label_x: float
    label_y: float
    end_x: float
    end_y: float


@dataclass
class Plot:
    """All that a template needs to draw one chart."""

    width: float
    height: float
    area: Box
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    points: list[Point] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    line: str = ""
    goal: Box | None = None
    goal_y: float | None = None
    goal_x: float | None = None
    goal_y_label: Label | None = None
    goal_x_label: Label | None = None
    curves: list[Curve] = field(default_factory=list)


def linear_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return round values (steps of 1, 2 or 5 times a power of ten) inside [low, high]."""
    raw = (high - low) / max(1, count - 1)
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int = 8) -> list[float]:
    """Return 1-2-5 values inside [low, high]; powers of ten alone when those are too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    tens = [t for t in ticks if f"{t:e}".startswith("1.0")]
    return tens if len(ticks) > count and len(tens) >= 2 else ticks


def marker_path(shape: str, x: float, y: float, r: float) -> str:
    """Return the SVG path of a marker of about the area of a circle of radius `r`.

    Raises:
        ValueError: no such shape.
    """
    if shape == "circle":
        return f"M{x - r:.2f} {y:.2f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z"
    if shape == "cross":
        a, b = r * 0.35, r * 1.05
        corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
        corners += [(-px, -py) for px, py in corners]
    elif shape in _CORNERS:
        corners = [(px * r, py * r) for px, py in _CORNERS[shape]]
    else:
        raise ValueError(f"no marker of shape {shape!r}")
    return "M" + "L".join(f"{x + px:.2f} {y + py:.2f}" for px, py in corners) + "Z"


_CORNERS: Mapping[str, Sequence[tuple[float, float]]] = {
    "triangle": [(0, -1.25), (1.2, 0.85), (-1.2, 0.85)],
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "diamond": [(0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)],
    "hexagon": [(-1.1, 0), (-0.55, -0.95), (0.55, -0.95), (1.1, 0), (0.55, 0.95), (-0.55, 0.95)],
    "wedge": [(0, 1.25), (1.2, -0.85), (-1.2, -0.85)],
    "bar": [(-0.55, -1.25), (0.55, -1.25), (0.55, 1.25), (-0.55, 1.25)],
}


def find_unbeaten(models: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the names of the models that no other beats in score and throughput.

    A model is beaten by one that is at least as good in both and better in one.
    """

    def beats(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
        as_good = a["score"] >= b["score"] and a["throughput_texts_s"] >= b["throughput_texts_s"]
        better = a["score"] > b["score"] or a["throughput_texts_s"] > b["throughput_texts_s"]
        return as_good and better

    return {b["name"] for b in models if not any(beats(a, b) for a in models)}


def place_labels(
    wanted: Iterable[tuple[str, float, float, str, bool]],
    taken: Sequence[Box],
    area: Box,
    *,
    soft: Sequence[Box] = (),
    size: float = 12.0,
) -> list[Label]:
    """Place labels beside their points so that none covers another, a marker, or the edge.

    Tries the places around the point, near ones first; a label that stands away gets a leader.

    Args:
        wanted: (text, x, y, css class, must) in order of importance. One that finds no free place
            is left out, unless it must be there: then it stands where it covers least.
        taken: what labels may not cover.
        area: what labels must stay in.
        soft: what labels had better not cover (thin lines).
        size: font size.
    """
    done: list[Box] = []
    placed = []
    for text, x, y, css, must in wanted:
        width = len(text) * size * (BOLD_CHARACTER_WIDTH if must else CHARACTER_WIDTH)
        best: tuple[int, Label, Box] | None = None
        for distance, (dx, dy) in itertools.product(_DISTANCES, _DIRECTIONS):
            label, box = _try_place(text, x, y, dx, dy, distance, width, size, css)
            covered = sum(
                weight * sum(box.overlaps(other) for other in others)
                for weight, others in ((1, soft), (5, taken), (1000, done))
            ) + 1000 * (not area.holds(box))
            if best is None or covered < best[0]:
                best = covered, label, box
            if covered == 0:
                break
        if best is not None and (must or best[0] == 0):
            placed.append(best[1])
            done.append(best[2])
    return placed


def _along_line(text: str, y: float, area: Box, taken: Sequence[Box]) -> tuple[Label, Box]:
    """Place words above or below a level line, as far left as nothing is in the way."""
    width = len(text) * 12 * CHARACTER_WIDTH
    first: tuple[Label, Box] | None = None
    left = area.left + 6
    while left + width < area.right:
        for baseline in (y - 5, y + 14):
            box = Box(left - 3, baseline - 11, left + width + 3, baseline + 3)
            found = Label(text, round(left, 2), round(baseline, 2), "start", "goal-text"), box
            first = first or found
            if area.holds(box) and not any(box.overlaps(other) for other in taken):
                return found
        left += 8
    if first is None:
        box = Box(area.left, y - 16, area.left + width, y - 2)
        first = Label(text, area.left + 6, y - 5, "start", "goal-text"), box
    return first


_DISTANCES = (11, 20, 32, 46, 62, 80, 100)
_DIRECTIONS = (
    (1, 0),
    (1, -0.8),
    (-1, 0),
    (1, 0.8),
    (-1, -0.8),
    (-1, 0.8),
    (0, -1),
    (0, 1),
)


def _try_place(
    text: str,
    x: float,
    y: float,
    dx: float,
    dy: float,
    distance: float,
    width: float,
    size: float,
    css: str,
) -> tuple[Label, Box]:
    at_x = x + dx * distance
    at_y = y + dy * distance + (0 if dx else 3 * dy)
    left = at_x if dx > 0 else at_x - width if dx < 0 else at_x - width / 2
    box = Box(left - 2, at_y - size * 0.7, left + width + 2, at_y + size * 0.7)
    anchor = "start" if dx > 0 else "end" if dx < 0 else "middle"
    leader = None
    if distance > 20:
        norm = math.hypot(dx, dy)
        near = 9 / norm
        end_x = at_x - math.copysign(3, dx) if dx else at_x
        leader = (
            round(x + dx * near, 2),
            round(y + dy * near, 2),
            round(end_x, 2),
            round(at_y if dx else at_y - dy * size * 0.7, 2),
        )
    return Label(text, round(at_x, 2), round(at_y + size * 0.35, 2), anchor, css, leader), box


def spread_apart(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions near the given ones, in the same order, at least `gap` apart.

    They stay inside [low, high] when there is room for all.
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    spread = [0.0] * len(positions)
    last = low - gap
    for index in order:
        last = spread[index] = max(positions[index], last + gap)
    limit = high
    for index in reversed(order):
        spread[index] = min(spread[index], limit)
        limit = spread[index] - gap
    return spread


def layout_frontier(
    models: Sequence[Mapping[str, Any]],
    *,
    width: float,
    height: float,
    format_score: Any,
    goal_score: float | None = None,
    goal_throughput: float | None = None,
    goal_labels: tuple[str, str] = ("", ""),
    line_of: Sequence[str] = (),
) -> Plot:
    """Lay out score with interval (up) against throughput (right, logarithmic).

    Args:
        models: `name, score, score_low, score_high, throughput_texts_s`, and how to draw it:
            `shape`, `css`, `label` (or None), `must_label`, `title`. The first are drawn lowest
            and labelled last.
        width: of the chart in SVG units.
        height: likewise.
        format_score: a function from a score to its text, for the ticks.
        goal_score: least score asked for, or None.
        goal_throughput: least texts a second asked for, or None.
        goal_labels: words for the two goal lines.
        line_of: names of the models that the frontier's line joins.
    """
    area = Box(58, 22, width - 16, height - 46)
    scores = [v for m in models for v in (m["score_low"], m["score_high"])]
    if goal_score is not None:
        scores.append(goal_score)
    rates = [m["throughput_texts_s"] for m in models]
    if goal_throughput is not None:
        rates.append(goal_throughput)
    pad = max(0.06 * (max(scores) - min(scores)), 0.002)
    y_of = Scale(min(scores) - pad, max(scores) + pad, area.bottom, area.top)
    x_of = Scale(min(rates) / 1.35, max(rates) * 1.5, area.left, area.right, log=True)
    y_values = linear_ticks(y_of.low, y_of.high, 7)
    x_values = log_ticks(x_of.low, x_of.high, 8 if width > 600 else 5)
    plot = Plot(
        width=width,
        height=height,
        area=area,
        x_ticks=[(x_of(v), f"{v:,.0f}" if v >= 1 else f"{v:g}") for v in x_values],
        y_ticks=[(y_of(v), format_score(v)) for v in y_values],
    )
    taken: list[Box] = []
    whiskers: list[Box] = []
    for model in models:
        x, y = x_of(model["throughput_texts_s"]), y_of(model["score"])
        low, high = y_of(model["score_low"]), y_of(model["score_high"])
        path = marker_path(model["shape"], x, y, 6.0)
        plot.points.append(Point(x, y, low, high, path, model["css"], model["title"]))
        taken.append(Box(x - 8, y - 8, x + 8, y + 8))
        whiskers.append(Box(x - 1, high, x + 1, low))
    if goal_score is not None:
        plot.goal_y = y_of(goal_score)
        plot.goal_y_label, box = _along_line(goal_labels[0], plot.goal_y, area, [*taken, *whiskers])
        taken.append(box)
    if goal_throughput is not None:
        plot.goal_x = x_of(goal_throughput)
        anchor = "start" if plot.goal_x < (area.left + area.right) / 2 else "end"
        offset = 5 if anchor == "start" else -5
        plot.goal_x_label = Label(
            goal_labels[1], plot.goal_x + offset, area.bottom - 7, anchor, "goal-text"
        )
        text_width = len(goal_labels[1]) * 12 * CHARACTER_WIDTH
        left = plot.goal_x if anchor == "start" else plot.goal_x - text_width
        taken.append(Box(left, area.bottom - 20, left + text_width, area.bottom))
    if goal_score is not None or goal_throughput is not None:
        left = area.left if plot.goal_x is None else plot.goal_x
        bottom = area.bottom if plot.goal_y is None else plot.goal_y
        plot.goal = Box(left, area.top, area.right, bottom)
    wanted = [
        (m["label"], x_of(m["throughput_texts_s"]), y_of(m["score"]), m["css"], m["must_label"])
        for m in reversed(models)
        if m["label"]
    ]
    plot.labels = place_labels(wanted, taken, area, soft=whiskers)
    joined = sorted((m for m in models if m["name"] in line_of), key=lambda m: -m["score"])
    if len(joined) > 1:
        steps = [f"{x_of(m['throughput_texts_s'])} {y_of(m['score'])}" for m in joined]
        plot.line = "M" + "L".join(steps)
    return plot


def layout_curves(
    series: Sequence[Mapping[str, Any]],
    *,
    width: float,
    height: float,
    format_value: Any,
) -> Plot | None:
    """Lay out lines over epochs, each labelled at its right end.

    Args:
        series: `name`, `css`, `points` [(epoch, value)], `labelled`; the last is drawn on top.
        width: of the chart in SVG units.
        height: likewise.
        format_value: a function from a value to its text, for the ticks.

    Returns:
        The plot, or None when no series has a point.
    """
    series = [s for s in series if s["points"]]
    if not series:
        return None
    longest = max((len(s["name"]) for s in series if s["labelled"]), default=0)
    margin = min(longest * 11.5 * CHARACTER_WIDTH + 18, width * 0.38)
    area = Box(46, 12, width - margin, height - 40)
    xs = [x for s in series for x, _ in s["points"]]
    ys = [y for s in series for _, y in s["points"]]
    x_high = max(xs) if max(xs) > min(min(xs), 0) else min(xs) + 1
    pad = 0.06 * (max(ys) - min(ys)) or 0.05 * abs(max(ys)) or 0.5
    x_of = Scale(min(0, *xs), x_high, area.left, area.right)
    y_of = Scale(min(ys) - pad, max(ys) + pad, area.bottom, area.top)
    ends = [y_of(s["points"][-1][1]) for s in series if s["labelled"]]
    label_ys = iter(spread_apart(ends, 14, area.top + 4, area.bottom))
    plot = Plot(
        width=width,
        height=height,
        area=area,
        x_ticks=[(x_of(v), f"{v:g}") for v in linear_ticks(x_of.low, x_of.high, 6)],
        y_ticks=[(y_of(v), format_value(v)) for v in linear_ticks(y_of.low, y_of.high, 5)],
    )
    fits = int((margin - 18) / (11.5 * CHARACTER_WIDTH))
    for one in series:
        steps = [f"{x_of(x)} {y_of(y)}" for x, y in one["points"]]
        label = one["name"] if len(one["name"]) <= fits + 1 else one["name"][:fits] + "…"
        plot.curves.append(
            Curve(
                path="M" + "L".join(steps),
                css=one["css"],
                title=one["name"],
                label=label if one["labelled"] else "",
                label_x=round(area.right + 12, 2),
                label_y=round(next(label_ys), 2) if one["labelled"] else 0.0,
                end_x=x_of(one["points"][-1][0]),
                end_y=y_of(one["points"][-1][1]),
            )
        )
    return plot
