"""The rounds of training in a search: halves, what is worth it to the end, elastic sizes.

A student that breaks, comes too late or is beaten at half of its training is left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertwright.compress.budget import Budget
from bertwright.compress.candidates import StudentPlan
from bertwright.compress.config import SearchConfig
from bertwright.compress.elastic import choose_sizes, supernet_plan
from bertwright.compress.frontier import describe_best
from bertwright.compress.halving import choose_dropped
from bertwright.compress.students import (
    StudentContext,
    TrainedStudent,
    ask_ahead,
    train_half,
    train_whole,
)
from bertwright.compress.team import Team
from bertwright.compress.trials import Phase
from bertwright.data.tokenise import EncodedRows
from bertwright.engines.base import EngineSpec
from bertwright.errors import NonFiniteLossError, TimeUpError
from bertwright.progress import console
from bertwright.tasks import find_task
from bertwright.training.evaluation import evaluate_model

__all__ = ["Rounds", "slice_of"]


@dataclass(frozen=True)
class Rounds:
    """The trainings of a search, by itself or with helpers."""

    context: StudentContext
    team: Team
    deadline: float
    dropped: dict[StudentPlan, str]
    """Gets those that are left out, with the reason."""

    def students(self, plans: Sequence[StudentPlan], config: SearchConfig) -> list[TrainedStudent]:
        """Train all by half, drop the hopeless, train the rest to the end. Cheap ones first."""
        if config.halving and len(plans) > 1:
            self._help("half", plans)
            slice_rows, judged = slice_of(self.context, config), {}
            for plan in self._left(plans):
                try:
                    judged[plan] = train_half(plan, self.context, slice_rows)
                except (NonFiniteLossError, TimeUpError) as error:
                    self.dropped[plan] = error.message
            self.dropped.update(choose_dropped(judged))
        return self.whole(self._left(plans))

    def elastic(
        self,
        specs: Sequence[EngineSpec],
        sample: Mapping[str, Sequence[Any]],
        budget: Budget,
        config: SearchConfig,
    ) -> list[TrainedStudent]:
        """Train all sizes at once, and on those that are worth it."""
        context = self.context
        slice_rows = slice_of(context, config)
        task = find_task(context.teacher.task).judging(slice_rows)
        metrics, _ = evaluate_model(context.teacher, slice_rows, task)
        try:
            plans = choose_sizes(
                context,
                specs,
                sample,
                slice_rows,
                teacher_score=metrics[task.primary],
                budget=budget,
                prefer=config.prefer,
                count=config.elastic_sizes,
            )
        except TimeUpError as error:
            self.dropped[supernet_plan(context, context.training.seed)] = error.message
            return []
        return self.whole(plans)

    def whole(self, plans: Sequence[StudentPlan]) -> list[TrainedStudent]:
        """Train students to the end; one that breaks or comes too late is dropped."""
        self._help("whole", plans)
        students = []
        for plan in self._left(plans):
            try:
                students.append(train_whole(plan, self.context))
                console.print(describe_best(students), markup=False)
            except (NonFiniteLossError, TimeUpError) as error:
                self.dropped[plan] = error.message
        return students

    def _help(self, phase: Phase, plans: Sequence[StudentPlan]) -> None:
        if self.team.size > 1:
            ask_ahead(self.context, plans)
            time_s = self.deadline - time.monotonic()
            self.dropped.update(self.team.train(phase, plans, self.context, time_s))

    def _left(self, plans: Sequence[StudentPlan]) -> list[StudentPlan]:
        return [plan for plan in plans if plan not in self.dropped]


def slice_of(context: StudentContext, config: SearchConfig) -> EncodedRows:
    """Return the dev rows on which half-trained students are compared, with all their features."""
    encoded = context.dev_rows
    numbers = np.unique(encoded.row_numbers)
    count = min(config.slice_rows, len(numbers))
    drawn = np.random.default_rng(0).choice(numbers, count, replace=False)
    return encoded.select(np.flatnonzero(np.isin(encoded.row_numbers, drawn)))
