"""The budget: what is asked of the small model, who meets it, and who is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bertwright.errors import BudgetError

__all__ = ["Budget", "Choice", "Prefer", "Violation", "choose_candidate", "find_violations"]

Prefer = Literal["speed", "latency", "size", "score"]

_PREFERENCE: dict[str, tuple[str, int]] = {
    "speed": ("throughput_texts_s", +1),
    "latency": ("latency_p50_ms", -1),
    "size": ("size_mb", -1),
    "score": ("score", +1),
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """`keep` is a share of the teacher's score; the rest are limits measured on this machine."""

    keep: float | None = None
    """Least share of the teacher's score to keep, 0 to 1."""
    confident: bool = False
    """Whether the lower end of the share's 95% interval has to keep it, in place of the share."""
    max_latency_ms: float | None = None
    """Most milliseconds for one text (p50, batch 1, tokenization included)."""
    min_speedup: float | None = None
    """Least throughput as a multiple of the teacher through `transformers`' pipeline in fp32."""
    max_size_mb: float | None = None
    """Most megabytes (10^6 bytes) on disk, tokenizer included."""

    def __post_init__(self) -> None:
        if self.keep is not None and not 0 < self.keep <= 1:
            raise BudgetError(
                f"--keep {self.keep}: must be above 0 and at most 1",
                hint="0.99 means: keep 99% of the teacher's score",
            )
        for name in ("max_latency_ms", "min_speedup", "max_size_mb"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BudgetError(f"--{name.replace('_', '-')} {value}: must be above 0")

    def describe(self) -> str:
        """Return the budget as one readable line."""
        parts = []
        if self.keep is not None:
            sure = ", with 97.5% confidence" if self.confident else ""
            parts.append(f"keep at least {self.keep:.1%} of the teacher's score{sure}")
        if self.max_latency_ms is not None:
            parts.append(f"at most {self.max_latency_ms:g} ms a text")
        if self.min_speedup is not None:
            parts.append(f"at least {self.min_speedup:g}x the pipeline's throughput")
        if self.max_size_mb is not None:
            parts.append(f"at most {self.max_size_mb:g} MB")
        return "; ".join(parts) or "no limits: the fastest that keeps the score"


@dataclass(frozen=True)
class Violation:
    """One limit that a candidate misses; `excess` is by what share of the limit (0.05 = 5%)."""

    constraint: str
    limit: float
    value: float
    excess: float

    def describe(self) -> str:
        """Return e.g. "keep: 0.981 against 0.99 (off by 0.9%)"."""
        figures = f"{self.value:.4g} against {self.limit:.4g}"
        return f"{self.constraint}: {figures} (off by {self.excess:.1%})"

    def to_json(self) -> dict[str, Any]:
        """Return the violation as plain values."""
        return {
            "constraint": self.constraint,
            "limit": self.limit,
            "value": self.value,
            "excess": self.excess,
        }


@dataclass(frozen=True)
class Choice:
    """The candidate chosen, whether it meets the budget, what it misses, and why it was chosen."""

    name: str
    met: bool
    violations: tuple[Violation, ...]
    reason: str


def find_violations(candidate: Mapping[str, Any], budget: Budget) -> tuple[Violation, ...]:
    """Return the limits of `budget` that a measured candidate misses."""
    found = []
    kept = "kept_low" if budget.confident else "kept"
    at_least = (("keep", kept, budget.keep), ("min_speedup", "speedup", budget.min_speedup))
    at_most = (
        ("max_latency_ms", "latency_p50_ms", budget.max_latency_ms),
        ("max_size_mb", "size_mb", budget.max_size_mb),
    )
    for constraint, key, limit in at_least:
        if limit is not None and candidate[key] < limit:
            found.append(Violation(constraint, limit, candidate[key], 1 - candidate[key] / limit))
    for constraint, key, limit in at_most:
        if limit is not None and candidate[key] > limit:
            found.append(Violation(constraint, limit, candidate[key], candidate[key] / limit - 1))
    return tuple(found)


def choose_candidate(
    candidates: Sequence[Mapping[str, Any]], budget: Budget, prefer: Prefer = "speed"
) -> Choice:
    """Choose among measured candidates: of those that meet the budget, the best by `prefer`.

    When none meets it, the one whose worst miss is smallest is chosen, so that a search always
    ends with a model. Without `keep`, candidates whose score interval lies wholly below the
    teacher's score are passed over unless nothing else is left.

    Raises:
        ValueError: there are no candidates.
    """
    if not candidates:
        raise ValueError("no candidates to choose from")
    key, sign = _PREFERENCE[prefer]
    missed = {c["name"]: find_violations(c, budget) for c in candidates}
    meeting = [c for c in candidates if not missed[c["name"]]]
    if meeting:
        if budget.keep is None:
            meeting = [c for c in meeting if c["kept_high"] >= 1.0] or meeting
        best = max(meeting, key=lambda c: (sign * c[key], c["score"], c["name"]))
        others = f"{len(meeting)} of {len(candidates)} candidates meet the budget"
        what = {
            "speed": f"the fastest of them at {best['throughput_texts_s']:,.0f} texts/s",
            "latency": f"the quickest answer of them at {best['latency_p50_ms']:.2f} ms",
            "size": f"the smallest of them at {best['size_mb']:.1f} MB",
            "score": f"the best score of them at {best['score']:.4f}",
        }[prefer]
        return Choice(best["name"], True, (), f"{others}; {best['name']} is {what}.")
    nearest = min(
        candidates,
        key=lambda c: (max(v.excess for v in missed[c["name"]]), -sign * c[key], c["name"]),
    )
    violations = missed[nearest["name"]]
    misses = "; ".join(v.describe() for v in violations)
    return Choice(
        nearest["name"],
        False,
        violations,
        f"No candidate meets the budget. {nearest['name']} comes nearest; it misses {misses}.",
    )
