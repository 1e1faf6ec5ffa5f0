"""Training the students of a search: half of it first, the rest for those that are worth it.

A student's folder holds its run (`metrics.jsonl`, `checkpoints/`), then `model/` and
`student.json` when it is done. A search that was killed goes on from these.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.compress.candidates import StudentPlan, small_of
from bertwright.compress.elastic import cut_size, supernet_of
from bertwright.compress.trials import Phase
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import TimeUpError
from bertwright.files import read_json, write_json
from bertwright.methods.distil.fitted_head import FittedHead
from bertwright.methods.distil.small_student import SmallStudent
from bertwright.methods.distil.soft_targets import SoftTargetsConfig
from bertwright.methods.distil.student_init import LayerChoice, choose_layers
from bertwright.methods.distil.train import ask_teacher, train_distilled
from bertwright.methods.prune.heads import HeadPruning, HeadPruningConfig
from bertwright.methods.prune.neurons import NeuronPruning, NeuronPruningConfig
from bertwright.methods.replace.theseus import TheseusConfig
from bertwright.methods.replace.train import replace_layers, train_theseus
from bertwright.models.build import build_task_model, copy_with_layers, copy_with_pooling
from bertwright.models.encoder import load_tokenizer
from bertwright.models.roles import get_roles
from bertwright.models.task_model import TaskModel
from bertwright.models.vocabulary import copy_with_vocabulary
from bertwright.progress import console
from bertwright.tasks import find_task
from bertwright.tasks.judged import Judged
from bertwright.training.config import TrainingConfig
from bertwright.training.deadline import time_is_up
from bertwright.training.evaluation import evaluate_model
from bertwright.training.loop import TrainResult, count_steps, train
from bertwright.training.made import judge_made
from bertwright.training.precision import using_threads

__all__ = [
    "StudentContext",
    "TrainedStudent",
    "ask_ahead",
    "is_trained",
    "train_half",
    "train_whole",
]

HALF = 0.5
HALF_RECORD, STUDENT_RECORD = "half-statistics.npy", "student.json"
TEACHER_ANSWERS = "teacher-answers"
FITTED_POOLING = "mean"
ELASTIC_SHARE = 0.25
"""Of the training of others: a size that is cut out has learned with all the others before."""
SMALL_LR_TIMES = 20
"""Tables of vectors that are trained as they are take a far higher rate than transformers."""


@dataclass(frozen=True)
class StudentContext:
    """What all students of a search have in common."""

    teacher: TaskModel
    base_model: str
    """The pre-trained encoder that the teacher was made from; the controls start from it."""
    train_rows: EncodedRows
    dev_rows: EncodedRows
    distil_methods: Sequence[Any]
    """Configs of the distillation methods."""
    training: TrainingConfig
    folder: Path
    theseus_lr: float | None = None
    """Peak learning rate of Theseus; None: the same as the others'."""
    transfer_rows: EncodedRows | None = None
    """What all but the controls learn from: `train_rows` and rows that the teacher answered."""
    small_lr: float | None = None
    """Peak learning rate of students without attention; None: `SMALL_LR_TIMES` the others'."""
    starts: Mapping[int, str] = field(default_factory=dict)
    """Depth -> encoder that students of it start from, in place of the teacher's layers."""

    @property
    def soft_targets(self) -> list[Any]:
        """The config of soft targets, for students that can follow nothing else."""
        given = [m for m in self.distil_methods if isinstance(m, SoftTargetsConfig)]
        return given or [SoftTargetsConfig()]

    def folder_of(self, plan: StudentPlan) -> Path:
        """Return the run directory of a student."""
        return self.folder / plan.name

    def rows_of(self, plan: StudentPlan) -> EncodedRows:
        """Return what a student learns from; a control from the labelled rows alone."""
        if plan.method == "control" or self.transfer_rows is None:
            return self.train_rows
        return self.transfer_rows

    def training_of(self, plan: StudentPlan) -> TrainingConfig:
        """Return the options of a student's training: the search's, with its own seed.

        A control goes through its rows more often, where the others have more rows.
        """
        lr = self.training.lr
        if plan.method == "theseus":
            lr = self.theseus_lr or lr
        if plan.small:
            lr = self.small_lr or SMALL_LR_TIMES * lr
        epochs = self.training.epochs
        if plan.method == "elastic":
            epochs *= ELASTIC_SHARE
        if plan.method == "control" and self.transfer_rows is not None:
            epochs *= len(self.transfer_rows) / len(self.train_rows)
        return dataclasses.replace(self.training, seed=plan.seed, lr=lr, epochs=epochs)


