from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bertwright.data.tokenise import EncodedRows
from bertwright.errors import CheckpointError
from bertwright.tasks import find_task
from bertwright.training.config import TrainingConfig
from bertwright.training.hooks import Hook, RunState
from bertwright.training.loop import train

HERE = Path(__file__).resolve().parent
TASK = find_task("classify")


class KilledError(Exception):
    pass


class KillAt(Hook):
    """Ends the run abruptly after a step; makes the evaluation at step 6 the best of all."""

    order = 99

    def __init__(self, step: int) -> None:
        self.step = step

    @property
    def name(self) -> str:
        return "KillAt"

    def on_step(self, state: RunState) -> None:
        if state.step == self.step:
            raise KilledError

    def on_evaluate(self, state: RunState) -> None:
        state.metrics["accuracy"] = 1 - abs(state.step - 6) / 10


def start(run_dir: Path, weights: Path, *options: str) -> subprocess.Popen[bytes]:
    tests = str(HERE.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    command = [sys.executable, str(HERE / "kill_run.py"), str(run_dir), str(weights), *options]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors.decode()


def kill_at_a_random_moment(process: subprocess.Popen[bytes], run_dir: Path) -> None:
    """Wait for a random checkpoint and a random while, then SIGKILL."""
    checkpoints = run_dir / "checkpoints"
    step = random.choice([3, 6, 9, 12, 15])
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if any(int(p.name[5:]) >= step for p in checkpoints.glob("step-*")):
            break
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.06))
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()


def read_journal(run_dir: Path) -> list[dict]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    timed = ("seconds", "tokens_per_s")
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


