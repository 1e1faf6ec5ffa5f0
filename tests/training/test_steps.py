from __future__ import annotations

import numpy as np
import pytest

from bertwright.data.batching import plan_batches
from bertwright.errors import DataError
from bertwright.training.config import TrainingConfig
from bertwright.training.steps import StepPlan

LENGTHS = np.random.default_rng(0).integers(3, 60, 230)


class Lengths:
    """Rows of which only the lengths are known."""

    def __init__(self, lengths):
        self.lengths = lengths

    def __len__(self):
        return len(self.lengths)

    def plan(self, **options):
        return plan_batches(self.lengths, **options)


def plan_for(**options) -> StepPlan:
    return StepPlan(Lengths(LENGTHS), TrainingConfig(**{"batch_tokens": 256, **options}))


def rows_of(steps) -> list[int]:
    return sorted(int(i) for step in steps for batch in step.batches for i in batch)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_every_epoch_has_every_row_once_and_weighs_it_the_same(accumulate):
    plan = plan_for(epochs=3, accumulate=accumulate)
    steps = list(plan.steps_after(0))
    assert len(steps) == plan.total_steps
    for epoch in range(3):
        own = [step for step in steps if step.epoch == epoch]
        assert rows_of(own) == list(range(230))
        assert {step.rows_per_step for step in own} == {230 / len(own)}
        assert all(len(step.batches) == accumulate for step in own[:-1])
        assert own[-1].epochs_done == epoch + 1
    assert steps[0].batches[0].tolist() != steps[len(own)].batches[0].tolist()


def test_a_plan_taken_up_later_is_the_same_plan():
    plan = plan_for(epochs=2.5, accumulate=2)
    whole = list(plan.steps_after(0))
    for done in (1, len(whole) // 2, len(whole) - 1, len(whole)):
        rest = list(plan_for(epochs=2.5, accumulate=2).steps_after(done))
        assert [rows_of([s]) for s in rest] == [rows_of([s]) for s in whole[done:]]
        assert [s.epochs_done for s in rest] == [s.epochs_done for s in whole[done:]]


def test_parts_of_an_epoch_and_max_steps():
    whole = plan_for(epochs=1).total_steps
    assert plan_for(epochs=0.5).total_steps == round(whole / 2)
    assert plan_for(epochs=1e-9).total_steps == 1
    assert plan_for(epochs=3, max_steps=5).total_steps == 5
    assert plan_for(epochs=1, max_steps=10**6).total_steps == whole
    assert len(list(plan_for(epochs=3, max_steps=5).steps_after(0))) == 5


def test_evaluations_are_even_and_the_last_step_has_one():
    plan = plan_for(epochs=2, evals_per_epoch=3)
    steps = [step for step in range(1, plan.total_steps + 1) if plan.evaluates_after(step)]
    assert len(steps) == 6 and steps[-1] == plan.total_steps
    gaps = np.diff([0, *steps])
    assert gaps.max() - gaps.min() <= 1
    assert all(plan.records_after(step) for step in steps)


def test_a_short_run_is_evaluated_once_at_its_end():
    plan = plan_for(epochs=3, max_steps=2)
    assert not plan.evaluates_after(1) and plan.evaluates_after(2)


def test_no_rows_is_an_error():
    with pytest.raises(DataError, match="no rows"):
        StepPlan(Lengths(np.zeros(0, dtype=np.int32)), TrainingConfig())
