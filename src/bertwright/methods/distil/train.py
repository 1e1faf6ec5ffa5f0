"""Train a student with distillation methods: asks the teacher once, then runs the loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bertwright.data.tokenise import EncodedRows
from bertwright.errors import UsageError
from bertwright.methods.distil.hidden_matching import HiddenMatchingConfig, match_layers
from bertwright.methods.distil.relations import RelationsConfig, match_relations
from bertwright.methods.distil.soft_targets import SoftTargetsConfig
from bertwright.methods.distil.teacher_cache import LiveTeacher, TeacherCache, TeacherSource
from bertwright.methods.prune.vocabulary import refuse_unknown_pieces
from bertwright.methods.quantize.qat import Qat, QatConfig
from bertwright.models.quantized import refuse_quantized
from bertwright.models.task_model import TaskModel
from bertwright.registry import find_method
from bertwright.tasks import Task, find_task
from bertwright.training.config import TrainingConfig
from bertwright.training.hooks import Hook
from bertwright.training.loop import TrainResult, train
from bertwright.training.precision import make_accelerator

__all__ = [
    "ask_teacher",
    "distil_hooks",
    "have_one_vocabulary",
    "refuse_different_tokenizers",
    "train_distilled",
]


def ask_teacher(
    teacher: TaskModel,
    student: TaskModel,
    train_rows: EncodedRows,
    methods: Sequence[Any],
    *,
    cache_folder: str | Path | None = None,
) -> TeacherSource:
    """Return what answers for the teacher during training, by the cheapest way.

    A cache with just what the methods need: the rows never change, so each epoch after the first
    costs only the student. With attention maps, which would fill the disk, the teacher runs live.

    Args:
        teacher: left as it is.
        student: its depth decides which hidden states are needed.
        train_rows: the rows that the student will be trained on.
        methods: configs of distillation methods.
        cache_folder: where caches are kept; default: bertwright's own.

    Raises:
        UsageError: the methods cannot be used on these two models; the teacher was not asked.
    """
    live = LiveTeacher(teacher)
    projection_layers = {
        match_relations(m, student.encoder, live).layer_t
        for m in methods
        if isinstance(m, RelationsConfig)
    }
    hidden_layers: set[int] = set()
    maps = False
    for config in (m for m in methods if isinstance(m, HiddenMatchingConfig)):
        layers = {g for _, g in match_layers(config, student.encoder, live)}
        if config.hidden_weight > 0:
            hidden_layers |= layers | ({0} if config.embeddings else set())
        if config.attention_weight > 0 and config.attention_loss == "scores":
            projection_layers |= layers
        elif config.attention_weight > 0:
            maps = True
    if maps:
        return LiveTeacher(
            teacher,
            hidden=bool(hidden_layers),
            attentions=True,
            projection_layers=sorted(projection_layers),
        )
    return TeacherCache.build(
        teacher,
        train_rows,
        hidden_layers=sorted(hidden_layers),
        projection_layers=sorted(projection_layers),
        folder=cache_folder,
    )


def distil_hooks(methods: Sequence[Any], teacher: TeacherSource) -> list[Hook]:
    """Return the hook of each config; those that learn from a teacher ask the same one.

    Raises:
        UsageError: a config is not of a distillation method that trains, nor of qat.
    """
    hooks: list[Hook] = []
    for config in methods:
        if isinstance(config, QatConfig):
            hooks.append(Qat(config))
            continue
        entry = find_method(type(config))
        if entry.card.kind != "distil" or Hook not in entry.apply.__mro__:
            raise UsageError(
                f"{entry.name} does not train a student beside its teacher",
                hint="methods for this are soft_targets, hidden_matching and relations",
            )
        hooks.append(entry.apply(config, teacher))
    return hooks


def train_distilled(
    student: TaskModel,
    teacher: TaskModel | TeacherSource,
    train_rows: EncodedRows,
    eval_rows: EncodedRows | None,
    *,
    methods: Sequence[Any] = (SoftTargetsConfig(),),
    hooks: Sequence[Hook] = (),
    training: TrainingConfig,
    run_dir: str | Path,
    task: Task | None = None,
    resume: bool = False,
    cache_folder: str | Path | None = None,
    pause_at: int | None = None,
) -> TrainResult:
    """Train `student` in place with distillation methods; it returns with its best weights.

    Args:
        student: see `init_student`.
        teacher: a fine-tuned model (moved to the accelerator if there is one; asked once and
            cached), or a cache or live teacher to use as is.
        train_rows: tokenised rows with labels.
        eval_rows: rows to evaluate on, or None.
        methods: configs of distillation methods, each at most once.
        hooks: what else takes part.
        training: how long and how.
        run_dir: gets metrics and checkpoints.
        task: default: the one that the student names.
        resume: continue where a killed run of the same options stopped.
        cache_folder: where the teacher's answers are kept; default: bertwright's own cache.
        pause_at: see `train`.

    Raises:
        UsageError: the tokenizers or labels of the two differ, the rows were tokenised for
            another vocabulary, or the student has been quantized.
    """
    refuse_quantized(student, "it cannot be trained")
    refuse_unknown_pieces(student, train_rows)
    if isinstance(teacher, TaskModel):
        refuse_different_tokenizers(student, teacher)
        teacher.to(make_accelerator(training.precision).device)
        source = ask_teacher(teacher, student, train_rows, methods, cache_folder=cache_folder)
    else:
        source = teacher
    return train(
        student,
        train_rows,
        eval_rows,
        task=task or find_task(student.task),
        config=training,
        hooks=[*distil_hooks(methods, source), *hooks],
        run_dir=Path(run_dir),
        resume=resume,
        pause_at=pause_at,
    )


def refuse_different_tokenizers(student: TaskModel, teacher: TaskModel) -> None:
    """Raise unless both models mean the same tokens by the same ids.

    Raises:
        UsageError: the vocabularies differ.
    """
    if not have_one_vocabulary(student, teacher):
        raise UsageError(
            "the student's tokenizer is not the teacher's, so they would read different texts",
            hint="ask it by several_teachers.ask_teachers, or start the student from the teacher",
        )


def have_one_vocabulary(a: TaskModel, b: TaskModel) -> bool:
    """Return whether two models mean the same by every id; those without tokenizer might."""
    if a.tokenizer is None or b.tokenizer is None:
        return True
    return a.tokenizer.get_vocab() == b.tokenizer.get_vocab()
