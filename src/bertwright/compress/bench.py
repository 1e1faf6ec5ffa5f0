"""The bench of a search: its models are compiled, scored and measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertwright.compress.artifacts import (
    CompiledModel,
    ModelToCompile,
    compile_all,
    score_artifact,
)
from bertwright.compress.config import SearchConfig
from bertwright.compress.measuring import measure_beside_baseline
from bertwright.compress.record import BASELINE, TEACHER, candidate_record
from bertwright.data.rows import Rows
from bertwright.data.tokenise import EncodedRows
from bertwright.engines.base import EngineSpec
from bertwright.errors import ParityError, UnsupportedRoleError, UsageError
from bertwright.evaluate.evaluate import Scores, evaluation_record, sample_rows
from bertwright.evaluate.measure import Target
from bertwright.models.export import export_transformers
from bertwright.progress import Progress, console
from bertwright.tasks import Task

__all__ = ["REFERENCE", "Bench", "SearchRows", "baseline_target"]

REFERENCE = EngineSpec("torch", "fp32")
"""The teacher is always measured in this, and scores are shares of what it scores in this."""


@dataclass(frozen=True)
class SearchRows:
    """The rows of a search."""

    train: Rows
    dev: Rows
    test: Rows | None = None
    """Judges: chooses nothing, and the report's scores are of these."""
    transfer: Rows | None = None
    """What students learn from in place of `train`: with rows that the teacher answered."""


@dataclass(frozen=True)
class Bench:
    """Compiles, scores and measures, always with the same rows and options."""

    task: Task
    teacher_dir: Path
    baseline: Target
    rows: SearchRows
    train_rows: EncodedRows
    dev_rows: EncodedRows
    config: SearchConfig
    threads: int | None
    folder: Path
    """Where artifacts and scores are kept."""

    def compile(
        self, models: Sequence[ModelToCompile], specs: Sequence[EngineSpec], *, deadline: float
    ) -> tuple[list[CompiledModel], dict[str, str]]:
        """Return each model in each engine, and what was left out, with the reason."""
        return compile_all(
            models,
            specs,
            self.folder,
            train_rows=self.train_rows,
            dev_rows=self.dev_rows,
            dev=self.rows.dev,
            tolerance_points=self.config.tolerance_points,
            threads=self.threads,
            deadline=deadline,
        )

    def teacher_scores(self) -> Scores:
        """Return the scores of the teacher in torch, fp32: what "kept" is a share of."""
        return self._torch_scores(self.rows.dev, "teacher-torch.dev.npz")

    def check_teacher(self) -> None:
        """Refuse a teacher of which no share can be kept, before anything is trained.

        Raises:
            UsageError: it scores nothing on the rows to choose by, or to report on.
        """
        scored = {"choose": self.teacher_scores(), "judge": self.judging_teacher()}
        for verb, scores in scored.items():
            if scores is not None and not scores.score > 0:
                raise UsageError(
                    f"the teacher's {scores.primary} on the {len(scores):,} rows to {verb} by is "
                    f"{scores.score:.4f}: no share of it can be kept",
                    hint="train the teacher further, or look at what these rows hold",
                )

    def measure(
        self, compiled: Sequence[CompiledModel]
    ) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, str]]:
        """Return the candidates as frontier.json has them, the baseline, and what failed."""
        sample = sample_rows(self.rows.dev, self.task, self.config.measure_rows)
        targets = [Target(name=c.name, path=c.artifact_dir, spec=str(c.spec)) for c in compiled]
        measured = measure_beside_baseline(
            self.baseline,
            targets,
            sample,
            threads=self.threads,
            repeats=self.config.repeats,
            latency_rows=self.config.latency_rows,
        )
        reference = self.teacher_scores()
        candidates = [
            candidate_record(c, measured.measurements[c.name], measured.speedups[c.name], reference)
            for c in compiled
            if c.name in measured.measurements
        ]
        beside = evaluation_record(reference, measured.baseline)
        return candidates, {**beside, "name": BASELINE, "speedup": 1.0}, measured.failed

    def judge(self, compiled: Sequence[CompiledModel]) -> dict[str, Scores]:
        """Return the scores of all models on the rows that judge; none without such rows."""
        test, teacher = self.rows.test, self.judging_teacher()
        if test is None or teacher is None:
            return {}
        found = {f"{TEACHER}@{REFERENCE}": teacher}
        with Progress("judge", total=len(compiled), unit="candidates") as bar:
            for model in compiled:
                if model.name not in found:
                    record = model.artifact_dir.with_suffix(".test.npz")
                    found[model.name] = score_artifact(
                        model.artifact_dir, test, model.spec, record, self.threads
                    )
                bar.advance()
        return found

    def judging_teacher(self) -> Scores | None:
        """Return the scores of the teacher in torch, fp32, on the rows that judge."""
        if self.rows.test is None:
            return None
        return self._torch_scores(self.rows.test, "teacher-torch.test.npz")

    def _torch_scores(self, rows: Rows, record: str) -> Scores:
        return score_artifact(self.teacher_dir, rows, REFERENCE, self.folder / record, self.threads)


def baseline_target(
    task: Task, teacher_dir: Path, max_length: int, folder: Path
) -> tuple[Target, str]:
    """Return the teacher through `transformers`' own pipeline, and a note for the report.

    Where the teacher has no stock form, it is the teacher in torch and fp32, and the note says why.
    """
    stock = folder / "transformers"
    try:
        _check_pipeline_takes(task)
        if not stock.exists():
            export_transformers(teacher_dir, stock)
    except (UnsupportedRoleError, ParityError) as error:
        note = (
            f"The baseline is the teacher in {REFERENCE}, not through transformers' pipeline: "
            f"{error.message}."
        )
        console.print(f"[yellow]{note}[/]")
        return Target(name=BASELINE, path=teacher_dir, spec=str(REFERENCE)), note
    return Target(name=BASELINE, path=stock, kind="pipeline", max_length=max_length), ""


def _check_pipeline_takes(task: Task) -> None:
    if "text" not in task.inputs:
        raise UnsupportedRoleError(f"its pipelines take a text or a pair, not rows of {task.name}")
