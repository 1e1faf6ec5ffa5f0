"""What the student of `distil` learns from: its rows, and the teachers that answer them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.data.rows import Rows
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.errors import DataError, UsageError
from bertwright.evaluate.measure import model_folder
from bertwright.files import write_json_lines
from bertwright.methods.distil.several_teachers import ask_teachers
from bertwright.methods.distil.teacher_source import TeacherSource
from bertwright.methods.distil.train import have_one_vocabulary
from bertwright.methods.distil.transfer_set import (
    TransferSet,
    TransferSetConfig,
    text_rows,
    write_transfer_set,
)
from bertwright.models.task_model import TaskModel
from bertwright.tasks import Task, find_task
from bertwright.training.config import TrainingConfig
from bertwright.verbs.common import DataConfig, read_rows
from bertwright.verbs.distil_student import read_amount

if TYPE_CHECKING:
    from bertwright.verbs.distil import DistilConfig

__all__ = ["generator_of", "load_teachers", "teacher_of", "with_more_rows"]

TRANSFER_FILE = "transfer.jsonl"
"""In the run's folder: the rows with labels, then those that the teacher answered."""
AS_TEACHERS_READ_FILE = "transfer-teachers.jsonl"
"""Beside it, where teachers read columns of their own: the same rows as they read them."""


class MoreRows(Protocol):
    """What the configs of `distil` and `compress` have in common."""

    @property
    def data(self) -> str: ...
    @property
    def more_text(self) -> tuple[str, ...]: ...
    @property
    def generate(self) -> str | None: ...
    @property
    def reading(self) -> DataConfig: ...
    @property
    def training(self) -> TrainingConfig: ...


def with_more_rows(
    config: MoreRows,
    rows: Rows,
    teacher: TaskModel,
    task: Task,
    labels: LabelSet | None,
    run_dir: Path,
    *,
    teacher_column: Sequence[str] = (),
) -> Rows:
    """Return the rows to learn from, those that the teacher answers among them.

    They are written to `transfer.jsonl`, from which a resumed run reads them; where the teacher
    reads columns of its own, the rows as it reads them to `transfer-teachers.jsonl`.
    """
    if not (config.more_text or config.generate):
        return rows
    path = run_dir / TRANSFER_FILE
    if not path.exists():
        task.refuse_texts_without_labels()
        more: list[dict[str, Any]] = []
        as_read: list[dict[str, Any]] = []
        for place in config.more_text:
            read = read_rows(
                place,
                config.reading,
                task,
                need_label=False,
                rejected_path=run_dir / "rejected-more.jsonl",
            )
            more += text_rows(read)
            if teacher_column:
                wide = _as_teachers_read(place, config.reading, teacher_column, read, task)
                as_read += text_rows(wide)
        generator = generator_of(config)
        if generator is not None:
            more += generator.apply(teacher, rows, seed=config.training.seed)
        if teacher_column:
            wide = _as_teachers_read(config.data, config.reading, teacher_column, rows, task)
            write_json_lines(run_dir / AS_TEACHERS_READ_FILE, [*text_rows(wide), *as_read])
        write_transfer_set(path, rows, more, teacher=teacher, task=task, as_read=as_read)
    return load_rows(path, schema=task.schema, labels=labels)


def generator_of(config: MoreRows) -> TransferSet | None:
    """Return what makes other texts of the rows; None where none are asked for.

    Raises:
        ConfigError: an option is unknown or its value is out of range.
    """
    if config.generate is None:
        return None
    return TransferSet(read_amount("generate", config.generate, TransferSetConfig, "copies"))


def load_teachers(config: DistilConfig, teacher: TaskModel) -> list[TaskModel]:
    """Return the teacher and the other ones.

    Raises:
        UsageError: one is of another task.
    """
    others = [TaskModel.load(model_folder(place)) for place in config.co_teacher]
    for place, other in zip(config.co_teacher, others, strict=True):
        if find_task(other.task).name != find_task(teacher.task).name:
            raise UsageError(
                f"--co-teacher {place} does {other.task}, the teacher {teacher.task}",
                hint="all teachers answer the same question",
            )
    return [teacher, *others]


def teacher_of(
    config: DistilConfig,
    teachers: Sequence[TaskModel],
    parent: TaskModel,
    task: Task,
    rows: Rows,
    encoded: EncodedRows,
    run_dir: Path,
) -> TaskModel | TeacherSource:
    """Return what answers in training: the teacher itself where it reads what the student reads.

    Args:
        config: says which columns only teachers read.
        teachers: at least one.
        parent: the student's tokenizer is its.
        task: theirs.
        rows: what the student learns from.
        encoded: the same as the student reads them.
        run_dir: where rows that the teacher answered may lie, as it reads them.

    Raises:
        UsageError: a teacher's rows do not correspond to the student's.
    """
    alone = len(teachers) == 1 and not config.teacher_column
    if alone and have_one_vocabulary(parent, teachers[0]):
        return teachers[0]
    read = rows
    if config.teacher_column and config.more_text:
        read = load_rows(run_dir / AS_TEACHERS_READ_FILE, schema=task.schema, need_label=False)
    elif config.teacher_column:
        read = _as_teachers_read(config.data, config.reading, config.teacher_column, rows, task)
    return ask_teachers(
        [
            (
                teacher,
                tokenise(
                    read,
                    teacher.tokenizer,
                    encoder=task.training_encoder,
                    max_length=teacher.max_length,
                ),
            )
            for teacher in teachers
        ],
        encoded,
    )


def _as_teachers_read(
    place: str, reading: DataConfig, teacher_column: Sequence[str], rows: Rows, task: Task
) -> Rows:
    """Return the same rows with the columns that only teachers read.

    Args:
        place: where the rows were read from.
        reading: how.
        teacher_column: ROLE=NAME each.
        rows: as the student reads them.
        task: theirs.

    Raises:
        DataError: a row is not among those read so.
    """
    reading = replace(reading, column=(*reading.column, *teacher_column), max_rows=None)
    found = read_rows(place, reading, task, need_label=False)
    known, wanted = found.row_numbers(), rows.row_numbers()
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    missing = wanted[known[places] != wanted]
    if len(missing):
        raise DataError(
            f"row {missing[0]} cannot be read as --teacher-column says",
            path=place,
            hint="every row needs what the teacher reads",
        )
    return found.select(places)
