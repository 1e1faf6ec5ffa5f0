"""Prune while training: a first phase closes gates, a second trains the smaller model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bertwright.config import config_to_dict
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import UsageError
from bertwright.methods.distil.hidden_matching import HiddenMatchingConfig
from bertwright.methods.distil.teacher_cache import TeacherSource
from bertwright.methods.distil.train import train_distilled
from bertwright.methods.phases import claim_folder, split_training
from bertwright.methods.prune.gradual import GradualPruningConfig
from bertwright.methods.prune.learned import LearnedGatesConfig
from bertwright.methods.prune.vocabulary import refuse_unknown_pieces
from bertwright.methods.quantize.qat import QatConfig
from bertwright.models.task_model import TaskModel
from bertwright.registry import find_method
from bertwright.tasks import Task, find_task
from bertwright.training.config import TrainingConfig
from bertwright.training.hooks import Hook
from bertwright.training.loop import TrainResult, train

__all__ = ["PRUNING_IN_TRAINING", "PruningInTraining", "train_pruned"]

PruningInTraining = GradualPruningConfig | LearnedGatesConfig
PRUNING_IN_TRAINING = (GradualPruningConfig, LearnedGatesConfig)
PRUNE_DIR = "prune"


def train_pruned(
    model: TaskModel,
    teacher: TaskModel | TeacherSource | None,
    train_rows: EncodedRows,
    eval_rows: EncodedRows | None,
    *,
    config: PruningInTraining,
    methods: Sequence[Any] = (),
    training: TrainingConfig,
    run_dir: str | Path,
    task: Task | None = None,
    resume: bool = False,
    cache_folder: str | Path | None = None,
) -> tuple[TaskModel, TrainResult]:
    """Train `model` while heads and neurons leave it, then train what is left of it.

    The first phase is a run in `run_dir/prune` (with the narrower model in `model/` when it is
    done); the second is the run in `run_dir` itself, and keeps the best weights.

    Args:
        model: fine-tuned on the task; trained in place in the first phase.
        teacher: who is followed by `methods`; None: both phases learn from the labels alone.
        train_rows: tokenised rows with labels.
        eval_rows: rows to evaluate on, or None.
        config: how it is pruned.
        methods: configs of distillation methods, for both phases.
        training: epochs, steps and minutes of both phases together.
        run_dir: see above.
        task: default: the one that the model names.
        resume: continue where a killed run of the same options stopped.
        cache_folder: where the teacher's answers are kept; default: bertwright's own cache.

    Returns:
        The narrower model, in eval mode, and the result of the second phase.

    Raises:
        UsageError: a method beside it compares heads one by one, or rounds as int8 will.
        CheckpointError: resuming, and the first phase was made otherwise.
    """
    _refuse_together(config, methods)
    refuse_unknown_pieces(model, train_rows)
    run_dir = Path(run_dir)
    folder, done = run_dir / PRUNE_DIR, run_dir / PRUNE_DIR / "model"
    pruning, settling = split_training(training, config.prune_share)
    claim_folder(
        folder,
        resume=resume,
        model=model,
        train_rows=train_rows,
        options={
            "pruning": config_to_dict(config),
            "methods": [{type(one).__name__: config_to_dict(one)} for one in methods],
        },
        training=pruning,
    )
    rows = (train_rows, eval_rows)
    options: dict[str, Any] = {
        **{"teacher": teacher, "methods": methods, "cache_folder": cache_folder},
        **{"task": task or find_task(model.task), "resume": resume},
    }
    if done.exists():
        narrow = TaskModel.load(done)
    else:
        hook: Any = find_method(type(config)).apply(config)
        _phase(model, *rows, hooks=[hook], training=pruning, run_dir=folder, **options)
        narrow = hook.narrowed(model)
        narrow.save(done)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    result = _phase(narrow, *rows, hooks=[], training=settling, run_dir=run_dir, **options)
    return narrow, result


def _refuse_together(config: PruningInTraining, methods: Sequence[Any]) -> None:
    if any(isinstance(method, QatConfig) for method in methods):
        raise UsageError(
            "ranges for int8 belong to weights that stay, and some are to go",
            hint="train the narrower model with qat in a second run",
        )
    maps = any(isinstance(m, HiddenMatchingConfig) and m.attention_weight > 0 for m in methods)
    if maps and config.heads < 1:
        raise UsageError(
            "a model without some of its heads has no attention maps that correspond to the "
            "teacher's",
            hint="leave attention_weight out, or take neurons alone",
        )


def _phase(
    model: TaskModel,
    train_rows: EncodedRows,
    eval_rows: EncodedRows | None,
    *,
    teacher: TaskModel | TeacherSource | None,
    methods: Sequence[Any],
    hooks: Sequence[Hook],
    training: TrainingConfig,
    cache_folder: str | Path | None,
    **options: Any,
) -> TrainResult:
    """Train with a teacher, or from labels alone."""
    if teacher is None:
        return train(model, train_rows, eval_rows, hooks=hooks, config=training, **options)
    return train_distilled(
        model,
        teacher,
        train_rows,
        eval_rows,
        methods=methods,
        hooks=hooks,
        training=training,
        cache_folder=cache_folder,
        **options,
    )
