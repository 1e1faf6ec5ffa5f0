"""The search: train students, compile, measure, choose. It always ends with a model.

The folder of a search:

    students/NAME/      a student's run, its model/
    artifacts/NAME/     each model in each engine
    model/              the chosen model, to load and train further
    artifact/           the chosen model compiled for the chosen engine, to predict and serve
    frontier.json       every candidate with what was measured, and the choice
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.compress.artifacts import (
    CompiledModel,
    ModelToCompile,
    compile_all,
    score_artifact,
    wanted_specs,
)
from bertwright.compress.budget import Budget, Choice, choose_candidate
from bertwright.compress.candidates import StudentPlan, plan_students
from bertwright.compress.config import SearchConfig
from bertwright.compress.frontier import find_frontier, summarise_seeds
from bertwright.compress.halving import choose_dropped
from bertwright.compress.measuring import measure_beside_baseline
from bertwright.compress.students import (
    StudentContext,
    TrainedStudent,
    train_half,
    train_whole,
)
from bertwright.data.sources import Rows
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.engines.base import EngineSpec
from bertwright.errors import NonFiniteLossError, ParityError, UnsupportedRoleError, WorkerError
from bertwright.evaluate.evaluate import (
    Scores,
    confusion_counts,
    evaluation_record,
    sample_texts,
)
from bertwright.evaluate.machine import machine, versions
from bertwright.evaluate.measure import Measurement, Target, model_folder
from bertwright.evaluate.significance import kept_interval, mcnemar_exact
from bertwright.files import atomic_dir, write_json
from bertwright.models.export import export_transformers
from bertwright.models.roles import get_roles
from bertwright.models.task_model import TaskModel
from bertwright.progress import console
from bertwright.registry import parse_method_spec
from bertwright.training.config import TrainingConfig

__all__ = ["SearchResult", "SearchRows", "search"]

TEACHER = "teacher"
BASELINE = "pipeline"
REFERENCE = EngineSpec("torch", "fp32")
"""The teacher is always measured in this, and scores are shares of what it scores in this."""


@dataclass(frozen=True)
class SearchRows:
    """The labelled rows of a search. `test`, if given, chooses nothing and is only reported."""

    train: Rows
    dev: Rows
    test: Rows | None = None


@dataclass(frozen=True)
class SearchResult:
    """What a search ends with: `frontier` is frontier.json, `extras` feed the report."""

    frontier: dict[str, Any]
    extras: dict[str, Any]
    choice: Choice


def search(
    teacher_dir: str | Path,
    rows: SearchRows,
    *,
    budget: Budget,
    config: SearchConfig,
    training: TrainingConfig,
    out: str | Path,
    command: str = "",
) -> SearchResult:
    """Search for the smallest, fastest model that keeps what the budget asks; see the module.

    What was finished by an earlier search in the same folder, broken off, is used again; speed is
    always measured anew, all candidates in one run.

    Args:
        teacher_dir: a fine-tuned model or its run directory.
        rows: to train on, to choose by, and to report on.
        budget: what is asked.
        config: what is tried.
        training: of each student.
        out: folder of the search.
        command: that repeats it, for the record.

    Raises:
        UsageError: an option does not fit the teacher, or no engine asked for is here.
    """
    teacher_dir, out = model_folder(teacher_dir), Path(out)
    teacher = TaskModel.load(teacher_dir)
    depth = get_roles(teacher.encoder).num_layers
    plans = plan_students(
        depth, depths=config.depths, methods=config.student_methods, seed=training.seed
    )
    specs = wanted_specs(config.engines, config.tried_precisions)
    train_rows, dev_rows = (_encode(part, teacher) for part in (rows.train, rows.dev))
    context = StudentContext(
        teacher=teacher,
        base_model=str(teacher.lineage.get("base_model", teacher_dir)),
        train_rows=train_rows,
        dev_rows=dev_rows,
        distil_methods=[parse_method_spec(spec) for spec in config.distil_specs],
        training=training,
        folder=out / "students",
        theseus_lr=config.theseus_lr,
    )
    baseline_target, note = _baseline_target(teacher_dir, teacher.max_length, out / "artifacts")
    making = _Making(
        teacher_dir=teacher_dir,
        baseline=baseline_target,
        rows=rows,
        train_rows=train_rows,
        dev_rows=dev_rows,
        config=config,
        training=training,
        folder=out / "artifacts",
    )
    console.rule("students", align="left")
    students, dropped = _train_students(plans, context, config)
    console.rule("engines", align="left")
    as_teacher = ModelToCompile(
        TEACHER, TEACHER, depth, 0, sum(p.numel() for p in teacher.parameters()), teacher_dir
    )
    compiled, refused = making.compile([as_teacher], list(dict.fromkeys([REFERENCE, *specs])))
    more_compiled, more_refused = making.compile(list(map(_to_compile, students)), specs)
    compiled, refused = compiled + more_compiled, refused | more_refused
    console.rule("measuring", align="left")
    candidates, baseline, failed = making.measure(compiled)
    choice = choose_candidate(_asked_for(candidates, specs), budget, config.prefer)
    chosen = next(c for c in compiled if c.name == choice.name)
    more = _other_seeds(chosen, context, config, dropped)
    if more:
        console.rule("other seeds", align="left")
        again, refused_again = making.compile(list(map(_to_compile, more)), [chosen.spec])
        refused |= refused_again
        measured_again, _, failed_again = making.measure(again)
        failed |= failed_again
        candidates += measured_again
        compiled += again
        students += more
    reference = making.teacher_scores()
    tests = making.test_scores(compiled, chosen)
    for candidate in candidates:
        candidate |= tests.get(candidate["name"], {})
    teacher_facts = _teacher_facts(candidates) | tests.get(TEACHER, {})
    frontier = {
        "budget": {
            "keep": budget.keep,
            "max_latency_ms": budget.max_latency_ms,
            "min_speedup": budget.min_speedup,
            "max_size_mb": budget.max_size_mb,
            "prefer": config.prefer,
        },
        "machine": machine(),
        "versions": versions(),
        "command": command,
        "teacher": teacher_facts,
        "baseline": baseline,
        "candidates": candidates,
        "frontier": find_frontier(candidates),
        "chosen": choice.name,
        "reason": choice.reason,
        "met": choice.met,
        "failed_constraints": [v.to_json() for v in choice.violations],
        "dropped": {plan.name: why for plan, why in dropped.items()} | refused | failed,
        "seeds": summarise_seeds(candidates),
    }
    _keep_chosen(chosen, students, teacher_dir, out)
    write_json(out / "frontier.json", frontier)
    extras = _report_extras(rows.dev, reference, chosen, students, teacher_dir)
    extras["notes"] = [note] if note else []
    return SearchResult(frontier=frontier, extras=extras, choice=choice)


def _train_students(
    plans: Sequence[StudentPlan], context: StudentContext, config: SearchConfig
) -> tuple[list[TrainedStudent], dict[StudentPlan, str]]:
    """Train all by half, drop the hopeless, train the rest to the end. Cheap ones first."""
    dropped: dict[StudentPlan, str] = {}
    if config.halving and len(plans) > 1:
        count = min(config.slice_rows, len(context.dev_rows))
        picks = np.random.default_rng(0).choice(len(context.dev_rows), count, replace=False)
        slice_rows = context.dev_rows.select(np.sort(picks))
        correct = {}
        for plan in plans:
            try:
                correct[plan] = train_half(plan, context, slice_rows)
            except NonFiniteLossError as error:
                dropped[plan] = error.message
        dropped |= choose_dropped(correct)
        for plan, why in dropped.items():
            console.print(f"[yellow]{plan.name} dropped:[/] {why}")
    return _train_rest([p for p in plans if p not in dropped], context, dropped), dropped


def _train_rest(
    plans: Sequence[StudentPlan], context: StudentContext, dropped: dict[StudentPlan, str]
) -> list[TrainedStudent]:
    """Train students to the end; one whose loss breaks is added to `dropped` with the reason."""
    students = []
    for plan in plans:
        try:
            students.append(train_whole(plan, context))
        except NonFiniteLossError as error:
            dropped[plan] = error.message
    return students


def _other_seeds(
    chosen: CompiledModel,
    context: StudentContext,
    config: SearchConfig,
    dropped: dict[StudentPlan, str],
) -> list[TrainedStudent]:
    """Train every kind of student at the chosen depth again with other seeds."""
    if chosen.method == TEACHER:
        return []
    first = context.training.seed
    plans = [
        StudentPlan(chosen.layers, method, seed)
        for seed in range(first + 1, first + config.seeds)
        for method in config.student_methods
    ]
    return _train_rest(plans, context, dropped)


@dataclass(frozen=True)
class _Making:
    """What compiling, scoring and measuring have in common."""

    teacher_dir: Path
    baseline: Target
    rows: SearchRows
    train_rows: EncodedRows
    dev_rows: EncodedRows
    config: SearchConfig
    training: TrainingConfig
    folder: Path

    def compile(
        self, models: Sequence[ModelToCompile], specs: Sequence[Any]
    ) -> tuple[list[CompiledModel], dict[str, str]]:
        return compile_all(
            models,
            specs,
            self.folder,
            train_rows=self.train_rows,
            dev_rows=self.dev_rows,
            dev=self.rows.dev,
            tolerance_points=self.config.tolerance_points,
            threads=self.training.threads,
        )

    def teacher_scores(self) -> Scores:
        """Return the scores of the teacher in torch, fp32: what "kept" is a share of."""
        return self._torch_scores(self.rows.dev, "teacher-torch.dev.npz")

    def measure(
        self, compiled: Sequence[CompiledModel]
    ) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, str]]:
        """Return the candidates as frontier.json has them, the baseline, and what failed."""
        texts, texts_b = sample_texts(self.rows.dev, self.config.measure_rows)
        targets = [Target(name=c.name, path=c.artifact_dir, spec=str(c.spec)) for c in compiled]
        measured = measure_beside_baseline(
            self.baseline,
            targets,
            texts,
            texts_b,
            threads=self.training.threads,
            repeats=self.config.repeats,
            latency_rows=self.config.latency_rows,
        )
        reference = self.teacher_scores()
        candidates = [
            _candidate(c, measured.measurements[c.name], measured.speedups[c.name], reference)
            for c in compiled
            if c.name in measured.measurements
        ]
        beside = evaluation_record(reference, measured.baseline)
        return candidates, {**beside, "name": BASELINE, "speedup": 1.0}, measured.failed

    def test_scores(
        self, compiled: Sequence[CompiledModel], chosen: CompiledModel
    ) -> dict[str, dict[str, Any]]:
        """Return test figures of the teacher, and of all models in the chosen engine."""
        test = self.rows.test
        if test is None:
            return {}
        reference = self._torch_scores(test, "teacher-torch.test.npz")
        facts = {TEACHER: _test_facts(reference, reference)}
        for model in compiled:
            if model.spec == chosen.spec:
                record = model.artifact_dir.with_suffix(".test.npz")
                scores = score_artifact(
                    model.artifact_dir, test, model.spec, record, self.training.threads
                )
                facts[model.name] = _test_facts(scores, reference)
        return facts

    def _torch_scores(self, rows: Rows, record: str) -> Scores:
        return score_artifact(
            self.teacher_dir, rows, REFERENCE, self.folder / record, self.training.threads
        )


def _baseline_target(teacher_dir: Path, max_length: int, folder: Path) -> tuple[Target, str]:
    """Return the teacher through `transformers`' own pipeline, and a note for the report.

    Where the teacher has no stock form, it is the teacher in torch and fp32, and the note says why.
    """
    stock = folder / "transformers"
    try:
        if not stock.exists():
            export_transformers(teacher_dir, stock)
    except (UnsupportedRoleError, ParityError) as error:
        note = (
            f"The baseline is the teacher in {REFERENCE}, not through transformers' pipeline: "
            f"{error.message}"
        )
        console.print(f"[yellow]{note}[/]")
        return Target(name=BASELINE, path=teacher_dir, spec=str(REFERENCE)), note
    return Target(name=BASELINE, path=stock, kind="pipeline", max_length=max_length), ""


def _asked_for(
    candidates: Sequence[dict[str, Any]], specs: Sequence[EngineSpec]
) -> Sequence[dict[str, Any]]:
    """Return the candidates in the engines asked for; all, where these engines gave none.

    The teacher in `REFERENCE` is measured in any case, and chosen only if that was asked for.
    """
    wanted = {str(spec) for spec in specs}
    return [c for c in candidates if c["name"].partition("@")[2] in wanted] or candidates


def _encode(rows: Rows, teacher: TaskModel) -> EncodedRows:
    return tokenise(rows, teacher.tokenizer, max_length=teacher.max_length)


def _to_compile(student: TrainedStudent) -> ModelToCompile:
    plan = student.plan
    return ModelToCompile(
        plan.name, plan.method, plan.layers, plan.seed, student.parameters, student.model_dir
    )


def _candidate(
    compiled: CompiledModel, measured: Measurement, speedup: float, reference: Scores
) -> dict[str, Any]:
    kept = kept_interval(compiled.scores.correct, reference.correct)
    return {
        "name": compiled.name,
        "method": compiled.method,
        "layers": compiled.layers,
        "seed": compiled.seed,
        "parameters": compiled.parameters,
        **evaluation_record(compiled.scores, measured),
        "kept": kept.score,
        "kept_low": kept.low,
        "kept_high": kept.high,
        "p_value": mcnemar_exact(compiled.scores.correct, reference.correct).p,
        "speedup": speedup,
    }


def _test_facts(scores: Scores, reference: Scores) -> dict[str, Any]:
    kept = kept_interval(scores.correct, reference.correct)
    return {
        "test_score": scores.score,
        "test_score_low": scores.interval.low,
        "test_score_high": scores.interval.high,
        "test_metrics": dict(scores.metrics),
        "test_num_rows": len(scores.labels),
        "test_kept": kept.score,
        "test_kept_low": kept.low,
        "test_kept_high": kept.high,
        "test_p_value": mcnemar_exact(scores.correct, reference.correct).p,
    }


def _teacher_facts(candidates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the teacher as it stands in torch and fp32."""
    for candidate in candidates:
        if candidate["name"] == f"{TEACHER}@{REFERENCE}":
            return {**candidate, "name": TEACHER}
    raise WorkerError(
        f"the teacher itself could not be measured in {REFERENCE}",
        hint="--resume tries again; nothing is trained twice",
    )


