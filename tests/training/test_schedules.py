from __future__ import annotations

import itertools
import math

import pytest
import torch

from bertwright.training.schedules import build_scheduler, schedule_factor


@pytest.mark.parametrize(
    ("schedule", "end", "middle"), [("linear", 0.0, 0.5), ("cosine", 0.0, 0.5), ("constant", 1, 1)]
)
def test_values_at_the_start_the_peak_the_middle_and_the_end(schedule, end, middle):
    assert schedule_factor(0, 110, 10, schedule) == pytest.approx(1 / 11)
    assert schedule_factor(10, 110, 10, schedule) == 1.0
    assert schedule_factor(60, 110, 10, schedule) == pytest.approx(middle)
    assert schedule_factor(110, 110, 10, schedule) == pytest.approx(end, abs=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_it_rises_to_the_peak_and_never_after(schedule):
    factors = [schedule_factor(step, 110, 10, schedule) for step in range(110)]
    assert all(a < b for a, b in itertools.pairwise(factors[:11]))
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
    assert min(factors) > 0  # no step is lost


def test_cosine_by_hand():
    assert schedule_factor(35, 110, 10, "cosine") == pytest.approx((1 + math.sqrt(0.5)) / 2)


def test_without_warmup_the_first_step_has_the_peak():
    assert schedule_factor(0, 10, 0, "linear") == 1.0


@pytest.mark.parametrize(("total", "warmup"), [(1, 0.0), (1, 0.9), (7, 0.99)])
def test_short_runs_have_a_rate_at_every_step(total, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=2.0)
    scheduler = build_scheduler(optimizer, total_steps=total, warmup=warmup, schedule="linear")
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert all(0 < rate <= 2.0 for rate in rates) and max(rates) == 2.0