@dataclass(frozen=True)
class TrainedStudent:
    """A student that is done. `seconds` is its training time; `score` on the dev rows, by torch."""

    plan: StudentPlan
    model_dir: Path
    metrics_file: Path
    score: float
    parameters: int
    seconds: float
    steps: int


def is_trained(plan: StudentPlan, context: StudentContext, phase: Phase) -> bool:
    """Return whether half of a student's training is done and judged, or all of it."""
    record = HALF_RECORD if phase == "half" else STUDENT_RECORD
    return (context.folder_of(plan) / record).exists()


def train_half(plan: StudentPlan, context: StudentContext, slice_rows: EncodedRows) -> Judged:
    """Train a student for half of its steps; return its answers to the slice, judged.

    Done before (by this search, killed and resumed), it is only read.
    """
    folder = context.folder_of(plan)
    record = folder / HALF_RECORD
    task = find_task(context.teacher.task).judging(slice_rows)
    if record.exists():
        return Judged(task, np.load(record))
    _check_time()
    console.print(f"[bold]{plan.name}[/]: first half")
    half, _ = _TRAINERS[plan.method](plan, context, True)
    _, logits = evaluate_model(half, slice_rows, task)
    judged = Judged(task, task.judge(logits, slice_rows, task.tune(half, logits, slice_rows)))
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "half-statistics.tmp.npy"
    np.save(temporary, judged.statistics)
    temporary.replace(record)
    return judged


def train_whole(plan: StudentPlan, context: StudentContext) -> TrainedStudent:
    """Train a student to the end, going on from its first half if there is one, and save it."""
    folder = context.folder_of(plan)
    record = folder / STUDENT_RECORD
    if record.exists():
        console.print(f"[bold]{plan.name}[/]: trained before")
    else:
        _check_time()
        began = time.monotonic()
        console.print(f"[bold]{plan.name}[/]: to the end")
        model, result = _TRAINERS[plan.method](plan, context, False)
        assert result is not None and result.best_score is not None
        model.lineage = {
            **model.lineage,
            "method": plan.method,
            "layers": plan.layers,
            "shape": plan.shape,
            "seed": plan.seed,
            "teacher": context.teacher.lineage,
            "scores": result.metrics,
        }
        model.save(folder / "model")
        write_json(
            record,
            {
                "score": result.best_score,
                "parameters": sum(p.numel() for p in model.parameters()),
                "seconds": result.seconds,
                "wall_s": time.monotonic() - began,
                "steps": result.steps,
            },
        )
    facts = read_json(record)
    return TrainedStudent(
        plan=plan,
        model_dir=folder / "model",
        metrics_file=folder / "metrics.jsonl",
        score=facts["score"],
        parameters=facts["parameters"],
        seconds=facts["seconds"],
        steps=facts["steps"],
    )


def ask_ahead(context: StudentContext, plans: Sequence[StudentPlan]) -> None:
    """Ask the teacher once for all, where the answers that these students need are the same."""
    asking = [plan for plan in plans if plan.method in ("distil", "fitted", "elastic")]
    if asking and all(isinstance(one, SoftTargetsConfig) for one in context.distil_methods):
        rows, folder = context.rows_of(asking[0]), context.folder / TEACHER_ANSWERS
        ask_teacher(context.teacher, context.teacher, rows, (), cache_folder=folder)


def _check_time() -> None:
    if time_is_up():
        raise TimeUpError("no time was left to train it", hint="--resume goes on")


