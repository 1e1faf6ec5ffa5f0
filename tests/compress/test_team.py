"""Processes that help with the training: what they finish counts, and what they leave is told."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from bertwright.compress import team as team_module
from bertwright.compress.candidates import StudentPlan
from bertwright.compress.students import is_trained
from bertwright.compress.team import Team, train_claimed
from bertwright.compress.trials import Trials
from bertwright.errors import NonFiniteLossError, TimeUpError

PLANS = [StudentPlan(layers, "distil", 0) for layers in (1, 2, 3)]
HELPER = """
import json, sys
from pathlib import Path
from bertwright.compress.trials import Trials
folder, phase, threads, seconds = sys.argv[1:]
trials = Trials(Path(folder))
while (plan := trials.claim(phase)) is not None:
    if plan.layers == 2:
        trials.finish(phase, plan, "cannot be")
        continue
    if plan.layers == 3:
        sys.exit(7)
    place = Path(folder) / "students" / plan.name
    place.mkdir(parents=True)
    (place / "student.json").write_text(json.dumps([phase, threads, seconds]))
    trials.finish(phase, plan)
"""


@pytest.fixture
def context(tmp_path) -> Any:
    folder = tmp_path / "students"
    return SimpleNamespace(folder_of=lambda plan: folder / plan.name)


def test_helpers_train_and_what_they_leave_is_told(tmp_path, context, capsys):
    team = Team((sys.executable, "-c", HELPER, str(tmp_path)), 2, tmp_path, 5)
    failed = team.train("whole", PLANS, context, math.inf)
    assert failed[PLANS[1]] == "cannot be"
    assert is_trained(PLANS[0], context, "whole")
    record = (tmp_path / "students" / PLANS[0].name / "student.json").read_text()
    assert record == '["whole", "2", "inf"]', "two threads each of five"
    # both helpers met the third in turn, or the second had ended before: it is given up or left
    assert set(failed) <= set(PLANS[1:]) and not is_trained(PLANS[2], context, "whole")
    assert "status 7" in capsys.readouterr().err
    assert (tmp_path / "workers" / "whole-0.log").exists()


def test_one_alone_needs_no_helpers(tmp_path, context):
    team = Team((sys.executable, "-c", "raise SystemExit(1)"), 2, tmp_path, 2)
    assert team.train("half", PLANS[:1], context, 1.0) == {}
    assert Team((), 1, tmp_path, 1).train("half", PLANS, context, 1.0) == {}
    assert not (tmp_path / "trials.sqlite").exists()


def test_a_helper_takes_one_after_the_other_and_says_what_failed(tmp_path, monkeypatch):
    trained: list[StudentPlan] = []

    def train(plan: StudentPlan, context: Any) -> None:
        if plan.layers == 2:
            raise NonFiniteLossError(math.nan, 3, [])
        if plan.layers == 3:
            raise TimeUpError("time was up")
        trained.append(plan)

    monkeypatch.setattr(team_module, "train_whole", train)
    trials = Trials(tmp_path)
    nothing: Any = SimpleNamespace()
    trials.put("whole", PLANS)
    train_claimed(trials, "whole", nothing, nothing)
    assert trained == PLANS[:1] and trials.names("whole", "done") == [PLANS[0].name]
    failures = trials.failures("whole")
    assert "step 3" in failures[PLANS[1].name] and failures[PLANS[2].name] == "time was up"
    trials.close()
