"""Train a shallower or narrower student of a finetuned model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bertwright.config import config_to_dict, require
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import ConfigError
from bertwright.evaluate.measure import model_folder
from bertwright.methods.distil.fitted_head import FittedHead, FittedHeadConfig
from bertwright.methods.distil.teacher_source import TeacherSource
from bertwright.methods.distil.train import ask_teacher, train_distilled
from bertwright.methods.prune.elastic import ElasticConfig
from bertwright.methods.prune.train import PRUNING_IN_TRAINING, train_pruned
from bertwright.methods.prune.train_elastic import train_elastic
from bertwright.methods.quantize.qat import QatConfig
from bertwright.methods.replace.theseus import TheseusConfig
from bertwright.methods.replace.train import train_theseus
from bertwright.models.pooling import check_pooling
from bertwright.models.task_model import TaskModel
from bertwright.registry import find_method, parse_method_spec
from bertwright.tasks import find_task
from bertwright.training.config import TrainingConfig
from bertwright.training.loop import TrainResult, train
from bertwright.training.made import judge_made
from bertwright.training.precision import using_threads
from bertwright.verbs.common import (
    TRAINING_BASICS,
    DataConfig,
    TrainedResult,
    open_run_dir,
    read_train_and_eval,
    save_trained,
    saved_task,
    tokenise_both,
)
from bertwright.verbs.distil_rows import generator_of, load_teachers, teacher_of, with_more_rows
from bertwright.verbs.distil_student import (
    chosen_layers,
    load_start,
    new_student,
    pruning_methods,
    small_student,
)

__all__ = ["CONTROL", "EXAMPLES", "GROUPS", "DistilConfig", "distil"]

EXAMPLES = (
    (
        "a 3-layer student that learns from its teacher's probabilities",
        "--teacher runs/mine --layers 3 --data train.csv --out runs/three",
    ),
    (
        "the same by BERT-of-Theseus",
        "--teacher runs/mine --layers 3 --method theseus --data train.csv --out runs/theseus",
    ),
    (
        "two methods together, with their options",
        "--teacher runs/mine --layers 2 --method soft_targets:temperature=4 "
        "--method hidden_matching --data train.csv --out runs/two",
    ),
    (
        "all layers, half of the heads, a quarter of the feed-forward networks",
        "--teacher runs/mine --heads 0.5 --neurons 0.25 --data train.csv --out runs/narrow",
    ),
    (
        "the same little by little, while it learns from its teacher",
        "--teacher runs/mine --method gradual_pruning:heads=0.5,neurons=0.25 "
        "--method soft_targets --data train.csv --out runs/narrow",
    ),
    (
        "every size at once, of which `bertwright cut` takes one",
        "--teacher runs/mine --method elastic --method soft_targets --data train.csv "
        "--out runs/elastic",
    ),
    (
        "more to learn from: texts without labels, and four made of each row",
        "--teacher runs/mine --layers 2 --data train.csv --more-text logs.jsonl --generate 4 "
        "--out runs/more",
    ),
    (
        "the control: does the teacher help at all?",
        "--teacher runs/mine --layers 3 --method none --data train.csv --out runs/control",
    ),
)
GROUPS = {
    "What you give": (
        "teacher",
        "co_teacher",
        "data",
        "eval_data",
        "eval_share",
        "reading",
        "long_rows",
    ),
    "More to learn from": ("more_text", "generate", "teacher_column"),
    "Student": (
        "layers",
        "layer_choice",
        "heads",
        "neurons",
        "width",
        "embeddings",
        "start",
        "pooling",
        "student",
    ),
    "Training": ("method", *TRAINING_BASICS),
    "Training, the finer points": ("training",),
    "Output": ("out", "resume"),
}
CONTROL = "none"
DEFAULT_METHOD = "soft_targets"
PRUNING_NAMES = ("gradual_pruning", "learned_gates", "elastic")
ALONE_OR_BESIDE = (*PRUNING_IN_TRAINING, ElasticConfig)
"""They say which sizes there are; what is learned, others beside them say, or the labels."""


@dataclass(frozen=True, kw_only=True)
class DistilConfig:
    """Train a smaller student of a finetuned model (its teacher) to do the same task.

    It starts from layers of the teacher, from their most important heads and neurons, or from its
    vectors of single pieces.
    `bertwright compress` tries many students and chooses one.
    """

    teacher: str
    """A run or model folder, as `bertwright finetune` writes it."""
    co_teacher: tuple[str, ...] = ()
    """Another teacher whose answers are averaged with the first one's, of any family; may be given
    several times."""
    data: str
    """Labelled rows: a file (csv, tsv, jsonl, parquet; .gz too), folder, glob, Hub dataset, or
    builtin:train."""
    eval_data: str | None = None
    """Rows to score on while training. Without it, --eval-share of the rows is held out."""
    eval_share: float = 0.1
    """Share of the rows held out, when there is no --eval-data."""
    reading: DataConfig = field(default_factory=DataConfig)
    long_rows: Literal["truncate", "stop"] = "truncate"
    """A row longer than --max-length is cut, or stops the command."""
    more_text: tuple[str, ...] = ()
    """Texts without labels, which the teacher answers; a file, folder, glob or Hub dataset; may be
    given several times."""
    generate: str | None = None
    """Make so many other texts of each row, which the teacher answers: 4, or with options
    copies=4,replace=0.4 (`bertwright methods transfer_set`)."""
    teacher_column: tuple[str, ...] = ()
    """A column that only the teachers read, ROLE=NAME: text_b=description, or text=long_text; may
    be given several times. They must have been trained to read it. The rows of --more-text need
    it too."""
    layers: int | None = None
    """Layers of the student. Without it all of the teacher's, if it is made smaller otherwise."""
    layer_choice: str | None = None
    """Which layers of the teacher it starts from: uniform, first, last, alternate, or numbers from
    0 such as 0+2+5. Without it uniform; for theseus first, as in its paper."""
    heads: str | None = None
    """Share of the attention heads that it keeps, the most important ones: 0.5, or with options
    share=0.5,scope=global (`bertwright methods head_pruning`)."""
    neurons: str | None = None
    """The same of the feed-forward networks' neurons (`bertwright methods neuron_pruning`)."""
    width: str | None = None
    """The same of the dimensions of the states between layers, the roughest cut of all
    (`bertwright methods width_pruning`)."""
    embeddings: str | None = None
    """Columns of the thin table that its word embeddings become, with a projection behind: 128, or
    the share of the table's energy that is kept: 0.8, or options rank=128,by=equal
    (`bertwright methods embedding_factors`)."""
    start: str | None = None
    """An encoder that the student starts from in place of the teacher's layers: a Hub name, a
    folder, or minilm. It may be of another family and vocabulary; its head is new."""
    pooling: str | None = None
    """How the student makes one vector of its states, where that is not to be the teacher's way:
    mean, max, weighted-layers:2, ... (`bertwright methods`). A shallow student that reads the first
    token alone has had little time to gather the others there."""
    student: str | None = None
    """A student without attention: static (the mean of token vectors), cnn or lstm, with options
    static:ngrams=2,width=128 (`bertwright methods small_student`). It needs a high --lr."""
    method: tuple[str, ...] = ()
    """How it learns, NAME or NAME:key=value,key=value; may be given several times: soft_targets
    (taken when none is given), hidden_matching, relations, theseus, or none for training on labels
    alone; fitted_head fits a linear head first, and beside another one training goes on from there;
    gradual_pruning and learned_gates take heads and neurons out meanwhile, beside another
    one or by labels alone; elastic, beside soft_targets or by labels alone, trains every size at
    once, for `bertwright cut`; qat beside another one rounds as int8 will (`docs/int8.md`).
    `bertwright methods NAME` shows a method's options."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    out: str
    """The run's folder: recipe.yaml, metrics.jsonl, checkpoints/, model/."""
    resume: bool = False
    """Carry on a run that was broken off; it ends with the same weights as an unbroken one."""

    def __post_init__(self) -> None:
        require(0 < self.eval_share < 1, "eval_share", self.eval_share, "between 0 and 1")
        generator_of(self)
        self._check_size()
        self._check_pruning()
        self._check_theseus()
        if self.teacher_column and self.generate:
            raise ConfigError(
                "--teacher-column needs rows that have it, and generated texts have none",
                hint="leave --generate out, or give rows that have it with --more-text",
            )

    def _check_size(self) -> None:
        narrow = pruning_methods(self)
        if self.pooling is not None:
            check_pooling(self.pooling)
            if self.student or self._names(("theseus",)):
                raise ConfigError(
                    f"--pooling {self.pooling}: a static, cnn or lstm student has its own, and one "
                    "of theseus its teacher's",
                    hint="leave --pooling out",
                )
        cut = self.layers is not None or self.layer_choice is not None or bool(narrow)
        if small_student(self) is not None and (cut or self.start):
            raise ConfigError(
                f"--student {self.student} has no layers, heads or neurons of the teacher",
                hint="leave --layers, --layer-choice, --heads, --neurons, --width, --embeddings "
                "and --start out",
            )
        sized = narrow or self.student or self.start or self._names(PRUNING_NAMES)
        if self.layers is None and not sized:
            raise ConfigError(
                "the student has no size of its own",
                hint="--layers, --heads, --neurons, --width, --embeddings, --start or --student",
            )
        if self.start and narrow:
            raise ConfigError(
                f"--start {self.start} has not learned the task, so what is important in it is "
                "not known",
                hint="leave --heads, --neurons, --width and --embeddings out",
            )
        require(self.layers is None or self.layers >= 1, "layers", self.layers, "at least 1")

    def _names(self, names: Sequence[str]) -> str | None:
        """Return the first of these methods that is given."""
        given = (spec.partition(":")[0].strip() for spec in self.method)
        return next((name for name in given if name in names), None)

    def _check_pruning(self) -> None:
        name = self._names(PRUNING_NAMES)
        if name is None:
            return
        if self.heads is not None or self.neurons is not None:
            raise ConfigError(
                f"--method {name} says itself how many heads and neurons stay",
                hint=f"leave --heads and --neurons out, and give {name}:heads=0.5,neurons=0.5",
            )
        if self.student or self.start:
            raise ConfigError(
                f"--method {name} takes heads and neurons out of a model that knows the task",
                hint="leave --student and --start out",
            )

    def _check_theseus(self) -> None:
        if self._names(("theseus",)) is None:
            return
        if pruning_methods(self) or self.student or self.start:
            raise ConfigError(
                "--method theseus replaces layers by whole layers",
                hint="leave --heads, --neurons, --width, --embeddings, --start and --student out; "
                "prune its student in a second run",
            )
        if self.co_teacher or self.teacher_column:
            raise ConfigError(
                "--method theseus asks no teacher anything",
                hint="leave --co-teacher and --teacher-column out",
            )