def _half_of(context: StudentContext, plan: StudentPlan) -> int:
    steps = count_steps(context.rows_of(plan), context.training_of(plan))
    return max(1, round(HALF * steps))


def _train_distil(
    plan: StudentPlan, context: StudentContext, half: bool
) -> tuple[TaskModel, TrainResult]:
    student = _student_of(context.teacher, plan, context)
    training = context.training_of(plan)
    result = train_distilled(
        student,
        context.teacher,
        context.rows_of(plan),
        context.dev_rows,
        methods=context.soft_targets if plan.small else context.distil_methods,
        training=training,
        run_dir=context.folder_of(plan),
        resume=True,
        cache_folder=context.folder / TEACHER_ANSWERS,
        pause_at=_half_of(context, plan) if half else None,
    )
    return student, result


def _train_control(
    plan: StudentPlan, context: StudentContext, half: bool
) -> tuple[TaskModel, TrainResult]:
    """Fine-tune a cut-down pre-trained encoder on the labels alone: nothing of the teacher."""
    teacher = context.teacher
    training = context.training_of(plan)
    base = _untrained(context.base_model, teacher, plan.seed)
    student = _student_of(base, plan, context, control=True)
    result = train(
        student,
        context.rows_of(plan),
        context.dev_rows,
        task=find_task(teacher.task),
        config=training,
        run_dir=context.folder_of(plan),
        resume=True,
        pause_at=_half_of(context, plan) if half else None,
    )
    return student, result


def _untrained(encoder: str, teacher: TaskModel, seed: int) -> TaskModel:
    """Return an encoder for the teacher's task that has not learned it, with its vocabulary."""
    own = load_tokenizer(encoder)
    model = build_task_model(
        encoder,
        task=teacher.task,
        labels=teacher.labels,
        config=teacher.config,
        max_length=teacher.max_length,
        seed=seed,
        tokenizer=own or teacher.tokenizer,
        outputs=teacher.outputs,
    )
    assert teacher.tokenizer is not None
    if own is not None and own.get_vocab() != teacher.tokenizer.get_vocab():
        return copy_with_vocabulary(model, teacher.tokenizer)
    model.tokenizer = teacher.tokenizer
    return model


def _student_of(
    model: TaskModel, plan: StudentPlan, context: StudentContext, *, control: bool = False
) -> TaskModel:
    """Return the student before training: parts of `model`, or new tables that begin with its own.

    What a teacher keeps is chosen by the labelled rows; a control's heads are drawn at random, and
    its neurons are those with the longest weights.
    """
    if plan.small:
        maker = SmallStudent(small_of(plan.small))
        return maker.apply(model, context.train_rows, seed=plan.seed)
    if plan.layers in context.starts and not plan.is_narrow:
        return _untrained(context.starts[plan.layers], context.teacher, plan.seed)
    narrow = _narrowed(model, plan, context, control=control)
    return copy_with_layers(narrow, _layers_of(model, plan, "uniform"))


def _layers_of(model: TaskModel, plan: StudentPlan, choice: LayerChoice) -> tuple[int, ...]:
    return choose_layers(get_roles(model.encoder).num_layers, plan.layers, choice)


def _narrowed(
    model: TaskModel, plan: StudentPlan, context: StudentContext, *, control: bool = False
) -> TaskModel:
    """Return the model with the heads and neurons that the plan leaves it, all of its layers."""
    task = find_task(model.task)
    if plan.heads < 1:
        heads = HeadPruningConfig(
            share=plan.heads, by="random" if control else "gradient", seed=plan.seed
        )
        model = HeadPruning(heads).apply(model, context.train_rows, task)
    if plan.neurons < 1:
        neurons = NeuronPruningConfig(share=plan.neurons, by="magnitude" if control else "gradient")
        model = NeuronPruning(neurons).apply(model, context.train_rows, task)
    return model


