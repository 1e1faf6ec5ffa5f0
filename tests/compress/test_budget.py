"""The budget: legal values, misses, and a choice that always ends with a model."""

from __future__ import annotations

import pytest

from bertwright.compress.budget import Budget, choose_candidate, find_violations
from bertwright.errors import BudgetError


def candidate(name: str, **values: float) -> dict:
    base = {
        "name": name,
        "score": 0.9,
        "kept": 1.0,
        "kept_high": 1.01,
        "speedup": 10.0,
        "latency_p50_ms": 2.0,
        "size_mb": 20.0,
        "throughput_texts_s": 1000.0,
    }
    return {**base, **values}


@pytest.mark.parametrize(
    "values",
    [{"keep": 0.0}, {"keep": 1.2}, {"min_speedup": -1}, {"max_size_mb": 0}, {"max_latency_ms": 0}],
)
def test_an_impossible_budget_names_its_option(values):
    with pytest.raises(BudgetError, match="--" + next(iter(values)).replace("_", "-")):
        Budget(**values)


def test_violations_say_by_how_much():
    budget = Budget(keep=0.99, max_latency_ms=1.0, min_speedup=20, max_size_mb=10)
    found = {v.constraint: v for v in find_violations(candidate("a", kept=0.98), budget)}
    assert set(found) == {"keep", "max_latency_ms", "min_speedup", "max_size_mb"}
    assert found["keep"].excess == pytest.approx(1 - 0.98 / 0.99)
    assert found["max_latency_ms"].excess == pytest.approx(1.0)
    assert found["min_speedup"].excess == pytest.approx(0.5)
    assert found["max_size_mb"].excess == pytest.approx(1.0)


def test_confident_asks_the_lower_end_of_the_interval():
    sure = candidate("sure", kept=0.995, kept_low=0.991, throughput_texts_s=500)
    lucky = candidate("lucky", kept=1.001, kept_low=0.97, throughput_texts_s=900)
    assert choose_candidate([sure, lucky], Budget(keep=0.99)).name == "lucky"
    budget = Budget(keep=0.99, confident=True)
    assert choose_candidate([sure, lucky], budget).name == "sure"
    assert "confidence" in budget.describe() and "confidence" not in Budget(keep=0.99).describe()
    (missed,) = find_violations(lucky, budget)
    assert (missed.constraint, missed.value) == ("keep", 0.97)


def test_a_limit_met_exactly_is_met():
    budget = Budget(keep=0.99, max_latency_ms=2.0, min_speedup=10, max_size_mb=20)
    assert find_violations(candidate("a", kept=0.99), budget) == ()


def test_the_fastest_that_meets_the_budget_is_chosen():
    choice = choose_candidate(
        [
            candidate("good", throughput_texts_s=500),
            candidate("faster", throughput_texts_s=800),
            candidate("fastest-but-wrong", throughput_texts_s=9000, kept=0.5),
        ],
        Budget(keep=0.99),
    )
    assert (choice.name, choice.met) == ("faster", True)


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [("speed", "a"), ("latency", "b"), ("size", "c"), ("score", "d")],
)
def test_what_to_prefer(prefer, expected):
    candidates = [
        candidate("a", throughput_texts_s=2000),
        candidate("b", latency_p50_ms=1),
        candidate("c", size_mb=5),
        candidate("d", score=0.95),
    ]
    assert choose_candidate(candidates, Budget(keep=0.5), prefer).name == expected


def test_without_a_budget_a_clearly_worse_score_is_passed_over():
    fast = candidate("fast", throughput_texts_s=9000, kept=0.8, kept_high=0.85)
    equal = candidate("equal", kept=0.99, kept_high=1.01)
    assert choose_candidate([fast, equal], Budget()).name == "equal"
    assert choose_candidate([fast], Budget()).name == "fast"


def test_an_impossible_budget_still_ends_with_the_nearest():
    choice = choose_candidate(
        [candidate("slow", speedup=10), candidate("near", speedup=90, kept=0.989)],
        Budget(keep=0.99, min_speedup=100),
    )
    assert (choice.name, choice.met) == ("near", False)
    assert {v.constraint for v in choice.violations} == {"keep", "min_speedup"}
    assert "min_speedup" in choice.reason and "keep" in choice.reason


def test_no_candidates_is_a_bug_not_a_choice():
    with pytest.raises(ValueError, match="no candidates"):
        choose_candidate([], Budget())
