"""Depths, plans and successive halving."""

from __future__ import annotations

import numpy as np
import pytest

from bertwright.compress.candidates import (
    StudentPlan,
    plan_students,
    sensible_depths,
    why_not_narrow,
)
from bertwright.compress.config import SearchConfig
from bertwright.compress.halving import choose_dropped
from bertwright.compress.pipeline import _plan
from bertwright.errors import ConfigError
from bertwright.tasks import find_task
from bertwright.tasks.judged import Judged
from methods.cases import tiny_teacher


def test_depths_are_the_divisors_below():
    assert sensible_depths(12) == (6, 4, 3, 2, 1)
    assert sensible_depths(6) == (3, 2, 1)
    assert sensible_depths(1) == ()


def test_cheap_students_come_first():
    plans = plan_students(6)
    assert [p.layers for p in plans] == [1] * 4 + [2] * 4 + [3] * 4
    assert len({p.name for p in plans}) == 12


def test_a_depth_that_does_not_divide_is_refused_only_for_theseus():
    with pytest.raises(ConfigError, match="theseus|Theseus"):
        plan_students(6, depths=[4])
    assert len(plan_students(6, depths=[4], methods=["distil"])) == 1
    with pytest.raises(ConfigError, match="--depths 6"):
        plan_students(6, depths=[6])


def test_narrow_and_small_students_are_made_without_what_works_with_layers():
    plans = plan_students(
        6,
        depths=[3],
        narrow=["heads=0.5", "layers=4,neurons=0.25"],
        small=["static:ngrams=2", "cnn:layers=3"],
    )
    names = [plan.name for plan in plans]
    assert names == [
        "control-static-ngrams-2",
        "distil-static-ngrams-2",
        "fitted-static-ngrams-2",
        "control-cnn-layers-3",
        "distil-cnn-layers-3",
        "control-4L-f25",
        "distil-4L-f25",
        "fitted-4L-f25",
        "control-3L",
        "distil-3L",
        "fitted-3L",
        "theseus-3L",
        "control-6L-h50",
        "distil-6L-h50",
        "fitted-6L-h50",
    ]
    costs = [plan.cost for plan in plans]
    assert costs == sorted(costs) and costs[0] == 0
    assert plans[-1].cost == pytest.approx(6 * (1 / 3 * 0.5 + 2 / 3))


def test_a_narrow_size_is_tried_where_no_sizes_are_asked_for():
    narrow = "heads=0.5,neurons=0.25"
    assert SearchConfig().tried_narrow == (narrow,)
    assert SearchConfig(depths=(2,)).tried_narrow == ()
    assert SearchConfig(depths=(2,), narrow=("heads=0.5",)).tried_narrow == ("heads=0.5",)
    names = {plan.name for plan in _plan(tiny_teacher(), SearchConfig(), seed=0)}
    assert names >= {"control-4L-h50-f25", "distil-4L-h50-f25", "fitted-4L-h50-f25", "distil-2L"}


@pytest.mark.parametrize("family", ["albert", "modernbert", "xlnet"])
def test_a_family_that_cannot_be_narrower_is_searched_without(family):
    teacher = tiny_teacher(family)
    assert "heads" in str(why_not_narrow(teacher)) or "neurons" in str(why_not_narrow(teacher))
    names = {plan.name for plan in _plan(teacher, SearchConfig(), seed=0)}
    assert "distil-2L" in names and not any("-h50" in name for name in names)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"narrow": ["heads=1.5"]}, "heads"),
        ({"narrow": ["layers=3"]}, "keeps everything"),
        ({"narrow": ["layers=7,heads=0.5"]}, "6 layers"),
        ({"narrow": ["width=3"]}, "width"),
        ({"narrow": ["0.5"]}, "key=value"),
        ({"small": ["statik"]}, "statik"),
        ({"small": ["cnn:kernel=2"]}, "kernel"),
    ],
)
def test_sizes_that_cannot_be_are_refused(given, reason):
    with pytest.raises(ConfigError, match=reason):
        plan_students(6, **given)


def test_a_cheaper_student_of_another_kind_drops_a_dearer_one():
    bag = StudentPlan(0, "distil", 0, small="static")
    narrow = StudentPlan(6, "distil", 0, heads=0.5)
    assert list(choose_dropped({bag: rows(0.9), narrow: rows(0.7)})) == [narrow]
    assert choose_dropped({bag: rows(0.7), narrow: rows(0.9)}) == {}


def rows(share: float, count: int = 400, shift: int = 0) -> Judged:
    """Return answers of which this share is right."""
    right = np.roll(np.arange(count) < share * count, shift)
    return Judged(find_task("classify"), np.stack([right, np.ones(count)], axis=1).astype(float))


def test_a_clearly_beaten_student_is_dropped_with_figures():
    good, bad = StudentPlan(2, "distil", 0), StudentPlan(2, "theseus", 0)
    dropped = choose_dropped({good: rows(0.9), bad: rows(0.6)})
    assert list(dropped) == [bad]
    assert "60.0%" in dropped[bad] and "distil-2L" in dropped[bad]


def test_equal_students_both_stay():
    a, b = StudentPlan(2, "distil", 0), StudentPlan(2, "theseus", 0)
    assert choose_dropped({a: rows(0.8), b: rows(0.8, shift=60)}) == {}
    assert choose_dropped({a: rows(0.8), b: rows(0.8)}) == {}


def test_a_shallower_student_that_is_better_drops_a_deeper_one():
    shallow, deep = StudentPlan(1, "distil", 0), StudentPlan(3, "distil", 0)
    assert list(choose_dropped({shallow: rows(0.9), deep: rows(0.7)})) == [deep]
    assert choose_dropped({shallow: rows(0.7), deep: rows(0.9)}) == {}


def test_the_control_stays_and_may_drop_others():
    control, bad = StudentPlan(2, "control", 0), StudentPlan(2, "theseus", 0)
    other = StudentPlan(2, "distil", 0)
    dropped = choose_dropped({control: rows(0.9), bad: rows(0.5), other: rows(0.85)})
    assert list(dropped) == [bad]
    assert choose_dropped({control: rows(0.1), other: rows(0.9)}) == {}
