"""Elastic training: a model is put in order, and all of its sizes are trained together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bertwright.config import config_to_dict
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import UsageError
from bertwright.methods.distil.soft_targets import SoftTargets, SoftTargetsConfig
from bertwright.methods.distil.teacher_cache import TeacherSource
from bertwright.methods.distil.train import ask_teacher, refuse_different_tokenizers
from bertwright.methods.phases import claim_folder
from bertwright.methods.prune.elastic import (
    Elastic,
    ElasticConfig,
    check_elastic,
    order_by_importance,
)
from bertwright.methods.prune.vocabulary import refuse_unknown_pieces
from bertwright.models.task_model import TaskModel
from bertwright.tasks import Task, find_task
from bertwright.training.config import TrainingConfig
from bertwright.training.loop import TrainResult, train
from bertwright.training.precision import make_accelerator

__all__ = ["train_elastic"]

ORDER_DIR = "order"


def train_elastic(
    model: TaskModel,
    teacher: TaskModel | TeacherSource | None,
    train_rows: EncodedRows,
    eval_rows: EncodedRows | None,
    *,
    config: ElasticConfig,
    methods: Sequence[Any] = (),
    training: TrainingConfig,
    run_dir: str | Path,
    task: Task | None = None,
    resume: bool = False,
    cache_folder: str | Path | None = None,
) -> tuple[TaskModel, TrainResult]:
    """Return a copy of `model` from which any size can be cut, and the result of its training.

    The copy is put in order first (kept in `run_dir/order/model`); the run in `run_dir` trains it.
    What is scored, in the run's metrics, is the whole model; the last weights are kept.

    Args:
        model: fine-tuned on the task; left as it is.
        teacher: who is followed by `methods`; None: all sizes learn from the labels alone.
        train_rows: tokenised rows with labels.
        eval_rows: rows to evaluate on, or None.
        config: the sizes.
        methods: the config of soft_targets, or nothing.
        training: epochs, steps and minutes.
        run_dir: see above.
        task: default: the one that the model names.
        resume: continue where a killed run of the same options stopped.
        cache_folder: where the teacher's answers are kept; default: bertwright's own cache.

    Raises:
        UsageError: another method is beside it, or the model has no such sizes.
        CheckpointError: resuming, and the order was made otherwise.
    """
    others = [one for one in methods if not isinstance(one, SoftTargetsConfig)]
    if others:
        raise UsageError(
            "--method elastic: what is compared layer by layer has no place where every depth is "
            "the last one",
            hint="give soft_targets beside it, or nothing",
        )
    check_elastic(model, config)
    refuse_unknown_pieces(model, train_rows)
    task = task or find_task(model.task)
    folder = Path(run_dir) / ORDER_DIR
    claim_folder(
        folder,
        resume=resume,
        model=model,
        train_rows=train_rows,
        options={"elastic": config_to_dict(config)},
        training=training,
    )
    if not (folder / "model").exists():
        order_by_importance(model, train_rows, task).save(folder / "model")
    ordered = TaskModel.load(folder / "model")
    soft = None
    if methods:
        assert teacher is not None
        if isinstance(teacher, TaskModel):
            refuse_different_tokenizers(ordered, teacher)
            teacher.to(make_accelerator(training.precision).device)
            teacher = ask_teacher(teacher, ordered, train_rows, methods, cache_folder=cache_folder)
        soft = SoftTargets(methods[0], teacher)
    result = train(
        ordered,
        train_rows,
        eval_rows,
        task=task,
        config=dataclasses.replace(training, keep_best=False),
        hooks=[Elastic(config, soft)],
        run_dir=run_dir,
        resume=resume,
    )
    return ordered, result
