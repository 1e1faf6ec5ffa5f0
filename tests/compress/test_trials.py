"""Who trains what, when several processes do: each trial once, and nothing lost with a process."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from bertwright.compress.candidates import StudentPlan
from bertwright.compress.trials import Trials

PLANS = [
    StudentPlan(1, "control", 0),
    StudentPlan(2, "distil", 3, heads=0.5, neurons=0.25),
    StudentPlan(0, "distil", 0, small="static:ngrams=2"),
]


@pytest.fixture
def trials(tmp_path):
    with closing(Trials(tmp_path)) as table:
        yield table


def test_trials_are_taken_in_their_order_and_each_once(trials, tmp_path):
    trials.put("half", PLANS)
    assert trials.names("half", "open") == [plan.name for plan in PLANS]
    with closing(Trials(tmp_path)) as other:
        assert [trials.claim("half"), other.claim("half")] == PLANS[:2]
        assert other.claim("whole") is None, "another phase has trials of its own"
        assert trials.claim("half") == PLANS[2] and other.claim("half") is None
    assert trials.names("half", "running") == [plan.name for plan in PLANS]


def test_many_at_once_take_each_trial_once(tmp_path):
    plans = [StudentPlan(1, "distil", seed) for seed in range(60)]
    with closing(Trials(tmp_path)) as table:
        table.put("whole", plans)

    def take_all(_: int) -> list[StudentPlan]:
        with closing(Trials(tmp_path)) as own:
            return [*iter(lambda: own.claim("whole"), None)]

    with ThreadPoolExecutor(6) as pool:
        taken = [plan for some in pool.map(take_all, range(6)) for plan in some]
    assert sorted(taken) == sorted(plans)


def test_how_trials_end(trials):
    trials.put("whole", PLANS)
    for _ in PLANS[:2]:
        trials.claim("whole")
    trials.finish("whole", PLANS[0])
    trials.finish("whole", PLANS[1], "the loss became nan")
    assert trials.names("whole", "done") == [PLANS[0].name]
    assert trials.failures("whole") == {PLANS[1].name: "the loss became nan"}
    assert trials.claim("whole") == PLANS[2]


def test_what_a_dead_process_left_is_open_again_but_not_for_ever(trials):
    trials.put("whole", PLANS[:1])
    for _ in range(2):
        assert trials.claim("whole") == PLANS[0]
        trials.release(os.getpid() + 1, "another one ended")
        assert trials.names("whole", "running") == [PLANS[0].name]
        trials.release(os.getpid(), "it ended with status -9")
    assert trials.claim("whole") is None
    assert trials.failures("whole") == {PLANS[0].name: "it ended with status -9"}
    trials.put("whole", PLANS[:1])
    assert trials.claim("whole") == PLANS[0] and trials.failures("whole") == {}
