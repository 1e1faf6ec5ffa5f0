"""Parts of the report: the steps to the chosen speed, what matters, and calibration."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from bertwright.insight.calibration import calibration_error, calibration_view
from bertwright.insight.importance import importance_view
from bertwright.insight.report import render_report
from bertwright.insight.steps import speed_steps
from insight.synthetic import make_extras, make_frontier


def candidate(method: str, engine: str, precision: str, rate: float, **more: Any) -> dict[str, Any]:
    return {
        "name": f"{method}@{engine}:{precision}",
        **{"method": method, "engine": engine, "precision": precision},
        **{"throughput_texts_s": rate, "kept": 0.99},
        **more,
    }


BASELINE = {"engine": "transformers", "throughput_texts_s": 100.0}
TEACHER = {"layers": 6}
WAY = [
    candidate("teacher", "torch", "fp32", 150),
    candidate("teacher", "openvino", "fp32", 300),
    candidate("teacher", "openvino", "int8", 900),
]
SMALL = candidate("distil", "openvino", "int8", 2700, layers=2, shape="2L")


def test_steps_multiply_to_the_whole_speed_up():
    steps = speed_steps(SMALL, [*WAY, SMALL], TEACHER, BASELINE)
    assert [step["words"] for step in steps] == [
        "",
        "Batches of rows of like length",
        "OpenVINO in place of torch",
        "int8 in place of fp32",
        "2 of 6 layers",
    ]
    factors = [step["factor"] for step in steps[1:]]
    assert factors == pytest.approx([1.5, 2, 3, 3]) and math.prod(factors) == pytest.approx(27)
    assert steps[0]["left"] == 0 and steps[-1]["left"] + steps[-1]["width"] == pytest.approx(1)
    for before, after in itertools.pairwise(steps):
        assert before["left"] + before["width"] == pytest.approx(after["left"])
    assert not any(step["slower"] for step in steps)


def test_what_was_not_measured_between_is_one_step_and_a_slower_one_is_told():
    steps = speed_steps(SMALL, [WAY[0], SMALL], TEACHER, BASELINE)
    assert [step["words"] for step in steps[2:]] == [
        "OpenVINO in place of torch; int8 in place of fp32; 2 of 6 layers"
    ]
    slow = [candidate("teacher", "torch", "fp32", 50), *WAY[1:]]
    slower = speed_steps(SMALL, [*slow, SMALL], TEACHER, BASELINE)[1]
    assert slower["slower"] and slower["factor"] == pytest.approx(0.5)
    assert (slower["left"], slower["width"]) == (0.0, pytest.approx(math.log(2) / math.log(54)))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("4L-h50-f25", "4 of 6 layers, 50% of the heads, 25% of the neurons"),
        ("6L-f70", "6 of 6 layers, 70% of the neurons"),
        ("static-ngrams-2", "A student without attention (static-ngrams-2)"),
    ],
)
def test_how_a_student_is_smaller(shape, words):
    small = {**SMALL, "shape": shape}
    assert speed_steps(small, [*WAY, small], TEACHER, BASELINE)[-1]["words"] == words


def test_stopping_early_is_a_step_of_its_own_where_the_whole_was_measured():
    student = candidate("fitted", "openvino", "fp32", 900, name="fitted-3L@openvino:fp32")
    early = candidate("exits", "openvino", "fp32", 1800, name="fitted-3L-e99@openvino:fp32")
    student |= {"layers": 3, "shape": "3L"}
    early |= {"layers": 3, "shape": "3L-e99", "whole": "fitted-3L"}
    steps = speed_steps(early, [*WAY, student, early], TEACHER, BASELINE)
    assert [step["words"] for step in steps[3:]] == ["3 of 6 layers", "Stopping early"]
    assert [step["factor"] for step in steps[3:]] == pytest.approx([3, 2])
    steps = speed_steps(early, [*WAY, early], TEACHER, BASELINE)
    assert [step["words"] for step in steps[3:]] == ["3 of 6 layers; Stopping early"]
    of_teacher = candidate("exits", "openvino", "fp32", 600, name="teacher-e97@openvino:fp32")
    of_teacher |= {"layers": 6, "shape": "6L-e97", "whole": "teacher"}
    steps = speed_steps(of_teacher, [*WAY, of_teacher], TEACHER, BASELINE)
    assert [step["words"] for step in steps[3:]] == ["Stopping early"]
    assert steps[-1]["factor"] == pytest.approx(2)


def test_one_step_alone_is_none():
    torch_only = candidate("teacher", "torch", "fp32", 150)
    assert speed_steps(torch_only, [torch_only], TEACHER, BASELINE) == []
    assert speed_steps(None, [], TEACHER, BASELINE) == []


def test_calibration_by_hand():
    bins = [{"sure": 0.6, "right": 0.5, "rows": 10}, {"sure": 0.9, "right": 1.0, "rows": 30}]
    assert calibration_error(bins) == pytest.approx((10 * 0.1 + 30 * 0.1) / 40)
    view = calibration_view({"teacher": bins, "chosen": bins[1:]})
    plot = view["plot"]
    assert [curve.label for curve in plot.curves] == ["teacher", "chosen"]
    assert abs(plot.curves[0].label_y - plot.curves[1].label_y) >= 14
    for curve in plot.curves:
        assert plot.area.left <= curve.end_x <= plot.area.right
        assert plot.area.top <= curve.end_y <= plot.area.bottom
    assert "60% sure, 50% right (10 rows)" in plot.curves[0].title
    assert calibration_view(None) is None and calibration_view({}) is None


def test_importance_is_told_in_shares_of_the_largest():
    found = importance_view({"layers": [1.0, 4.0], "heads": [[2.0, 1.0], [0.5, 0.0]]})
    assert found is not None and found["columns"] == ["layers"] and found["num_heads"] == 2
    assert [row["heads"] for row in found["rows"]] == [[1.0, 0.5], [0.25, 0.0]]
    assert [row["columns"] for row in found["rows"]] == [[0.25], [1.0]]
    whole = importance_view({"layers": [0.0], "neurons": [3.0]})
    assert whole is not None and whole["rows"][0] == {"layer": 1, "columns": [0, 1], "heads": []}
    assert importance_view(None) is None


def test_the_page_has_all_parts(tmp_path: Path) -> None:
    frontier, extras = make_frontier(), make_extras(6)
    chosen = next(c for c in frontier["candidates"] if c["name"] == frontier["chosen"])
    for engine, precision, rate in (("torch", "fp32", 500), ("openvino", "int8", 1800)):
        like = {**chosen, "method": "teacher", "engine": engine, "precision": precision}
        like |= {"name": f"teacher@{engine}:{precision}", "throughput_texts_s": rate, "layers": 6}
        frontier["candidates"].append(like)
    bins = [{"sure": s / 10 + 0.05, "right": s / 10, "rows": 20} for s in range(4, 10)]
    extras["calibration"] = {"teacher": bins, "chosen": bins[2:]}
    heads = [[(layer + 1) * (head + 1) / 72 for head in range(12)] for layer in range(6)]
    extras["importance"] = {"layers": [1, 2, 3, 4, 5, 6], "neurons": [1.0] * 6, "heads": heads}
    html = render_report(frontier, extras, tmp_path / "report.html").read_text(encoding="utf-8")
    for part in ("steps", "importance", "calibration"):
        assert f'<section id="{part}"' in html and f'href="#{part}"' in html
    assert html.count('<td class="head"') == 72
    bare = render_report(make_frontier(), make_extras(6), tmp_path / "bare.html")
    for part in ("steps", "importance", "calibration"):
        assert f'id="{part}"' not in bare.read_text(encoding="utf-8")
