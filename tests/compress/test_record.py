"""What a search writes down of the rows on which two models differ."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bertwright.compress.record import _disagreements
from bertwright.data.load import load_rows
from bertwright.tasks import find_task

TEXTS = ["a", "b", "c", "d"]


def scores(task: str, answers: list[str], truths: list[str], names: tuple[str, ...] = ()) -> Any:
    judged = SimpleNamespace(task=find_task(task))
    sureness = [None] * len(answers)
    return SimpleNamespace(
        judged=judged, answers=answers, truths=truths, sureness=sureness, label_names=names
    )


def test_numbers_have_the_gap_and_the_widest_comes_first():
    rows = load_rows(
        [{"text": text, "label": 1.0} for text in TEXTS], schema=find_task("regress").schema
    )
    teacher = scores("regress", ["1.0", "2.0", "3.0", "4.0"], ["1", "2", "3", "4"])
    chosen = scores("regress", ["1.5", "2.0", "0.5", "3.9"], ["1", "2", "3", "4"])
    found = _disagreements(rows, teacher, chosen)
    assert [entry["text"] for entry in found] == ["c", "a", "d"]
    assert [entry["gap"] for entry in found] == pytest.approx([2.5, 0.5, 0.1])


def test_labels_that_look_like_numbers_are_labels():
    rows = load_rows([{"text": text, "label": "1"} for text in TEXTS])
    names = ("1", "2")
    teacher = scores("classify", ["1", "1", "2", "2"], ["1"] * 4, names)
    chosen = scores("classify", ["1", "2", "2", "1"], ["1"] * 4, names)
    found = _disagreements(rows, teacher, chosen)
    assert [entry["text"] for entry in found] == ["b", "d"]
    assert not any("gap" in entry for entry in found)