def _train_theseus(
    plan: StudentPlan, context: StudentContext, half: bool
) -> tuple[TaskModel, TrainResult | None]:
    """Half of it is the replacement phase; the rest fine-tunes the successors alone."""
    config = TheseusConfig(num_layers=plan.layers, replace_share=HALF)
    arguments: dict[str, Any] = {
        "config": config,
        "training": context.training_of(plan),
        "run_dir": context.folder_of(plan),
        "resume": True,
    }
    rows = (context.teacher, context.rows_of(plan), context.dev_rows)
    if half:
        return replace_layers(*rows, **arguments), None
    return train_theseus(*rows, **arguments)


def _train_fitted(
    plan: StudentPlan, context: StudentContext, half: bool
) -> tuple[TaskModel, TrainResult]:
    """Take layers of the teacher, or its vectors of words, fit a head to its answers, and train on.

    Whichever scores better is kept, what was fitted or what came of training: on some tasks more
    training on the same rows unlearns (docs/students.md).
    """
    teacher, rows, began = context.teacher, context.rows_of(plan), time.perf_counter()
    student = _to_be_fitted(plan, context)
    folder = context.folder / TEACHER_ANSWERS
    source = ask_teacher(teacher, student, rows, (), cache_folder=folder)
    task = find_task(teacher.task).judging(context.dev_rows)
    with using_threads(context.training.threads):
        fitted = FittedHead().apply(student, source, rows)
        metrics, _ = evaluate_model(fitted, context.dev_rows, task)
    student, seconds = copy.deepcopy(fitted), time.perf_counter() - began
    result = train_distilled(
        student,
        source,
        rows,
        context.dev_rows,
        methods=context.soft_targets,
        training=context.training_of(plan),
        run_dir=context.folder_of(plan),
        resume=True,
        pause_at=_half_of(context, plan) if half else None,
    )
    if result.best_score is None or result.best_score > metrics[task.primary]:
        return student, result
    return fitted, judge_made(
        fitted,
        context.dev_rows,
        task,
        context.training_of(plan),
        context.folder_of(plan),
        steps=0,
        seconds=seconds,
        stopped="the head as it was fitted scores best",
    )


def _to_be_fitted(plan: StudentPlan, context: StudentContext) -> TaskModel:
    """Return a student of the teacher's own layers or vectors, whose head knows nothing yet.

    Vectors of words as they are: those made shorter by frequency, or made of the teacher's outputs,
    begin better for training and are worse to fit a head on (LOG.md).
    """
    teacher = context.teacher
    if plan.small:
        words: Any = teacher.encoder.get_input_embeddings()
        as_wide = words.weight.shape[1] == teacher.roles.hidden_size
        start = "words" if as_wide else "outputs"
        config = dataclasses.replace(small_of(plan.small), start=start, weighted=False)
        return SmallStudent(config).apply(teacher, context.train_rows, seed=plan.seed)
    narrow = _narrowed(teacher, plan, context)
    student = copy_with_layers(narrow, _layers_of(teacher, plan, "first"))
    return copy_with_pooling(student, FITTED_POOLING, seed=plan.seed)


def _train_size(
    plan: StudentPlan, context: StudentContext, half: bool
) -> tuple[TaskModel, TrainResult]:
    """Cut a size out of the supernet and train it a little on."""
    student = cut_size(TaskModel.load(supernet_of(context, plan.seed)), plan)
    result = train_distilled(
        student,
        context.teacher,
        context.rows_of(plan),
        context.dev_rows,
        methods=context.soft_targets,
        training=context.training_of(plan),
        run_dir=context.folder_of(plan),
        resume=True,
        cache_folder=context.folder / TEACHER_ANSWERS,
        pause_at=_half_of(context, plan) if half else None,
    )
    return student, result


_TRAINERS: dict[
    str, Callable[[StudentPlan, StudentContext, bool], tuple[TaskModel, TrainResult | None]]
] = {
    "control": _train_control,
    "distil": _train_distil,
    "elastic": _train_size,
    "fitted": _train_fitted,
    "theseus": _train_theseus,
}
