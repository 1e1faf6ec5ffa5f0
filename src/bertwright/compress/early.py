"""Candidates that stop early: the teacher, and the best of its students, with exits.

What is promised of exits elsewhere, that so many answers stay the same, is here a way to find
thresholds worth trying: the rows that set them choose among the candidates too. What comes of them
is judged as all candidates are, by score.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bertwright.compress.artifacts import ModelToCompile
from bertwright.data.tokenise import EncodedRows
from bertwright.engines.artifact import hash_model
from bertwright.engines.base import EngineSpec
from bertwright.errors import BertwrightError
from bertwright.files import atomic_dir, read_json, write_json
from bertwright.methods.exit.early_exit import (
    EarlyExit,
    EarlyExitConfig,
    calibrate_exits,
    fit_exits,
)
from bertwright.models.exits import Exits
from bertwright.models.task_model import TaskModel
from bertwright.progress import console
from bertwright.training.precision import using_threads

__all__ = ["EXITS_METHOD", "ExitTrials", "exit_mark", "exit_specs", "why_no_exits"]

EXITS_METHOD = "exits"
_RECORD = "exits.json"


def why_no_exits(model: TaskModel) -> str | None:
    """Say why a model cannot stop early; None: it can."""
    try:
        EarlyExit().check(model)
    except BertwrightError as error:
        return error.message
    return None


def exit_specs(specs: Sequence[EngineSpec]) -> list[EngineSpec]:
    """Return those of the engines and precisions in which models stop early."""
    return [spec for spec in specs if spec.precision == "fp32" or spec.engine != "torch"]


@dataclass(frozen=True)
class ExitTrials:
    """Makes candidates that stop early; what a broken-off search made is used again."""

    agreements: Sequence[float]
    """Shares of the dev rows that are answered as by the whole model."""
    rows: EncodedRows
    """The heads learn from these; labels are not asked."""
    dev_rows: EncodedRows
    """Find the thresholds."""
    folder: Path
    """`NAME-e99/` of each are written here."""
    threads: int | None
    """Of the processor; None: as torch chooses."""

    def names(self, model: ModelToCompile) -> list[str]:
        """Return what a model with exits is called, for each agreement."""
        return [model.name + exit_mark(agreement) for agreement in self.agreements]

    def add(self, model: ModelToCompile) -> tuple[list[ModelToCompile], dict[str, str]]:
        """Return a model with exits for each agreement, and what could not be made: name -> why."""
        made: list[ModelToCompile] = []
        refused: dict[str, str] = {}
        whole, source = TaskModel.load(model.model_dir), hash_model(model.model_dir)
        reason, heads = why_no_exits(whole), None
        for agreement in self.agreements:
            early = _named(model, agreement, self.folder)
            record, facts = early.model_dir / _RECORD, {"of": source, "agreement": agreement}
            if reason is None and not (record.exists() and read_json(record) == facts):
                console.print(f"[bold]{early.name}[/]: exits")
                with using_threads(self.threads):
                    heads = heads or fit_exits(whole, self.rows, EarlyExitConfig())
                    why_not = self._write(whole, heads, early.model_dir, facts)
            else:
                why_not = reason
            if why_not is not None:
                refused[early.name] = why_not
                continue
            own = whole.outputs.count * (2 * whole.roles.hidden_size + 1)
            added = own * (whole.roles.num_layers - 1)
            made.append(replace(early, parameters=model.parameters + added))
        return made, refused

    def _write(
        self, whole: TaskModel, heads: Exits, place: Path, facts: dict[str, Any]
    ) -> str | None:
        """Write the model with exits; say why not where no threshold is sure to be good enough."""
        agreement = facts["agreement"]
        exits = copy.deepcopy(heads)
        exits.agreement = agreement
        found = calibrate_exits(whole, exits, self.dev_rows)
        if found.threshold is None:
            return (
                f"no threshold is sure to leave {agreement:g} of the answers as they are, by "
                f"{len(self.dev_rows):,} rows"
            )
        early = copy.deepcopy(whole)
        exits.threshold = found.threshold
        early.exits = exits
        early.lineage = {
            **{key: value for key, value in whole.lineage.items() if key != "scores"},
            "exits": {"agreement": agreement, "calibrated": vars(found)},
        }
        with atomic_dir(place) as folder:
            early.save(folder)
            write_json(folder / _RECORD, facts)
        return None


def exit_mark(agreement: float) -> str:
    """Return what names and shapes of candidates end with: `-e99`."""
    return f"-e{100 * agreement:g}"


def _named(model: ModelToCompile, agreement: float, folder: Path) -> ModelToCompile:
    name = model.name + exit_mark(agreement)
    return replace(
        model,
        name=name,
        method=EXITS_METHOD,
        shape=model.shape + exit_mark(agreement),
        model_dir=folder / name,
        whole=model.name,
    )