def distil(config: DistilConfig) -> TrainedResult:
    """Train the student; the run directory then holds its best weights in `model/`.

    Raises:
        UsageError: an option, the data or the teacher cannot be used; nothing was trained.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    methods = _read_methods(config)
    task, labels = saved_task(config.teacher, "--teacher")
    teacher = TaskModel.load(model_folder(config.teacher))
    parent = teacher
    if config.start is not None:
        parent = load_start(config.start, teacher, task, seed=config.training.seed)
    teachers = load_teachers(config, teacher)
    layers = chosen_layers(config, parent.roles.num_layers)
    run_dir = open_run_dir("distil", config)
    rows, eval_rows = read_train_and_eval(config, run_dir, task, labels=labels)
    if not config.teacher_column:
        teacher.max_length = config.training.max_length
    parent.max_length = config.training.max_length
    num_labelled = len(rows)
    rows = with_more_rows(
        config, rows, teacher, task, labels, run_dir, teacher_column=config.teacher_column
    )
    asked = any(not isinstance(method, ALONE_OR_BESIDE) for method in methods)
    taught = asked and not isinstance(methods[0], TheseusConfig)
    encoded, encoded_eval = tokenise_both(
        (rows, eval_rows), parent, task, long_rows=config.long_rows, taught=taught
    )
    student = new_student(config, parent, layers, encoded, task)
    source = (
        teacher_of(config, teachers, parent, task, rows, encoded, run_dir) if asked else teacher
    )
    student, result = _train(config, methods, student, source, encoded, encoded_eval, run_dir)
    student.lineage = {
        "base_model": parent.lineage.get("base_model"),
        "teacher": config.teacher,
        **({"co_teachers": list(config.co_teacher)} if config.co_teacher else {}),
        "teacher_scores": teacher.lineage.get("scores"),
        "data": config.data,
        "data_fingerprint": rows.fingerprint,
        "num_rows": num_labelled,
        "num_added_rows": len(rows) - num_labelled,
        "seed": config.training.seed,
        "recipe": {"verb": "distil", **config_to_dict(config)},
    }
    for method in methods:
        if isinstance(method, ElasticConfig):
            student.lineage["elastic"] = config_to_dict(method)
    return save_trained(student, result, run_dir, num_rows=len(rows), num_eval_rows=len(eval_rows))


def _read_methods(config: DistilConfig) -> list[Any]:
    """Return the methods' configs; none for the control."""
    specs = config.method or (DEFAULT_METHOD,)
    if CONTROL in specs:
        if len(specs) > 1:
            raise ConfigError(f"--method {CONTROL} excludes the other methods")
        return []
    methods = [parse_method_spec(_with_layers(spec, config)) for spec in specs]
    if len(methods) > 1 and any(isinstance(method, TheseusConfig) for method in methods):
        raise ConfigError(
            "--method theseus trains in a way of its own and takes no other method beside it",
            hint="distil the student that it makes in a second run",
        )
    for spec, method in zip(specs, methods, strict=True):
        kind = find_method(type(method)).card.kind
        besides = isinstance(method, (QatConfig, *ALONE_OR_BESIDE))
        if kind not in ("distil", "replace") and not besides:
            raise ConfigError(f"--method {spec}: a {kind} method does not make students")
        given = getattr(method, "num_layers", config.layers)
        if given != config.layers:
            raise ConfigError(f"--method {spec}: --layers says {config.layers} layers")
    learning = [method for method in methods if not isinstance(method, FittedHeadConfig)]
    if learning and all(isinstance(method, QatConfig) for method in learning):
        raise ConfigError(
            "--method qat says how the student rounds, not how it learns",
            hint=f"add --method {DEFAULT_METHOD}, or give it to `bertwright finetune`",
        )
    if sum(isinstance(method, ALONE_OR_BESIDE) for method in methods) > 1:
        raise ConfigError("--method: heads and neurons can leave in one way only", hint="name one")
    if {FittedHeadConfig, ElasticConfig} <= {type(method) for method in methods}:
        raise ConfigError(
            "--method elastic trains the teacher's own layers and head, and fitted_head makes "
            "others",
            hint="leave fitted_head out",
        )
    return methods


