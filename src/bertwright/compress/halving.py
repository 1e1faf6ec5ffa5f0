"""Successive halving: half-trained students are scored on a dev slice, hopeless ones dropped."""

from __future__ import annotations

from collections.abc import Mapping

from bertwright.compress.candidates import StudentPlan
from bertwright.tasks.judged import Judged

__all__ = ["choose_dropped"]


def choose_dropped(
    judged: Mapping[StudentPlan, Judged], *, level: float = 0.99, seed: int = 0
) -> dict[StudentPlan, str]:
    """Return the half-trained students to drop, each with the reason.

    A student is dropped when one that costs no more is better on the same rows beyond chance:
    the `level` one-sided bound of the paired bootstrap difference is above zero. The better half
    of a size (rounded up) is safe from its peers, though not from a cheaper student. Controls
    are never dropped: they are what the rest is compared with.

    Args:
        judged: for each student, its answers to the dev slice. All of the same rows in the same
            order.
        level: confidence asked of "better"; high, because many pairs are compared.
        seed: of the bootstrap.
    """
    dropped: dict[StudentPlan, str] = {}
    scores = {plan: answers.score for plan, answers in judged.items()}
    for plan in sorted(judged, key=lambda p: (p.cost, p)):
        if plan.method == "control":
            continue
        peers = [p for p in judged if p.shape == plan.shape and p.method != "control"]
        ranked = sorted(peers, key=lambda p: (-scores[p], p))
        safe = ranked[: (len(ranked) + 1) // 2]
        rivals = [p for p in judged if p.cost <= plan.cost and p != plan and p not in dropped]
        if plan in safe:
            rivals = [p for p in rivals if p.cost < plan.cost]
        for rival in sorted(rivals, key=lambda p: (-scores[p], p)):
            lead = judged[rival].lead_over(judged[plan], level=level, seed=seed)
            if lead > 0:
                dropped[plan] = (
                    f"at half of its training {scores[plan]:.1%} on {len(judged[plan])} dev rows; "
                    f"{rival.name}, which costs no more, had {scores[rival]:.1%}"
                )
                break
    return dropped
