"""The learning rate over a run."""

from __future__ import annotations

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["build_scheduler", "schedule_factor"]


def schedule_factor(
    step: int,
    total_steps: int,
    warmup_steps: int,
    schedule: Literal["linear", "cosine", "constant"],
) -> float:
    """Return the share of the peak learning rate used by the step after `step` done ones.

    Warm-up gives (step+1)/(warmup_steps+1), so that the first step is not lost on a rate of 0 and
    the peak is reached at `step == warmup_steps`. From there, with x the share of the rest that is
    done: linear 1-x, cosine (1+cos(pi x))/2, constant 1; the first two reach 0 at `total_steps`.

    Args:
        step: optimizer steps done, 0 or more.
        total_steps: steps of the whole run.
        warmup_steps: steps of the warm-up, below `total_steps`.
        schedule: form of the decay.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    x = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 1.0 - x if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * x))


def build_scheduler(
    optimizer: Optimizer,
    *,
    total_steps: int,
    warmup: float,
    schedule: Literal["linear", "cosine", "constant"],
) -> LambdaLR:
    """Return a scheduler that multiplies each group's rate by `schedule_factor`.

    Args:
        optimizer: its groups hold the peak rates.
        total_steps: steps of the whole run.
        warmup: share of them for the warm-up.
        schedule: form of the decay.
    """
    warmup_steps = min(round(warmup * total_steps), total_steps - 1)
    return LambdaLR(
        optimizer, lambda step: schedule_factor(step, total_steps, warmup_steps, schedule)
    )