def _keep_chosen(
    chosen: CompiledModel, students: Sequence[TrainedStudent], teacher_dir: Path, out: Path
) -> None:
    """Copy the chosen model and its artifact to where `predict` and `serve` look for them."""
    models = {student.plan.name: student.model_dir for student in students}
    source = models.get(chosen.model_name, teacher_dir)
    for origin, place in ((source, out / "model"), (chosen.artifact_dir, out / "artifact")):
        with atomic_dir(place) as temporary:
            shutil.copytree(origin, temporary, dirs_exist_ok=True)


def _report_extras(
    dev: Rows,
    reference: Scores,
    chosen: CompiledModel,
    students: Sequence[TrainedStudent],
    teacher_dir: Path,
) -> dict[str, Any]:
    names = reference.label_names
    curves = {s.plan.name: _read_curve(s.metrics_file) for s in students}
    teacher_curve = teacher_dir.parent / "metrics.jsonl"
    if teacher_curve.exists():
        curves = {TEACHER: _read_curve(teacher_curve), **curves}
    return {
        "curves": curves,
        "confusion": {
            "labels": list(names),
            "teacher": confusion_counts(
                reference.labels, reference.predictions, len(names)
            ).tolist(),
            "chosen": confusion_counts(
                chosen.scores.labels, chosen.scores.predictions, len(names)
            ).tolist(),
        },
        "disagreements": _disagreements(dev, reference, chosen.scores),
    }


def _read_curve(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def _disagreements(dev: Rows, reference: Scores, chosen: Scores) -> list[dict[str, Any]]:
    """Return the dev rows on which the teacher and the chosen model give different labels."""
    names = reference.label_names
    rows = np.flatnonzero(reference.predictions != chosen.predictions)
    sure_t, sure_s = _confidence(reference.logits), _confidence(chosen.logits)
    part = dev.select(rows)
    texts, texts_b = part.texts(), part.texts_b()
    found = []
    for place, row in enumerate(rows.tolist()):
        entry = {
            "text": texts[place],
            "label": names[int(reference.labels[row])],
            "teacher": names[int(reference.predictions[row])],
            "chosen": names[int(chosen.predictions[row])],
            "teacher_score": float(sure_t[row]),
            "chosen_score": float(sure_s[row]),
        }
        if texts_b is not None:
            entry["text_b"] = texts_b[place]
        found.append(entry)
    return found


def _confidence(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted.max(axis=-1) / shifted.sum(axis=-1)