def _with_layers(spec: str, config: DistilConfig) -> str:
    """Return a theseus spec with the number of layers, and where they start, from their options."""
    name, _, rest = spec.partition(":")
    if name.strip() != "theseus":
        return spec
    pairs = [pair for pair in rest.split(",") if pair.strip()]
    keys = {pair.partition("=")[0].strip() for pair in pairs}
    if "num_layers" not in keys:
        pairs.append(f"num_layers={config.layers}")
    if "init" not in keys and config.layer_choice is not None:
        pairs.append(f"init={config.layer_choice}")
    return f"theseus:{','.join(pairs)}"


def _train(
    config: DistilConfig,
    methods: list[Any],
    student: TaskModel,
    source: TaskModel | TeacherSource,
    rows: EncodedRows,
    eval_rows: EncodedRows,
    run_dir: Path,
) -> tuple[TaskModel, TrainResult]:
    """Train the student by the methods; Theseus makes one of its own from the teacher, `source`."""
    options: dict[str, Any] = {
        "task": find_task(student.task),
        "run_dir": run_dir,
        "resume": config.resume,
    }
    fitting = [method for method in methods if isinstance(method, FittedHeadConfig)]
    if fitting:
        methods = [method for method in methods if method not in fitting]
        began = time.perf_counter()
        if isinstance(source, TaskModel):
            source = ask_teacher(source, student, rows, methods)
        with using_threads(config.training.threads):
            student = FittedHead(fitting[0]).apply(student, source, rows)
        if not methods:
            return student, judge_made(
                student,
                eval_rows,
                options["task"],
                config.training,
                run_dir,
                steps=0,
                seconds=time.perf_counter() - began,
                stopped="the head is fitted, and the layers stay as they are",
            )
    if not methods:
        return student, train(student, rows, eval_rows, config=config.training, **options)
    options["training"] = config.training
    if isinstance(methods[0], TheseusConfig):
        assert isinstance(source, TaskModel)
        return train_theseus(source, rows, eval_rows, config=methods[0], **options)
    elastic = [method for method in methods if isinstance(method, ElasticConfig)]
    if elastic:
        others = [method for method in methods if method not in elastic]
        options |= {"config": elastic[0], "methods": others}
        return train_elastic(student, source if others else None, rows, eval_rows, **options)
    pruning = [method for method in methods if isinstance(method, PRUNING_IN_TRAINING)]
    others = [method for method in methods if method not in pruning]
    if pruning:
        options |= {"config": pruning[0], "methods": others}
        return train_pruned(student, source if others else None, rows, eval_rows, **options)
    return student, train_distilled(student, source, rows, eval_rows, methods=methods, **options)
