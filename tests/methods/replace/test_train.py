from __future__ import annotations

import pytest

from bertwright.errors import CheckpointError
from bertwright.methods.phases import split_training
from bertwright.methods.replace.theseus import TheseusConfig
from bertwright.methods.replace.train import train_theseus
from bertwright.models.task_model import TaskModel
from methods.cases import (
    KilledError,
    kill_at_step,
    same_weights,
    tiny_rows,
    tiny_teacher,
    tiny_training,
    trained_teacher,
    weights,
)


def test_splitting_of_the_budget():
    training = tiny_training(epochs=4, max_steps=10, minutes=5.0, patience=2)
    first, second = split_training(training, 0.25)
    assert (first.epochs, second.epochs) == (1.0, 3.0)
    assert (first.max_steps, second.max_steps) == (2, 8)
    assert (first.minutes, second.minutes) == (1.25, 3.75)
    assert (first.keep_best, second.keep_best) == (False, True)
    assert (first.schedule, second.schedule) == ("constant", "linear")
    assert first.patience is None and second.patience == 2


def run_theseus(teacher, rows, folder, **options):
    return train_theseus(
        teacher,
        rows,
        rows,
        config=TheseusConfig(num_layers=2),
        training=tiny_training(epochs=4, checkpoint_steps=1),
        run_dir=folder,
        **options,
    )


def test_whole_procedure_learns_and_ends_as_a_trained_shallow_model(tmp_path):
    teacher = trained_teacher()
    rows = tiny_rows(teacher, num_rows=96)
    config = tiny_training(epochs=6, batch_size=16)
    student, result = train_theseus(
        teacher, rows, rows, config=TheseusConfig(num_layers=2), training=config, run_dir=tmp_path
    )
    assert student.roles.num_layers == 2 and not student.training
    assert not same_weights(weights(student.head), weights(teacher.head))
    assert not same_weights(weights(student.roles.embeddings), weights(teacher.roles.embeddings))
    assert result.best_score is not None and result.best_score > 0.65
    assert (tmp_path / "metrics.jsonl").exists() and (tmp_path / "replace/metrics.jsonl").exists()
    in_between = TaskModel.load(tmp_path / "replace" / "model")
    assert same_weights(weights(in_between.head), weights(teacher.head))


@pytest.mark.parametrize("step", [5, 17])
def test_killed_in_either_phase_and_resumed_equals_unbroken(tmp_path, monkeypatch, step):
    teacher = tiny_teacher()
    rows = tiny_rows(teacher)  # 6 batches an epoch; 12 steps a phase
    unbroken, _ = run_theseus(teacher, rows, tmp_path / "unbroken")
    mend = kill_at_step(monkeypatch, step)
    with pytest.raises(KilledError):
        run_theseus(teacher, rows, tmp_path / "killed")
    mend()
    assert (tmp_path / "killed/replace/model").exists() == (step > 12)
    resumed, _ = run_theseus(teacher, rows, tmp_path / "killed", resume=True)
    assert same_weights(weights(resumed), weights(unbroken))
    again, _ = run_theseus(teacher, rows, tmp_path / "unbroken", resume=True)
    assert same_weights(weights(again), weights(unbroken))


def test_resuming_something_else_is_refused(tmp_path):
    teacher = tiny_teacher()
    rows = tiny_rows(teacher)
    run_theseus(teacher, rows, tmp_path)
    with pytest.raises(CheckpointError, match="the model changed"):
        run_theseus(tiny_teacher(seed=7), rows, tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="the training rows changed"):
        run_theseus(teacher, tiny_rows(teacher, seed=1), tmp_path, resume=True)


def test_a_new_run_does_not_take_an_old_ones_student(tmp_path):
    teacher = tiny_teacher()
    rows = tiny_rows(teacher)
    first, _ = run_theseus(teacher, rows, tmp_path)
    other = tiny_teacher(seed=7)
    second, _ = run_theseus(other, rows, tmp_path)
    expected, _ = run_theseus(other, rows, tmp_path / "fresh")
    assert same_weights(weights(second), weights(expected))
    assert not same_weights(weights(first), weights(second))
