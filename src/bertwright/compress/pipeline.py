"""The search: train students, compile, measure, choose. It always ends with a model.

The folder of a search:

    students/NAME/      a student's run, its model/
    exits/NAME/         the teacher or a student with exits
    artifacts/NAME/     each model in each engine
    model/              the chosen model, to load and train further
    artifact/           the chosen model compiled for the chosen engine, to predict and serve
    frontier.json       every candidate with what was measured, and the choice
    trials.sqlite       who trains what, where several processes do; workers/ has what they said
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bertwright.compress.artifacts import (
    CompiledModel,
    ModelToCompile,
    wanted_specs,
)
from bertwright.compress.bench import REFERENCE, Bench, SearchRows, baseline_target
from bertwright.compress.budget import Budget, Choice, choose_candidate
from bertwright.compress.candidates import StudentPlan, plan_students, why_not_narrow
from bertwright.compress.config import SearchConfig
from bertwright.compress.early import (
    ExitTrials,
    exit_mark,
    exit_specs,
    why_no_exits,
)
from bertwright.compress.frontier import find_frontier, summarise_seeds
from bertwright.compress.importance import measure_importance
from bertwright.compress.record import TEACHER, report_extras, test_record
from bertwright.compress.rounds import Rounds
from bertwright.compress.starts import starts_by_depth
from bertwright.compress.students import StudentContext, TrainedStudent
from bertwright.compress.team import ALONE, Team
from bertwright.compress.timing import divide_time
from bertwright.data.encode import RowEncoder
from bertwright.data.rows import Rows
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.engines.base import EngineSpec
from bertwright.errors import ConfigError, WorkerError
from bertwright.evaluate.evaluate import as_judged, sample_rows
from bertwright.evaluate.machine import machine, usable_cores, versions
from bertwright.evaluate.measure import model_folder
from bertwright.files import atomic_dir, write_json
from bertwright.methods.distil.fitted_head import why_not_fitted
from bertwright.methods.prune.elastic import ElasticConfig, check_elastic
from bertwright.methods.replace.theseus import check_pooling_fits
from bertwright.models.heads.fitted import find_fitted_head
from bertwright.models.roles import get_roles
from bertwright.models.task_model import TaskModel
from bertwright.progress import console
from bertwright.registry import parse_method_spec
from bertwright.tasks import find_task
from bertwright.training.config import TrainingConfig
from bertwright.training.deadline import until

__all__ = ["SearchResult", "SearchRows", "open_context", "search"]


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
    helper_command: Sequence[str] = (),
) -> SearchResult:
    """Search for the smallest, fastest model that keeps what the budget asks; see the module.

    What was finished by an earlier search in the same folder, broken off, is used again; speed is
    always measured anew, all candidates in one run.

    Args:
        teacher_dir: a fine-tuned model or its run directory.
        rows: to train on, to choose by, and to judge by.
        budget: what is asked.
        config: what is tried.
        training: of each student; its `minutes` are those of the whole search, which chooses among
            what is done when they are over.
        out: folder of the search.
        command: that repeats it, for the record.
        helper_command: starts a process that helps with the training, where `config.jobs` asks for
            some; it is given `out` and what `Team` says.

    Raises:
        UsageError: an option does not fit the teacher, or no engine asked for is here.
    """
    times = divide_time(training.minutes)
    training = replace(training, minutes=None)
    teacher_dir, out = model_folder(teacher_dir), Path(out)
    teacher = TaskModel.load(teacher_dir)
    plans = _plan(teacher, config, training.seed)
    specs = wanted_specs(config.engines, config.tried_precisions)
    context = open_context(teacher, teacher_dir, rows, config, training, out)
    task = find_task(teacher.task)
    depth = get_roles(teacher.encoder).num_layers
    team = ALONE
    if helper_command:
        threads = training.threads or usable_cores()
        team = Team((*helper_command, str(out)), config.jobs, out, threads)
    baseline, note = baseline_target(task, teacher_dir, teacher.max_length, out / "artifacts")
    bench = Bench(
        task=task,
        teacher_dir=teacher_dir,
        baseline=baseline,
        rows=rows,
        train_rows=context.train_rows,
        dev_rows=context.dev_rows,
        config=config,
        threads=training.threads,
        folder=out / "artifacts",
    )

    bench.check_teacher()
    console.rule("students", align="left")
    dropped: dict[StudentPlan, str] = {}
    train = Rounds(context, team, times.train_until, dropped)
    with until(times.train_until):
        students = train.students(plans, config)
        if "elastic" in config.student_methods and not find_fitted_head(teacher):
            sample = sample_rows(rows.dev, task, config.measure_rows)
            students += train.elastic(specs, sample, budget, config)
    for plan, why in dropped.items():
        console.print(f"[yellow]{plan.name} left out:[/] {why}")
    console.rule("engines", align="left")
    parameters = sum(p.numel() for p in teacher.parameters())
    as_teacher = ModelToCompile(TEACHER, TEACHER, f"{depth}L", depth, 0, parameters, teacher_dir)
    tried = _Tried(students, {plan.name: why for plan, why in dropped.items()})
    tried.compile([as_teacher], list(dict.fromkeys([REFERENCE, *specs])), bench)
    tried.compile(list(map(_to_compile, students)), specs, bench, deadline=times.compile_until)
    exits = _exits(context, config, out)
    deep = [one for one in students if one.plan.layers > 1 and not one.plan.small]
    best = max(deep, key=lambda one: one.score, default=None)
    for model in [as_teacher, *([] if best is None else [_to_compile(best)])]:
        tried.stop_early(model, exits, specs, bench, deadline=times.compile_until)
    console.rule("measuring", align="left")
    tried.measure(bench)
    choice = choose_candidate(_asked_for(tried.candidates, specs), budget, config.prefer)
    chosen = next(c for c in tried.compiled if c.name == choice.name)
    model = _student_to_repeat(tried, chosen)
    if model is not None and config.seeds > 1:
        console.rule("other seeds", align="left")
        with until(times.end):
            _try_other_seeds(tried, model, replace(train, deadline=times.end), config, bench, exits)

    judged, reference = bench.judge(tried.compiled), bench.judging_teacher()
    candidates, baseline = tried.candidates, tried.baseline
    shown = (rows.dev, bench.teacher_scores(), chosen.scores)
    if rows.test is not None and reference is not None:
        candidates = [c | test_record(judged[c["name"]], reference) for c in candidates]
        baseline = baseline | test_record(reference)
        shown = (rows.test, reference, judged[chosen.name])
    _keep_chosen(chosen, tried.model_dirs.get(chosen.model_name, teacher_dir), out)
    frontier = {
        "budget": asdict(budget) | {"prefer": config.prefer},
        **{"machine": machine(), "versions": versions(), "command": command},
        **{"teacher": _teacher_record(candidates), "baseline": baseline},
        **{"candidates": candidates, "frontier": find_frontier(list(map(as_judged, candidates)))},
        **_choice_record(choice),
        **{"dropped": tried.left_out, "seeds": summarise_seeds(candidates)},
    }
    write_json(out / "frontier.json", frontier)
    extras = report_extras(*shown, tried.students, teacher_dir)
    extras["importance"] = measure_importance(teacher, context.train_rows, task)
    extras["notes"] = [note] if note else []
    return SearchResult(frontier=frontier, extras=extras, choice=choice)


def _choice_record(choice: Choice) -> dict[str, Any]:
    """Return a choice as frontier.json has it."""
    return {
        "chosen": choice.name,
        "reason": choice.reason,
        "met": choice.met,
        "failed_constraints": [one.to_json() for one in choice.violations],
    }


@dataclass
class _Tried:
    """What the search has tried so far."""

    students: list[TrainedStudent]
    left_out: dict[str, str]
    """Students and candidates that are not among the measured, with the reason."""
    compiled: list[CompiledModel] = field(default_factory=list)
    candidates: list[dict[str, Any]] = field(default_factory=list)
    model_dirs: dict[str, Path] = field(default_factory=dict)
    """Of all but the teacher, by name."""
    baseline: dict[str, Any] = field(default_factory=dict)

    def compile(
        self,
        models: Sequence[ModelToCompile],
        specs: Sequence[EngineSpec],
        bench: Bench,
        *,
        deadline: float = math.inf,
    ) -> None:
        compiled, refused = bench.compile(models, specs, deadline=deadline)
        self.compiled += compiled
        self.left_out |= refused
        self.model_dirs |= {model.name: model.model_dir for model in models}

    def stop_early(
        self,
        model: ModelToCompile,
        exits: ExitTrials | None,
        specs: Sequence[EngineSpec],
        bench: Bench,
        *,
        deadline: float = math.inf,
    ) -> None:
        """Compile a model with exits too, where it can have some and time is left."""
        if exits is None:
            return
        if time.monotonic() >= deadline:
            self.left_out |= dict.fromkeys(exits.names(model), "no time was left to make it")
            return
        made, refused = exits.add(model)
        self.left_out |= refused
        self.compile(made, exit_specs(specs), bench, deadline=deadline)

    def measure(self, bench: Bench) -> None:
        """Measure what was compiled and not yet measured, beside the baseline."""
        known = {candidate["name"] for candidate in self.candidates} | self.left_out.keys()
        new = [model for model in self.compiled if model.name not in known]
        candidates, baseline, failed = bench.measure(new)
        self.candidates += candidates
        self.baseline = self.baseline or baseline
        self.left_out |= failed


def _student_to_repeat(tried: _Tried, chosen: CompiledModel) -> CompiledModel | None:
    """Return the chosen student; if it is the teacher, the best student in the same engine."""
    if _of_student(chosen):
        return chosen
    students = [m for m in tried.compiled if _of_student(m) and m.spec == chosen.spec]
    return max(students, key=lambda model: model.scores.score, default=None)


def _of_student(model: CompiledModel) -> bool:
    return TEACHER not in (model.method, model.whole)


def _try_other_seeds(
    tried: _Tried,
    model: CompiledModel,
    train: Rounds,
    config: SearchConfig,
    bench: Bench,
    exits: ExitTrials | None,
) -> None:
    """Train every kind of student of the model's size again with other seeds, and measure them.

    Where the model stops early, those of its kind get its exits.
    """
    first, name = train.context.training.seed, model.whole or model.model_name
    of_model = next(student.plan for student in tried.students if student.plan.name == name)
    alike = [s.plan for s in tried.students if s.plan.shape == of_model.shape]
    plans = [
        replace(plan, seed=seed)
        for seed in range(first + 1, first + config.seeds)
        for plan in alike
    ]
    students = train.whole(plans)
    tried.left_out |= {p.name: train.dropped[p] for p in plans if p in train.dropped}
    tried.students += students
    tried.compile(list(map(_to_compile, students)), [model.spec], bench)
    if model.whole and exits is not None:
        same = [one for one in exits.agreements if model.shape.endswith(exit_mark(one))]
        for student in students:
            if student.plan.method == of_model.method:
                tried.stop_early(
                    _to_compile(student), replace(exits, agreements=same), [model.spec], bench
                )
    tried.measure(bench)


def _exits(context: StudentContext, config: SearchConfig, out: Path) -> ExitTrials | None:
    """Return what makes candidates that stop early; None where none are wanted or possible."""
    if not config.tried_exits or why_no_exits(context.teacher) is not None:
        return None
    return ExitTrials(
        agreements=config.tried_exits,
        rows=context.train_rows,
        dev_rows=context.dev_rows,
        folder=out / "exits",
        threads=context.training.threads,
    )


def _asked_for(
    candidates: Sequence[dict[str, Any]], specs: Sequence[EngineSpec]
) -> Sequence[dict[str, Any]]:
    """Return the candidates in the engines asked for; all, where these engines gave none.

    The teacher in `REFERENCE` is measured in any case, and chosen only if that was asked for.
    """
    wanted = {str(spec) for spec in specs}
    return [c for c in candidates if c["name"].partition("@")[2] in wanted] or candidates


def _plan(teacher: TaskModel, config: SearchConfig, seed: int) -> list[StudentPlan]:
    """Return the students to train; none of a teacher whose head passes no gradient."""
    methods = config.student_methods
    reason = why_not_fitted(teacher)
    if reason is not None and "fitted" in config.students:
        raise ConfigError(f"--students fitted: {reason}", hint="leave it out")
    if "elastic" in config.students:
        check_elastic(teacher, ElasticConfig())
    if any(config.exits) and (why := why_no_exits(teacher)) is not None:
        raise ConfigError(f"--exits: {why}", hint="leave it out")
    can_be_narrow = why_not_narrow(teacher) is None
    plans = plan_students(
        get_roles(teacher.encoder).num_layers,
        depths=config.depths,
        narrow=config.tried_narrow if can_be_narrow else config.narrow,
        small=config.small,
        methods=[
            one for one in methods if one != "elastic" and (reason is None or one != "fitted")
        ],
        seed=seed,
    )
    fitted = find_fitted_head(teacher)
    if fitted is not None:
        console.print(
            f"a head of {fitted.name} passes no gradient, so there are no students: the "
            "teacher alone is tried, in all engines",
            markup=False,
        )
        return []
    if any(plan.method == "theseus" for plan in plans):
        check_pooling_fits(teacher)
    return plans


def open_context(
    teacher: TaskModel,
    teacher_dir: Path,
    rows: SearchRows,
    config: SearchConfig,
    training: TrainingConfig,
    out: Path,
) -> StudentContext:
    """Return what all students of a search in the folder `out` have in common."""
    task = find_task(teacher.task)
    more = rows.transfer
    return StudentContext(
        teacher=teacher,
        base_model=str(teacher.lineage.get("base_model", teacher_dir)),
        train_rows=_encode(rows.train, teacher, task.training_encoder),
        dev_rows=_encode(rows.dev, teacher, task.encoder),
        distil_methods=[parse_method_spec(spec) for spec in config.distil_specs],
        training=training,
        folder=out / "students",
        transfer_rows=None if more is None else _encode(more, teacher, task.training_encoder),
        theseus_lr=config.theseus_lr,
        small_lr=config.small_lr,
        starts=starts_by_depth(config.start, teacher),
    )


def _encode(rows: Rows, teacher: TaskModel, encoder: RowEncoder) -> EncodedRows:
    return tokenise(rows, teacher.tokenizer, encoder=encoder, max_length=teacher.max_length)


def _to_compile(student: TrainedStudent) -> ModelToCompile:
    plan = student.plan
    return ModelToCompile(
        name=plan.name,
        method=plan.method,
        shape=plan.shape,
        layers=plan.layers,
        seed=plan.seed,
        parameters=student.parameters,
        model_dir=student.model_dir,
    )


def _teacher_record(candidates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the teacher as it stands in torch and fp32."""
    for candidate in candidates:
        if candidate["name"] == f"{TEACHER}@{REFERENCE}":
            return {**candidate, "name": TEACHER}
    raise WorkerError(
        f"the teacher itself could not be measured in {REFERENCE}",
        hint="--resume tries again; nothing is trained twice",
    )


def _keep_chosen(chosen: CompiledModel, source: Path, out: Path) -> None:
    """Copy the chosen model and its artifact to where `predict` and `serve` look for them."""
    for origin, place in ((source, out / "model"), (chosen.artifact_dir, out / "artifact")):
        with atomic_dir(place) as temporary:
            shutil.copytree(origin, temporary, dirs_exist_ok=True)
