"""The two phases of BERT-of-Theseus: layers are replaced, then the successors train alone."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path

from bertwright.config import config_to_dict
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import CheckpointError
from bertwright.files import read_json, write_json
from bertwright.methods.distil.teacher_cache import teacher_hash
from bertwright.methods.prune.vocabulary import refuse_unknown_pieces
from bertwright.methods.replace.theseus import (
    Theseus,
    TheseusConfig,
    apply_theseus,
    finish_theseus,
)
from bertwright.models.task_model import TaskModel
from bertwright.tasks import Task, find_task
from bertwright.training.config import TrainingConfig
from bertwright.training.loop import TrainResult, train

__all__ = ["replace_layers", "split_training", "train_theseus"]

REPLACE_DIR = "replace"
FREE_TO_CHANGE = ("checkpoint_steps", "threads")


def train_theseus(
    teacher: TaskModel,
    train_rows: EncodedRows,
    eval_rows: EncodedRows | None,
    *,
    config: TheseusConfig,
    training: TrainingConfig,
    run_dir: str | Path,
    task: Task | None = None,
    resume: bool = False,
) -> tuple[TaskModel, TrainResult]:
    """Train a student by replacement, then fine-tune it alone.

    The replacement phase is a run in `run_dir/replace` (with its student in `model/` when it is
    done); the fine-tuning phase is the run in `run_dir` itself, and keeps the best weights.

    Args:
        teacher: fine-tuned on the task; left as it is.
        train_rows: tokenised rows with labels.
        eval_rows: rows to evaluate on, or None.
        config: the method's options.
        training: epochs, steps and minutes of both phases together.
        run_dir: see above.
        task: default: the one that the teacher names.
        resume: continue where a killed run of the same options stopped.

    Returns:
        The student, in eval mode, and the result of the fine-tuning phase.
    """
    run_dir = Path(run_dir)
    student = replace_layers(
        teacher,
        train_rows,
        eval_rows,
        config=config,
        training=training,
        run_dir=run_dir,
        task=task,
        resume=resume,
    )
    result = train(
        student,
        train_rows,
        eval_rows,
        task=task or find_task(teacher.task),
        config=split_training(training, config)[1],
        hooks=(),
        run_dir=run_dir,
        resume=resume,
    )
    return student, result


def split_training(
    training: TrainingConfig, config: TheseusConfig
) -> tuple[TrainingConfig, TrainingConfig]:
    """Return the options of the replacement and of the fine-tuning phase.

    Epochs, steps and minutes are divided by `replace_share`; each phase has at least one step.
    The replacement phase returns its last weights: its early scores are of unfinished successors.
    """
    share = config.replace_share
    steps = training.max_steps
    first = None if steps is None else max(1, round(steps * share))
    rest = None if steps is None or first is None else max(1, steps - first)
    minutes = training.minutes
    replacing = dataclasses.replace(
        training,
        epochs=training.epochs * share,
        max_steps=first,
        minutes=None if minutes is None else minutes * share,
        schedule=config.lr_schedule,
        keep_best=False,
        patience=None,
        evals_per_epoch=1,
    )
    finetuning = dataclasses.replace(
        training,
        epochs=training.epochs * (1 - share),
        max_steps=rest,
        minutes=None if minutes is None else minutes * (1 - share),
    )
    return replacing, finetuning


def replace_layers(
    teacher: TaskModel,
    train_rows: EncodedRows,
    eval_rows: EncodedRows | None,
    *,
    config: TheseusConfig,
    training: TrainingConfig,
    run_dir: str | Path,
    task: Task | None = None,
    resume: bool = False,
) -> TaskModel:
    """Run the replacement phase of `train_theseus` alone, and return its student.

    `train_theseus` with `resume` goes on from it. The arguments are those of `train_theseus`;
    `training` is of both phases together.
    """
    refuse_unknown_pieces(teacher, train_rows)
    folder = Path(run_dir) / REPLACE_DIR
    done = folder / "model"
    replacing = split_training(training, config)[0]
    _claim_folder(folder, resume, teacher, train_rows, config, replacing)
    if done.exists():
        return TaskModel.load(done)
    model = copy.deepcopy(teacher)
    apply_theseus(model, config.num_layers, init=config.init)
    train(
        model,
        train_rows,
        eval_rows,
        task=task or find_task(teacher.task),
        config=replacing,
        hooks=[Theseus(config)],
        run_dir=folder,
        resume=resume,
    )
    student = finish_theseus(model)
    student.save(done)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return student


def _claim_folder(
    folder: Path,
    resume: bool,
    teacher: TaskModel,
    train_rows: EncodedRows,
    config: TheseusConfig,
    training: TrainingConfig,
) -> None:
    """Empty the folder for a new run, or check that what is in it is of this very run.

    Raises:
        CheckpointError: resuming, and the earlier part was made otherwise.
    """
    options = config_to_dict(training)
    made_with = {
        "the teacher": teacher_hash(teacher),
        "the training rows": train_rows.fingerprint,
        "the method's options": config_to_dict(config),
        "the training options": {k: v for k, v in options.items() if k not in FREE_TO_CHANGE},
    }
    record = folder / "made_with.json"
    if resume and record.exists():
        before = read_json(record)
        changed = [name for name, value in made_with.items() if before.get(name) != value]
        if changed:
            raise CheckpointError(
                f"cannot resume {folder.parent}: {' and '.join(changed)} changed since it began",
                hint="give the same as before, or start again without --resume",
            )
        return
    shutil.rmtree(folder, ignore_errors=True)
    write_json(record, made_with)
