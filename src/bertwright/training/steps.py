"""Which rows make which optimizer step, known before the run begins."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bertwright.errors import DataError
from bertwright.training.config import TrainingConfig

__all__ = ["PlannedRows", "PlannedStep", "StepPlan"]

RECORDS_PER_RUN = 100


@dataclass(frozen=True)
class PlannedStep:
    """The batches of one optimizer step.

    `rows_per_step` is the epoch's mean number of rows in a step: the loss divides the sum over
    its rows by it, so that each row of the epoch weighs the same in whatever batch it falls.
    """

    epoch: int
    epochs_done: float
    batches: list[np.ndarray]
    rows_per_step: float


class PlannedRows(Protocol):
    """Rows that say themselves which of them make which batch."""

    def __len__(self) -> int: ...

    def plan(
        self,
        *,
        batch_tokens: int,
        batch_size: int | None = None,
        seed: int = 0,
        epoch: int = 0,
    ) -> list[np.ndarray]:
        """Return the positions of the rows of each batch of an epoch."""
        ...


class StepPlan:
    """The optimizer steps of a run: how many, which batches, when to record and to evaluate."""

    def __init__(self, rows: PlannedRows, config: TrainingConfig) -> None:
        """Count the steps.

        Args:
            rows: to train on.
            config: batches, accumulation, epochs, max_steps, evals_per_epoch, seed.

        Raises:
            DataError: there are no rows.
        """
        if len(rows) == 0:
            raise DataError("there are no rows to train on")
        self._rows = rows
        self._config = config
        counts = list(self._count_steps())
        self._steps_of_epoch = [steps for steps, _ in counts]
        self.total_steps = sum(self._steps_of_epoch)
        epochs = sum(steps / of for steps, of in counts)
        evaluations = round(config.evals_per_epoch * epochs)
        self._evaluations = self._spread(max(1, min(self.total_steps, evaluations)))
        self._records = self._spread(min(self.total_steps, RECORDS_PER_RUN)) | self._evaluations

    def evaluates_after(self, step: int) -> bool:
        """Return whether there is an evaluation when `step` steps are done."""
        return step in self._evaluations

    def records_after(self, step: int) -> bool:
        """Return whether a line of metrics is due when `step` steps are done."""
        return step in self._records

    def steps_after(self, step: int) -> Iterator[PlannedStep]:
        """Yield the steps that follow the first `step` ones, to the end of the run."""
        for epoch, num_steps in enumerate(self._steps_of_epoch):
            if step >= num_steps:
                step -= num_steps
                continue
            groups = self._groups(epoch)
            num_rows = sum(len(batch) for group in groups for batch in group)
            for i in range(step, num_steps):
                yield PlannedStep(
                    epoch=epoch,
                    epochs_done=epoch + (i + 1) / len(groups),
                    batches=groups[i],
                    rows_per_step=num_rows / len(groups),
                )
            step = 0

    def _groups(self, epoch: int) -> list[list[np.ndarray]]:
        """Return the batches of an epoch, `accumulate` to a step; the last may have fewer."""
        config = self._config
        batches = self._rows.plan(
            batch_tokens=config.batch_tokens,
            batch_size=config.batch_size,
            seed=config.seed,
            epoch=epoch,
        )
        size = config.accumulate
        return [batches[i : i + size] for i in range(0, len(batches), size)]

    def _count_steps(self) -> Iterator[tuple[int, int]]:
        """Yield for each epoch the steps taken of it, and the steps that a whole one has.

        Epochs differ a little in steps, because their batches are of different rows.
        """
        left = self._config.max_steps or math.inf
        for epoch in range(math.ceil(self._config.epochs)):
            whole = len(self._groups(epoch))
            share = min(1.0, self._config.epochs - epoch)
            steps = int(min(left, max(1, round(share * whole))))
            yield steps, whole
            left -= steps
            if not left:
                return

    def _spread(self, count: int) -> set[int]:
        """Return `count` steps, evenly spaced, the last of the run among them."""
        return {math.ceil(i * self.total_steps / count) for i in range(1, count + 1)}
