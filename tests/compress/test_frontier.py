"""Which candidates nothing beats; means over seeds."""

from __future__ import annotations

import statistics

import pytest

from bertwright.compress.frontier import find_frontier, summarise_seeds


def test_the_frontier_is_what_nothing_beats():
    points = {"a": (100, 0.9), "b": (200, 0.8), "c": (150, 0.7), "d": (100, 0.9), "e": (90, 0.9)}
    candidates = [
        {"name": n, "throughput_texts_s": speed, "score": score}
        for n, (speed, score) in points.items()
    ]
    assert find_frontier(candidates) == ["b", "a", "d"]
    assert find_frontier([]) == []


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
