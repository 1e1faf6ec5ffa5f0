"""Successive halving: half-trained students are scored on a dev slice, hopeless ones dropped."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bertwright.compress.candidates import StudentPlan

__all__ = ["choose_dropped"]

NUM_RESAMPLES = 1000


def choose_dropped(
    correct: Mapping[StudentPlan, np.ndarray], *, level: float = 0.99, seed: int = 0
) -> dict[StudentPlan, str]:
    """Return the half-trained students to drop, each with the reason.

    A student is dropped when one that costs no more is better on the same rows beyond chance:
    the `level` one-sided bound of the paired bootstrap difference is above zero. The better half
    of a depth (rounded up) is safe from its peers, though not from a shallower student. Controls
    are never dropped: they are what the rest is compared with.

    Args:
        correct: for each student, bool[N]: which rows of the dev slice it got right. All of the
            same rows in the same order.
        level: confidence asked of "better"; high, because many pairs are compared.
        seed: of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    dropped: dict[StudentPlan, str] = {}
    for plan in sorted(correct):
        if plan.method == "control":
            continue
        peers = [p for p in correct if p.layers == plan.layers and p.method != "control"]
        ranked = sorted(peers, key=lambda p: (-correct[p].mean(), p))
        safe = ranked[: (len(ranked) + 1) // 2]
        rivals = [p for p in correct if p.layers <= plan.layers and p != plan and p not in dropped]
        if plan in safe:
            rivals = [p for p in rivals if p.layers < plan.layers]
        for rival in sorted(rivals, key=lambda p: (-correct[p].mean(), p)):
            bound = _lower_bound_of_difference(correct[rival], correct[plan], level, rng)
            if bound > 0:
                dropped[plan] = (
                    f"at half of its training {correct[plan].mean():.1%} on {len(correct[plan])} "
                    f"dev rows; {rival.name}, which costs no more, had {correct[rival].mean():.1%}"
                )
                break
    return dropped


def _lower_bound_of_difference(
    better: np.ndarray, worse: np.ndarray, level: float, rng: np.random.Generator
) -> float:
    difference = better.astype(np.float64) - worse.astype(np.float64)
    picks = rng.integers(0, len(difference), size=(NUM_RESAMPLES, len(difference)))
    return float(np.quantile(difference[picks].mean(axis=1), 1 - level))
