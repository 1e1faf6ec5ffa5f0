"""A search with a limit of time: what is done when it is over counts, the rest can be resumed."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest

from bertwright.compress import measuring, pipeline
from bertwright.compress.budget import Budget
from bertwright.compress.pipeline import search
from bertwright.compress.timing import SearchTimes, divide_time
from compress.conftest import SEARCH, TRAINING
from compress.fakes import measured_alike


def test_time_is_divided_in_the_order_of_the_work():
    now = time.monotonic()
    times = divide_time(10)
    assert now < times.train_until < times.compile_until < times.end
    assert times.end == pytest.approx(now + 600, abs=5)
    assert divide_time(None) == SearchTimes() and SearchTimes().end == math.inf


def test_a_search_whose_time_is_up_ends_with_a_model_and_goes_on(
    teacher_dir, rows, tmp_path, monkeypatch
):
    monkeypatch.setattr(measuring, "measure_targets", measured_alike)
    config = replace(SEARCH, students=("control", "distil"), depths=(1,), exits=(0.85,))
    common = {"budget": Budget(keep=0.1), "config": config}
    out = tmp_path / "short"
    limited = replace(TRAINING, minutes=1e-6)
    short = search(teacher_dir, rows, training=limited, out=out, **common)
    assert short.choice.met and (out / "model").exists() and (out / "artifact").exists()
    assert {c["method"] for c in short.frontier["candidates"]} == {"teacher"}
    late = short.frontier["dropped"]
    assert set(late) == {"control-1L", "distil-1L", "teacher-e85"}
    assert all("no time was left" in why for why in late.values())
    # time enough to train the one and not to compile it
    moments = SearchTimes(train_until=math.inf, compile_until=0.0)
    monkeypatch.setattr(pipeline, "divide_time", lambda minutes: moments)
    late = search(teacher_dir, rows, training=TRAINING, out=out, **common).frontier["dropped"]
    assert set(late) == {"control-1L@torch:fp32", "distil-1L@torch:fp32", "teacher-e85"}
    stamps = [path.stat().st_mtime_ns for path in sorted(out.glob("students/*/student.json"))]
    monkeypatch.undo()
    monkeypatch.setattr(measuring, "measure_targets", measured_alike)
    done = search(teacher_dir, rows, training=TRAINING, out=out, **common).frontier
    assert len(stamps) == 2 and stamps == [
        path.stat().st_mtime_ns for path in sorted(out.glob("students/*/student.json"))
    ]
    assert {c["method"] for c in done["candidates"]} == {"teacher", "control", "distil", "exits"}
    assert done["dropped"] == {}
