"""Speed, size and memory of many candidates, each beside the same baseline."""

from __future__ import annotations

from collections.abc import Sequence

from bertwright.evaluate.measure import Measurement, Target, measure_targets

__all__ = ["measure_beside_baseline"]

GROUP_SIZE = 12
"""Targets loaded at once: each takes about half a gigabyte."""


def measure_beside_baseline(
    baseline: Target,
    targets: Sequence[Target],
    texts: Sequence[str],
    texts_b: Sequence[str] | None,
    *,
    threads: int | None,
    repeats: int,
    latency_rows: int,
) -> tuple[list[Measurement], list[float], Measurement]:
    """Measure targets in groups that fit in memory, the baseline taking its turns in every group.

    Args:
        baseline: what speed-ups are a multiple of.
        targets: N targets.
        texts: see `measure_targets`, as is the rest.
        texts_b: second texts of pairs, or None.
        threads: of every process.
        repeats: rounds.
        latency_rows: rows answered one by one.

    Returns:
        N measurements; N speed-ups (throughput over that of the baseline in the same group); and
        the baseline's measurement in the first group.
    """
    measured: list[Measurement] = []
    speedups: list[float] = []
    first_baseline: Measurement | None = None
    for start in range(0, max(len(targets), 1), GROUP_SIZE):
        group = targets[start : start + GROUP_SIZE]
        beside, *others = measure_targets(
            [baseline, *group],
            texts,
            texts_b,
            threads=threads,
            repeats=repeats,
            latency_rows=latency_rows,
        )
        first_baseline = first_baseline or beside
        measured += others
        speedups += [m.throughput_texts_s / beside.throughput_texts_s for m in others]
    assert first_baseline is not None
    return measured, speedups, first_baseline
