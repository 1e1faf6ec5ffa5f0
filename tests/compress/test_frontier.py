"""Which candidates nothing beats; means over seeds."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from bertwright.compress.candidates import StudentPlan
from bertwright.compress.frontier import describe_best, find_frontier, summarise_seeds
from bertwright.compress.students import TrainedStudent


def test_the_frontier_is_what_nothing_beats():
    points = {"a": (100, 0.9), "b": (200, 0.8), "c": (150, 0.7), "d": (100, 0.9), "e": (90, 0.9)}
    candidates = [
        {"name": n, "throughput_texts_s": speed, "score": score}
        for n, (speed, score) in points.items()
    ]
    assert find_frontier(candidates) == ["b", "a", "d"]
    assert find_frontier([]) == []


def test_the_best_so_far_are_told_by_size_and_score():
    def student(plan: StudentPlan, score: float) -> TrainedStudent:
        return TrainedStudent(plan, Path(), Path(), score, 1, 1.0, 1)

    one, two = StudentPlan(1, "control", 0), StudentPlan(2, "distil", 0)
    thin, bag = StudentPlan(2, "distil", 0, heads=0.5), StudentPlan(0, "distil", 0, small="static")
    told = describe_best([student(two, 0.9), student(one, 0.8), student(thin, 0.7)])
    assert told == "best so far: control-1L 0.8000, distil-2L 0.9000"
    told = describe_best([student(two, 0.9), student(bag, 0.95)])
    assert told == "best so far: distil-static 0.9500"


def test_seeds_are_summarised_by_kind():
    scores = [0.8, 0.9, 0.7]
    candidates = [
        {
            "method": "distil",
            "layers": 2,
            "shape": "2L",
            "engine": "torch",
            "precision": "fp32",
            "seed": seed,
            "score": score,
            "kept": score,
        }
        for seed, score in enumerate(scores)
    ]
    alone = {**candidates[0], "layers": 1, "shape": "1L"}
    (row,) = summarise_seeds([*candidates, alone])
    assert row["scores"] == scores and row["seeds"] == [0, 1, 2]
    assert row["mean"] == pytest.approx(statistics.mean(scores))
    assert row["std"] == pytest.approx(statistics.stdev(scores))
