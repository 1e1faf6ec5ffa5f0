"""A process that trains students of a search: FOLDER PHASE THREADS SECONDS.

The folder is that of the search, whose recipe says everything else. It ends when no student is left
to begin, and with the process that started it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from bertwright.compress.pipeline import open_context
from bertwright.compress.rounds import slice_of
from bertwright.compress.team import train_claimed
from bertwright.compress.trials import Phase, Trials
from bertwright.config import config_from_dict, load_recipe
from bertwright.evaluate.worker import die_with_parent
from bertwright.models.task_model import TaskModel
from bertwright.training.deadline import until
from bertwright.verbs.compress import CompressConfig, read_search

__all__ = ["main"]


def main(words: Sequence[str]) -> None:
    """Train as the module says."""
    die_with_parent()
    folder, phase, threads, seconds = words
    deadline = time.monotonic() + float(seconds)
    recipe = Path(folder) / "recipe.yaml"
    _, values = load_recipe(recipe)
    config = config_from_dict(CompressConfig, values | {"out": folder}, source=str(recipe))
    training = replace(config.training, threads=int(threads), minutes=None)
    model_dir, rows = read_search(config, Path(folder))
    teacher = TaskModel.load(model_dir)
    context = open_context(teacher, model_dir, rows, config.search, training, Path(folder))
    with contextlib.closing(Trials(Path(folder))) as trials, until(deadline):
        slice_rows = slice_of(context, config.search)
        train_claimed(trials, cast(Phase, phase), context, slice_rows)


if __name__ == "__main__":
    main(sys.argv[1:])
