"""Training in two phases: the first changes the model's shape, the second trains what is left."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from bertwright.config import config_to_dict
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import CheckpointError
from bertwright.files import read_json, write_json
from bertwright.methods.distil.teacher_cache import teacher_hash
from bertwright.models.task_model import TaskModel
from bertwright.training.config import TrainingConfig

__all__ = ["claim_folder", "split_training"]

FREE_TO_CHANGE = ("checkpoint_steps", "threads")


def split_training(
    training: TrainingConfig,
    share: float,
    schedule: Literal["constant", "linear", "cosine"] = "constant",
) -> tuple[TrainingConfig, TrainingConfig]:
    """Return the options of the first and of the second phase.

    Epochs, steps and minutes are divided; each phase has at least one step. The first phase returns
    its last weights: its early scores are of a model that has not yet changed.

    Args:
        training: of both phases together.
        share: of it that the first phase has.
        schedule: of the first phase's learning rate, after the warm-up.
    """
    steps = training.max_steps
    first = None if steps is None else max(1, round(steps * share))
    rest = None if steps is None or first is None else max(1, steps - first)
    minutes = training.minutes
    changing = dataclasses.replace(
        training,
        epochs=training.epochs * share,
        max_steps=first,
        minutes=None if minutes is None else minutes * share,
        schedule=schedule,
        keep_best=False,
        patience=None,
        evals_per_epoch=1,
    )
    settling = dataclasses.replace(
        training,
        epochs=training.epochs * (1 - share),
        max_steps=rest,
        minutes=None if minutes is None else minutes * (1 - share),
    )
    return changing, settling


def claim_folder(
    folder: Path,
    *,
    resume: bool,
    model: TaskModel,
    train_rows: EncodedRows,
    options: Mapping[str, Any],
    training: TrainingConfig,
) -> None:
    """Empty the folder of a first phase, or check that what is in it is of this very run.

    Args:
        folder: of the phase; made if absent.
        resume: go on with what is there.
        model: what the phase begins with.
        train_rows: what it is trained on.
        options: of the methods, as plain values.
        training: of the phase.

    Raises:
        CheckpointError: resuming, and the earlier part was made otherwise.
    """
    plain = config_to_dict(training)
    made_with = {
        "the model": teacher_hash(model),
        "the training rows": train_rows.fingerprint,
        "the method's options": dict(options),
        "the training options": {k: v for k, v in plain.items() if k not in FREE_TO_CHANGE},
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
