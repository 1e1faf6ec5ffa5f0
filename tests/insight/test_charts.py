"""The geometry of the charts, against brute force and plain arithmetic."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest

from bertwright.insight.charts import (
    SHAPES,
    Box,
    Scale,
    find_unbeaten,
    layout_curves,
    layout_frontier,
    linear_ticks,
    log_ticks,
    marker_path,
    place_labels,
    spread_apart,
)
from insight.synthetic import make_frontier


def test_scales_map_ends_to_ends() -> None:
    line = Scale(0, 10, 100, 200)
    assert [line(v) for v in (0, 5, 10)] == [100, 150, 200]
    log = Scale(1, 100, 0, 200, log=True)
    assert [log(v) for v in (1, 10, 100)] == [0, 100, 200]


def test_ticks_are_round_and_inside() -> None:
    assert linear_ticks(0, 1, 6) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert linear_ticks(0.7312, 0.8951, 5) == [0.75, 0.8, 0.85]
    assert log_ticks(300, 12000) == [500, 1000, 2000, 5000, 10000]
    assert log_ticks(1, 1e6) == [10.0**p for p in range(7)]
    for low, high in ((0.5, 0.51), (-3, 4), (12345, 99999)):
        ticks = linear_ticks(low, high, 6)
        assert 2 <= len(ticks) <= 7
        assert all(low - 1e-9 <= t <= high + 1e-9 for t in ticks)


@pytest.mark.parametrize("shape", [*SHAPES, "diamond", "cross"])
def test_markers_stand_around_their_point_and_are_about_as_big_as_a_circle(shape: str) -> None:
    path = marker_path(shape, 50, 80, 6)
    assert path.startswith("M") and path.endswith("Z")
    if shape == "circle":
        return
    corners = [tuple(map(float, p)) for p in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]
    pairs = zip(corners, corners[1:] + corners[:1], strict=True)
    area = abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in pairs)) / 2
    assert 0.5 < area / (math.pi * 36) < 1.3
    assert all(math.dist(c, (50, 80)) < 10 for c in corners)


def test_shapes_differ_and_unknown_ones_raise() -> None:
    assert len({marker_path(shape, 0, 0, 5) for shape in SHAPES}) == len(SHAPES)
    with pytest.raises(ValueError, match="star"):
        marker_path("star", 0, 0, 5)


def test_unbeaten_agrees_with_brute_force() -> None:
    generator = np.random.default_rng(0)
    models = [
        {"name": str(i), "score": float(s), "throughput_texts_s": float(r)}
        for i, (s, r) in enumerate(generator.integers(0, 6, (40, 2)))
    ]
    expected = set()
    for one in models:
        beaten = False
        for other in models:
            a = (other["score"], other["throughput_texts_s"])
            b = (one["score"], one["throughput_texts_s"])
            beaten |= a != b and a[0] >= b[0] and a[1] >= b[1]
        if not beaten:
            expected.add(one["name"])
    assert find_unbeaten(models) == expected
    assert 0 < len(expected) < 40


def _box(label) -> Box:
    width = len(label.text) * 12 * 0.56
    left = {"start": 0, "end": width, "middle": width / 2}[label.anchor]
    return Box(label.x - left, label.y - 11, label.x - left + width, label.y + 2)


def test_labels_cover_neither_each_other_nor_markers() -> None:
    generator = np.random.default_rng(1)
    area = Box(0, 0, 900, 500)
    points = [(f"model-{i}", *generator.uniform((50, 50), (850, 450))) for i in range(25)]
    markers = [Box(x - 8, y - 8, x + 8, y + 8) for _, x, y in points]
    labels = place_labels([(t, x, y, "", False) for t, x, y in points], markers, area)
    assert len(labels) >= 15
    boxes = [_box(label) for label in labels]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert not any(a.overlaps(b) for a in boxes for b in markers)
    assert all(area.holds(box) for box in boxes)


def test_a_label_without_room_is_left_out_unless_it_must_be_there() -> None:
    area = Box(0, 0, 100, 100)
    full = [Box(0, 0, 100, 100)]
    assert place_labels([("a", 50, 50, "", False)], full, area) == []
    (label,) = place_labels([("a", 50, 50, "", True)], full, area)
    assert label.text == "a"


def test_spread_apart_keeps_order_and_gap() -> None:
    found = spread_apart([50, 52, 51, 10, 99], 10, 0, 100)
    assert [sorted(found).index(v) for v in found] == [1, 3, 2, 0, 4]
    assert min(b - a for a, b in itertools.pairwise(sorted(found))) >= 10
    assert min(found) >= 0 and max(found) <= 100
    assert spread_apart([10, 50], 10, 0, 100) == [10, 50]


def test_frontier_puts_better_higher_and_faster_further_right() -> None:
    models = [
        {
            **{"name": c["name"], "shape": "circle", "css": "f0", "title": c["name"]},
            **{k: c[k] for k in ("score", "score_low", "score_high", "throughput_texts_s")},
            **{"label": c["name"], "must_label": False},
        }
        for c in make_frontier()["candidates"]
    ]
    plot = layout_frontier(
        models,
        width=900,
        height=460,
        format_score=str,
        goal_score=0.85,
        goal_throughput=2000,
        goal_labels=("kept", "fast"),
    )
    by_score = sorted(zip(models, plot.points, strict=True), key=lambda pair: pair[0]["score"])
    assert all(a[1].y >= b[1].y for a, b in itertools.pairwise(by_score))
    by_rate = sorted(
        zip(models, plot.points, strict=True), key=lambda pair: pair[0]["throughput_texts_s"]
    )
    assert all(a[1].x <= b[1].x for a, b in itertools.pairwise(by_rate))
    for model, point in zip(models, plot.points, strict=True):
        assert plot.area.left <= point.x <= plot.area.right
        assert plot.area.top <= point.high < point.y < point.low <= plot.area.bottom
        inside = model["score"] >= 0.85 and model["throughput_texts_s"] >= 2000
        assert plot.goal is not None
        spot = Box(point.x, point.y, point.x, point.y)
        assert plot.goal.holds(spot) == inside


def test_one_model_alone_can_be_drawn() -> None:
    model = {"name": "a", "shape": "circle", "css": "", "label": "a", "title": "a"}
    model |= {"score": 1.0, "score_low": 1.0, "score_high": 1.0, "throughput_texts_s": 10.0}
    plot = layout_frontier([{**model, "must_label": True}], width=400, height=300, format_score=str)
    assert len(plot.points) == 1 and plot.labels[0].text == "a"


def test_curves_of_one_point_no_point_and_a_flat_line() -> None:
    def series(name, points):
        return {"name": name, "css": "f0", "points": points, "labelled": True}

    assert layout_curves([series("none", [])], width=500, height=300, format_value=str) is None
    plot = layout_curves(
        [series("one", [(0.0, 2.0)]), series("flat", [(0.0, 2.0), (1.0, 2.0)])],
        width=500,
        height=300,
        format_value=str,
    )
    assert plot is not None
    assert [curve.label for curve in plot.curves] == ["one", "flat"]
    assert abs(plot.curves[0].label_y - plot.curves[1].label_y) >= 14
