"""Finding which parts of a model int8 must spare: measured, not guessed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bertwright.errors import ParityError

__all__ = ["Trial", "repair"]


@dataclass(frozen=True)
class Trial:
    """One way of quantizing, measured."""

    kept: tuple[str, ...]
    """The parts left in higher precision."""
    drop_points: float
    """How much score it costs against torch in fp32, in points (100 = everything)."""
    error: float
    """Mean absolute difference of the logits; ranks parts that cost the same score."""
    extra: Any = field(default=None, compare=False)

    def describe(self) -> str:
        """Return its figures in one phrase."""
        kept = ", ".join(self.kept) or "nothing"
        return f"{kept} spared: {self.drop_points:+.2f} points lost"


def repair(
    attempt: Callable[[tuple[str, ...]], Trial],
    groups: Sequence[str],
    *,
    tolerance_points: float,
    first: Trial | None = None,
) -> Trial:
    """Return the first trial within the tolerance that spares few parts.

    Nothing is spared at first. If that costs too much, each part is spared alone (its
    sensitivity), and then the most helpful ones together, one more at a time, in the order of what
    sparing them alone won back. Sparing every part is no longer quantization and is not tried.

    Args:
        attempt: quantizes with these parts spared, and measures.
        groups: the parts.
        tolerance_points: how much score may be lost.
        first: the trial that spares nothing, if it was made already.

    Raises:
        ParityError: no choice is within the tolerance; the message has the figures.
    """
    plain = first or attempt(())
    if plain.drop_points <= tolerance_points:
        return plain
    alone = sorted((attempt((group,)) for group in groups), key=lambda t: (t.drop_points, t.error))
    tried = [plain, *alone[:1]]
    if alone and alone[0].drop_points <= tolerance_points and len(groups) > 1:
        return alone[0]
    for count in range(2, len(alone)):
        trial = attempt(tuple(group for one in alone[:count] for group in one.kept))
        tried.append(trial)
        if trial.drop_points <= tolerance_points:
            return trial
    figures = "; ".join(trial.describe() for trial in tried)
    raise ParityError(
        f"int8 loses more than {tolerance_points:g} points of score, whatever is spared: {figures}",
        hint="keep fp32 or bf16 for this model, or allow more with --tolerance-points",
    )
