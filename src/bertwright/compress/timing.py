"""How a search divides the time that it was given."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

__all__ = ["SearchTimes", "divide_time"]

TRAINING_SHARE = 0.6
COMPILING_SHARE = 0.2
"""What is left, a fifth, is for measuring and judging, which are never cut short."""


@dataclass(frozen=True)
class SearchTimes:
    """Moments of `time.monotonic`; infinite where the time has no limit."""

    train_until: float = math.inf
    compile_until: float = math.inf
    end: float = math.inf


def divide_time(minutes: float | None) -> SearchTimes:
    """Return until when a search that begins now trains, compiles, and is to be done.

    Args:
        minutes: of the whole search; None: as long as it takes.
    """
    if minutes is None:
        return SearchTimes()
    began, seconds = time.monotonic(), 60 * minutes
    return SearchTimes(
        train_until=began + TRAINING_SHARE * seconds,
        compile_until=began + (TRAINING_SHARE + COMPILING_SHARE) * seconds,
        end=began + seconds,
    )
