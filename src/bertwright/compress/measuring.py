"""Speed, size and memory of many candidates, each beside the same baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertwright.errors import WorkerError
from bertwright.evaluate.measure import Measurement, Target, measure_targets

__all__ = ["Measured", "measure_beside_baseline"]

GROUP_SIZE = 12
"""Targets loaded at once: each takes about half a gigabyte."""


@dataclass(frozen=True)
class Measured:
    """What was measured, by the names of the targets."""

    measurements: dict[str, Measurement]
    speedups: dict[str, float]
    """Throughput over the baseline's in the same group."""
    failed: dict[str, str]
    """Targets whose process died, with the reason."""
    baseline: Measurement
    """In the first group."""


def measure_beside_baseline(
    baseline: Target,
    targets: Sequence[Target],
    rows: Mapping[str, Sequence[Any]],
    *,
    threads: int | None,
    repeats: int,
    latency_rows: int,
) -> Measured:
    """Measure targets in groups that fit in memory, the baseline taking its turns in every group.

    When a process dies, its group is measured again in halves, so that one bad target costs only
    itself.

    Args:
        baseline: what speed-ups are a multiple of.
        targets: what to measure; names must differ.
        rows: see `measure_targets`, as is the rest.
        threads: of every process.
        repeats: rounds.
        latency_rows: rows answered one by one.

    Raises:
        WorkerError: the baseline alone cannot be measured.
    """
    measurements: dict[str, Measurement] = {}
    speedups: dict[str, float] = {}
    failed: dict[str, str] = {}
    first: Measurement | None = None
    groups = [list(targets[i : i + GROUP_SIZE]) for i in range(0, len(targets), GROUP_SIZE)] or [[]]
    while groups:
        group = groups.pop(0)
        try:
            beside, *others = measure_targets(
                [baseline, *group],
                rows,
                threads=threads,
                repeats=repeats,
                latency_rows=latency_rows,
                title=f"measure, {len(measurements) + len(failed)} of {len(targets)} done",
            )
        except WorkerError as error:
            if not group:
                raise
            if len(group) == 1:
                failed[group[0].name] = error.message
                groups += [[]] if first is None and not groups else []
            else:
                middle = len(group) // 2
                groups = [group[:middle], group[middle:], *groups]
            continue
        first = first or beside
        for measurement in others:
            measurements[measurement.name] = measurement
            speedups[measurement.name] = measurement.throughput_texts_s / beside.throughput_texts_s
    assert first is not None
    return Measured(measurements, speedups, failed, first)
