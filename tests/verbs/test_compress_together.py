"""Searches with helpers, and searches that are killed: the same students, the same choice."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bertwright
from bertwright.compress import measuring
from bertwright.models.task_model import TaskModel
from compress.fakes import measured_alike

OPTIONS = {
    "keep": 0.2,
    "depths": (1, 2),
    "students": ("control", "distil"),
    "engines": ("torch",),
    "precisions": ("fp32",),
    "prefer": "size",
    "repeats": 1,
    "latency_rows": 4,
    "epochs": 3,
    "lr": 3e-3,
    "max_length": 16,
    "precision": "fp32",
}
NAMES = [f"{method}-{layers}L" for method in ("control", "distil") for layers in (1, 2)]


def weights_of(out: Path, name: str) -> dict[str, torch.Tensor]:
    return dict(TaskModel.load(out / "students" / name).state_dict())


def test_helpers_train_the_students_that_one_process_trains(teacher, data, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "measure_targets", measured_alike)
    given = {"model": str(teacher), "data": data["train"], "eval_data": data["dev"]}
    alone, together = tmp_path / "alone", tmp_path / "together"
    one = bertwright.compress(**given, **OPTIONS, threads=1, out=str(alone))
    two = bertwright.compress(**given, **OPTIONS, threads=2, jobs=2, out=str(together))
    assert one.frontier["dropped"] == two.frontier["dropped"]
    kept = {c["name"].partition("@")[0] for c in two.frontier["candidates"]} - {"teacher"}
    assert kept == {c["name"].partition("@")[0] for c in one.frontier["candidates"]} - {"teacher"}
    logs = sorted((together / "workers").glob("*.log"))
    assert [log.name for log in logs] == [f"{p}-{n}.log" for p in ("half", "whole") for n in (0, 1)]
    for name in kept:
        a, b = weights_of(alone, name), weights_of(together, name)
        assert all(torch.equal(a[key], b[key]) for key in a), name
    assert one.choice.name == two.choice.name


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_search_that_is_killed_ten_times_ends_with_the_same_choice(
    jobs, teacher, data, tmp_path, capfd
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    given = {"model": str(teacher), "data": data["train"], "eval_data": data["dev"]}
    one = bertwright.compress(**given, **OPTIONS, threads=jobs, jobs=jobs, out=str(whole))
    finished = sorted(path.parent.name for path in whole.glob("students/*/student.json"))
    recipe = (whole / "recipe.yaml").read_text().replace(str(whole), str(broken))
    (tmp_path / "recipe.yaml").write_text(recipe)
    rng = random.Random(jobs)
    command = [sys.executable, "-m", "bertwright", "run"]
    kills = lost = 0
    while kills < 10:
        source = str(broken) if broken.exists() else str(tmp_path / "recipe.yaml")
        more = ["--resume"] if (broken / "recipe.yaml").exists() else ["--out", str(broken)]
        before = set(broken.glob("students/*/student.json"))
        process = subprocess.Popen([*command, source, *more], stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(4, 25))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        kills += 1
        lost += not before <= set(broken.glob("students/*/student.json"))
    subprocess.run([*command, str(broken), "--resume"], check=True, stderr=subprocess.DEVNULL)
    found = json.loads((broken / "frontier.json").read_text())
    assert lost == 0 and found["chosen"] == one.choice.name
    assert finished == sorted(path.parent.name for path in broken.glob("students/*/student.json"))
    for name in finished:
        a, b = weights_of(whole, name), weights_of(broken, name)
        assert all(torch.equal(a[key], b[key]) for key in a), name
