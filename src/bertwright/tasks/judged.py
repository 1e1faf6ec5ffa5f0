"""A model's answers on some rows, judged: its score, how sure it is, and against another model's.

Everything is computed from per-row statistics, whatever the task: a metric of resampled rows is the
metric of their statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bertwright.tasks import Task
from bertwright.tasks.significance import (
    Interval,
    bootstrap,
    bootstrap_interval,
    kept_interval,
    mcnemar_exact,
    paired_bootstrap_difference,
    paired_bootstrap_p,
)

__all__ = ["Judged"]


@dataclass(frozen=True)
class Judged:
    """What a task says of a model's answers."""

    task: Task
    statistics: np.ndarray
    """[N,S] float64: what each row adds to the metrics."""

    def __len__(self) -> int:
        return len(self.statistics)

    @property
    def score(self) -> float:
        """The task's primary metric."""
        return self.task.metrics(self.statistics)[self.task.primary]

    @property
    def row_scores(self) -> np.ndarray | None:
        """[N], whose mean is the score; None where the score is no mean over rows."""
        return self.task.row_scores(self.statistics)

    def interval(self, *, num_resamples: int = 2000, seed: int = 0) -> Interval:
        """Return the score with its 95% percentile bootstrap interval over rows."""
        scores = self.row_scores
        if scores is not None:
            return bootstrap_interval(scores, num_resamples=num_resamples, seed=seed)
        return bootstrap(self._score_of, self.statistics, num_resamples=num_resamples, seed=seed)

    def kept_of(self, teacher: Judged, *, num_resamples: int = 2000, seed: int = 0) -> Interval:
        """Return the share of the teacher's score that this keeps, on the same resampled rows.

        Raises:
            ValueError: other rows, or a teacher that scores nothing.
        """
        own, others = self.row_scores, teacher.row_scores
        if own is not None and others is not None:
            return kept_interval(own, others, num_resamples=num_resamples, seed=seed)
        if teacher.score <= 0:
            raise ValueError("the teacher scores nothing on these rows: no share can be kept")

        def share(mine: np.ndarray, theirs: np.ndarray) -> float:
            below = self._score_of(theirs)
            return self._score_of(mine) / below if below > 0 else float("nan")

        return bootstrap(
            share, self.statistics, teacher.statistics, num_resamples=num_resamples, seed=seed
        )

    def lost_against(self, other: Judged, *, num_resamples: int = 2000, seed: int = 0) -> Interval:
        """Return other's score - this score with its 95% interval, on the same resampled rows.

        Raises:
            ValueError: other rows.
        """
        own, others = self.row_scores, other.row_scores
        if own is not None and others is not None:
            return paired_bootstrap_difference(others, own, num_resamples=num_resamples, seed=seed)

        def lost(theirs: np.ndarray, mine: np.ndarray) -> float:
            return self._score_of(theirs) - self._score_of(mine)

        return bootstrap(
            lost, other.statistics, self.statistics, num_resamples=num_resamples, seed=seed
        )

    def significance_against(
        self, other: Judged, *, num_resamples: int = 2000, seed: int = 0
    ) -> tuple[str, float]:
        """Return a test's name, and how likely so large a difference is by chance, two-sided.

        Where rows are right or wrong it is the exact McNemar test, else the paired bootstrap.
        """
        own, others = self.row_scores, other.row_scores
        if own is not None and others is not None and _binary(own) and _binary(others):
            return "exact McNemar", mcnemar_exact(own, others).p
        return "paired bootstrap", paired_bootstrap_p(
            self._score_of,
            self.statistics,
            other.statistics,
            num_resamples=num_resamples,
            seed=seed,
        )

    def lead_over(
        self, other: Judged, *, level: float, num_resamples: int = 1000, seed: int = 0
    ) -> float:
        """Return the lower one-sided bound of score - other's score, on the same resampled rows."""
        own, others = self.row_scores, other.row_scores
        rng = np.random.default_rng(seed)
        picks = rng.integers(0, len(self), size=(num_resamples, len(self)))
        if own is not None and others is not None:
            leads = (own - others)[picks].mean(axis=1)
        else:
            leads = np.array(
                [
                    self._score_of(self.statistics[rows]) - self._score_of(other.statistics[rows])
                    for rows in picks
                ]
            )
        return float(np.quantile(leads, 1 - level))

    def _score_of(self, statistics: np.ndarray) -> float:
        return self.task.metrics(statistics)[self.task.primary]


def _binary(scores: np.ndarray) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())
