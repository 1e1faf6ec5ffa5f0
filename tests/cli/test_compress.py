"""What a person reads when a search ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bertwright.cli.compress import show
from bertwright.compress.budget import Choice
from bertwright.verbs.compress import CompressResult
from insight.synthetic import make_frontier


def result_of(frontier: dict[str, Any]) -> CompressResult:
    frontier["frontier"] = [c["name"] for c in frontier["candidates"][:2]]
    frontier["baseline"]["speedup"] = 1.0
    return CompressResult(
        run_dir=Path("small"),
        model_dir=Path("small/model"),
        artifact_dir=Path("small/artifact"),
        report=Path("small/report.html"),
        frontier=frontier,
        choice=Choice(frontier["chosen"], frontier["met"], (), frontier["reason"]),
        prefer="speed",
    )


def judge(frontier: dict[str, Any]) -> dict[str, Any]:
    for number, one in enumerate((*frontier["candidates"], frontier["baseline"])):
        score = 0.9 - number / 1000
        one |= {"test_score": score, "test_score_low": 0.8, "test_score_high": 0.95}
        one |= {"test_num_rows": 500, "test_kept": 0.971, "test_kept_low": 0.95}
        one |= {"test_kept_high": 0.99}
    return frontier


def test_scores_are_of_the_rows_that_judge_and_both_shares_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    frontier = judge(make_frontier())
    assert show(result_of(frontier)) == 0
    seen = capsys.readouterr()
    chosen = next(c for c in frontier["candidates"] if c["name"] == frontier["chosen"])
    line = next(one for one in seen.out.splitlines() if chosen["name"] in one)
    assert f"{chosen['test_score']:.4f}" in line and "97.1%" in line
    said = " ".join(seen.err.split())
    assert "of 500 rows that the search did not use: there it keeps 97.1%" in said
    assert f"and {chosen['kept']:.1%} on the 872 that it was chosen by" in said


def test_without_such_rows_nothing_is_said_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    frontier = make_frontier()
    assert show(result_of(frontier)) == 0
    assert "did not use" not in capsys.readouterr().err


def test_a_missed_budget_ends_with_1_and_says_by_how_much(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert show(result_of(judge(make_frontier(met=False)))) == 1
    said = capsys.readouterr().err
    assert "no candidate meets the budget" in said and "max_size_mb: asked 40" in said