def test_a_killed_and_resumed_run_ends_with_bitwise_the_same_weights(tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    first = start(unbroken, tmp_path / "a.pt")
    second = start(broken, tmp_path / "b.pt")
    kill_at_a_random_moment(second, broken)
    assert not (tmp_path / "b.pt").exists()
    assert not (broken / "checkpoints" / "step-00000040").exists()
    finish(start(broken, tmp_path / "b.pt", "--resume"))
    finish(first)
    a, b = torch.load(tmp_path / "a.pt"), torch.load(tmp_path / "b.pt")
    assert len(a) > 10 and a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
    assert read_journal(unbroken) == read_journal(broken)


CONFIG = TrainingConfig(
    epochs=2, lr=3e-3, batch_size=8, evals_per_epoch=2, checkpoint_steps=2, precision="fp32"
)


@pytest.fixture
def rows(make_rows) -> tuple[EncodedRows, EncodedRows]:
    return make_rows(48, 0), make_rows(24, 1)


@pytest.fixture
def broken_run(make_model, rows, tmp_path) -> Path:
    """A run of 12 steps that ended abruptly after step 7; checkpoints at 4 and 6."""
    with pytest.raises(KilledError):
        train(make_model(), *rows, task=TASK, config=CONFIG, hooks=[KillAt(7)], run_dir=tmp_path)
    names = sorted(p.name for p in (tmp_path / "checkpoints").glob("step-*"))
    assert names == ["step-00000004", "step-00000006"]
    return tmp_path


def resume(make_model, rows, run_dir: Path, config: TrainingConfig = CONFIG):
    model = make_model(seed=5)  # the weights must come from the checkpoint
    hooks = [KillAt(-1)]
    train(model, *rows, task=TASK, config=config, hooks=hooks, run_dir=run_dir, resume=True)
    return model.state_dict()


@pytest.fixture
def expected(make_model, rows, tmp_path_factory) -> dict[str, torch.Tensor]:
    model, run_dir = make_model(), tmp_path_factory.mktemp("whole")
    train(model, *rows, task=TASK, config=CONFIG, hooks=[KillAt(-1)], run_dir=run_dir)
    return model.state_dict()


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys() and len(a) > 10
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_resume_keeps_the_best_weights_found_before(make_model, rows, broken_run, expected):
    assert_equal(resume(make_model, rows, broken_run), expected)


@pytest.mark.parametrize("damage", ["bytes", "cut", "facts", "gone", "best"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    make_model, rows, broken_run, expected, damage, capsys
):
    newest = broken_run / "checkpoints" / "step-00000006"
    file = newest / "state.pt"
    if damage == "best":
        file = newest.with_name("best-00000006") / "state.pt"
    if damage in ("bytes", "best"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0xFF
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "facts":
        (newest / "checkpoint.json").write_text("{")
    else:
        file.unlink()
    assert_equal(resume(make_model, rows, broken_run), expected)
    warning = capsys.readouterr().err
    assert "warning" in warning and "damaged" in warning


def test_no_usable_checkpoint_is_an_error_that_says_what_to_do(make_model, rows, broken_run):
    for folder in (broken_run / "checkpoints").glob("step-*"):
        (folder / "state.pt").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="without --resume"):
        resume(make_model, rows, broken_run)


def test_a_checkpoint_of_a_newer_format_is_refused_not_removed(make_model, rows, broken_run):
    newest = broken_run / "checkpoints" / "step-00000006"
    facts = json.loads((newest / "checkpoint.json").read_text())
    (newest / "checkpoint.json").write_text(json.dumps({**facts, "format_version": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        resume(make_model, rows, broken_run)
    assert newest.exists()


def test_other_options_or_rows_are_refused(make_model, make_rows, rows, broken_run):
    other = TrainingConfig(
        epochs=2, lr=1e-3, batch_size=8, evals_per_epoch=2, checkpoint_steps=2, precision="fp32"
    )
    with pytest.raises(CheckpointError, match=r"lr 0\.003 \(now 0\.001\)"):
        resume(make_model, rows, broken_run, other)
    with pytest.raises(CheckpointError, match="training rows"):
        resume(make_model, (make_rows(48, 7), rows[1]), broken_run)


def test_resume_without_a_checkpoint_starts_from_the_beginning(
    make_model, rows, tmp_path, expected
):
    model = make_model()
    hooks = [KillAt(-1)]
    train(model, *rows, task=TASK, config=CONFIG, hooks=hooks, run_dir=tmp_path, resume=True)
    assert_equal(model.state_dict(), expected)


def test_resuming_a_finished_run_trains_no_more(make_model, rows, tmp_path):
    model = make_model()
    first = train(model, *rows, task=TASK, config=CONFIG, run_dir=tmp_path)
    journal = (tmp_path / "metrics.jsonl").read_text()
    again = make_model(seed=5)
    second = train(again, *rows, task=TASK, config=CONFIG, run_dir=tmp_path, resume=True)
    assert_equal(model.state_dict(), again.state_dict())
    assert (tmp_path / "metrics.jsonl").read_text() == journal
    assert second.steps == first.steps and second.stopped == first.stopped
    assert second.best_score == first.best_score and second.metrics == first.metrics


def test_without_resume_an_earlier_run_is_forgotten(make_model, rows, broken_run, expected):
    model = make_model()
    train(model, *rows, task=TASK, config=CONFIG, hooks=[KillAt(-1)], run_dir=broken_run)
    assert_equal(model.state_dict(), expected)
    assert read_journal(broken_run)[-1]["step"] == 12


@pytest.mark.parametrize("pause_at", [5, 6])
def test_a_paused_run_goes_on_to_the_same_weights(make_model, rows, tmp_path, expected, pause_at):
    model = make_model()
    hooks = [KillAt(-1)]
    options = {"task": TASK, "config": CONFIG, "run_dir": tmp_path}
    paused = train(model, *rows, hooks=hooks, pause_at=pause_at, **options)
    assert (paused.steps, paused.stopped) == (pause_at, "paused") and not model.training
    same = torch.equal(model.state_dict()["head.out.weight"], expected["head.out.weight"])
    assert same == (pause_at == 6)  # where the best weights were found
    assert_equal(resume(make_model, rows, tmp_path), expected)
