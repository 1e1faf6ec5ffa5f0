"""The two phases of BERT-of-Theseus: layers are replaced, then the successors train alone."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

from bertwright.config import config_to_dict
from bertwright.data.tokenise import EncodedRows
from bertwright.methods.phases import claim_folder, split_training
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

__all__ = ["replace_layers", "train_theseus"]

REPLACE_DIR = "replace"


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
        config=split_training(training, config.replace_share)[1],
        hooks=(),
        run_dir=run_dir,
        resume=resume,
    )
    return student, result


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
    replacing = split_training(training, config.replace_share, config.lr_schedule)[0]
    claim_folder(
        folder,
        resume=resume,
        model=teacher,
        train_rows=train_rows,
        options=config_to_dict(config),
        training=replacing,
    )
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
