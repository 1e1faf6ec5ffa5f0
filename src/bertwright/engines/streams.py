"""Several batches at work at once, each on a stream of its own, and their answers in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from bertwright.engines.base import Batch

__all__ = ["JOBS_PER_STREAM", "run_on_streams"]

JOBS_PER_STREAM = 2
"""So that none waits for the next batch to be made."""


def run_on_streams(
    run: Callable[..., np.ndarray], batches: Iterable[Batch], streams: int
) -> Iterator[np.ndarray]:
    """Yield what `run` makes of each batch, in order.

    Args:
        run: of the arrays of a batch by name; several threads may call it at the same time.
        batches: taken a few ahead of what was yielded.
        streams: how many batches are at work at once.
    """
    if streams == 1:
        for batch in batches:
            yield run(**batch)
        return
    with ThreadPoolExecutor(streams) as pool:
        running: deque[Future[np.ndarray]] = deque()
        for batch in batches:
            running.append(pool.submit(run, **batch))
            if len(running) == streams * JOBS_PER_STREAM:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
