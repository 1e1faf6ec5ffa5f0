"""The frontier: every candidate with what was measured, and which of them nothing beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertwright.compress.students import TrainedStudent

__all__ = ["describe_best", "find_frontier", "summarise_seeds"]


def find_frontier(
    candidates: Sequence[Mapping[str, Any]],
    *,
    cost: str = "throughput_texts_s",
    value: str = "score",
) -> list[str]:
    """Return the names of the candidates that no other beats in both speed and score.

    A candidate is beaten when another is at least as good in both and better in one. Ordered from
    fast to slow.
    """
    kept = [
        c
        for c in candidates
        if not any(
            other[cost] >= c[cost]
            and other[value] >= c[value]
            and (other[cost] > c[cost] or other[value] > c[value])
            for other in candidates
        )
    ]
    return [c["name"] for c in sorted(kept, key=lambda c: -c[cost])]


def describe_best(students: Sequence[TrainedStudent]) -> str:
    """Return, in a line, the students that no other beats in both size and score, cheap ones first.

    Size is what a plan costs; how fast they are is not measured yet.
    """
    facts = [
        {"name": one.plan.name, "score": one.score, "cheapness": -one.plan.cost} for one in students
    ]
    best, scores = find_frontier(facts, cost="cheapness"), {f["name"]: f["score"] for f in facts}
    return "best so far: " + ", ".join(f"{name} {scores[name]:.4f}" for name in best)


def summarise_seeds(candidates: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return mean, standard deviation and range of the score over seeds.

    Groups candidates by (method, shape, layers, engine, precision) and keeps groups of two seeds
    or more. `std` is the sample standard deviation (n - 1).
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for candidate in candidates:
        kinds = ("method", "shape", "layers", "engine", "precision")
        key = tuple(candidate[kind] for kind in kinds)
        groups.setdefault(key, []).append(candidate)
    summary = []
    for (method, shape, layers, engine, precision), members in sorted(groups.items()):
        if len(members) < 2:
            continue
        scores = [float(m["score"]) for m in sorted(members, key=lambda m: m["seed"])]
        mean = sum(scores) / len(scores)
        variance = sum((s - mean) ** 2 for s in scores) / (len(scores) - 1)
        kept = [float(m["kept"]) for m in members]
        summary.append(
            {
                "method": method,
                "shape": shape,
                "layers": layers,
                "engine": engine,
                "precision": precision,
                "seeds": sorted(m["seed"] for m in members),
                "scores": scores,
                "mean": mean,
                "std": variance**0.5,
                "min": min(scores),
                "max": max(scores),
                "kept_mean": sum(kept) / len(kept),
            }
        )
    return summary
