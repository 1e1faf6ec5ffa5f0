"""A moment after which no run trains on: what was done is saved, and the run is left."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["time_is_up", "until"]

_MOMENT: ContextVar[float] = ContextVar("moment", default=math.inf)


@contextmanager
def until(moment: float) -> Iterator[None]:
    """Let runs in the block train until a moment of `time.monotonic`.

    A run that is not done then raises `TimeUpError`; a resumed one goes on where it was.
    """
    token = _MOMENT.set(moment)
    try:
        yield
    finally:
        _MOMENT.reset(token)


def time_is_up() -> bool:
    """Return whether the moment of the innermost `until` has passed."""
    return time.monotonic() >= _MOMENT.get()
