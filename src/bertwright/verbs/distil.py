"""Train a shallower or narrower student of a finetuned model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bertwright.config import config_to_dict, require
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import ConfigError
from bertwright.evaluate.measure import model_folder
from bertwright.methods.distil.student_init import choose_layers, init_student
from bertwright.methods.distil.train import train_distilled
from bertwright.methods.replace.theseus import TheseusConfig
from bertwright.methods.replace.train import train_theseus
from bertwright.models.task_model import TaskModel
from bertwright.registry import find_method, parse_method_spec
from bertwright.tasks import find_task
from bertwright.training.config import TrainingConfig
from bertwright.training.loop import TrainResult, train
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
        "the control: does the teacher help at all?",
        "--teacher runs/mine --layers 3 --method none --data train.csv --out runs/control",
    ),
)
GROUPS = {
    "What you give": ("teacher", "data", "eval_data", "eval_share", "reading", "long_rows"),
    "Student": ("layers", "layer_choice", "heads", "neurons"),
    "Training": ("method", *TRAINING_BASICS),
    "Training, the finer points": ("training",),
    "Output": ("out", "resume"),
}
CONTROL = "none"
DEFAULT_METHOD = "soft_targets"
RULES = ("uniform", "first", "last", "alternate")


@dataclass(frozen=True, kw_only=True)
class DistilConfig:
    """Train a smaller student of a finetuned model (its teacher) to do the same task.

    It starts from layers of the teacher, or from their most important heads and neurons.
    `bertwright compress` tries many students and chooses one.
    """

    teacher: str
    """A run or model folder, as `bertwright finetune` writes it."""
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
    layers: int | None = None
    """Layers of the student. Without it all of the teacher's, if --heads or --neurons is given."""
    layer_choice: str | None = None
    """Which layers of the teacher it starts from: uniform, first, last, alternate, or numbers from
    0 such as 0+2+5. Without it uniform; for theseus first, as in its paper."""
    heads: str | None = None
    """Share of the attention heads that it keeps, the most important ones: 0.5, or with options
    share=0.5,scope=global (`bertwright methods head_pruning`)."""
    neurons: str | None = None
    """The same of the feed-forward networks' neurons (`bertwright methods neuron_pruning`)."""
    method: tuple[str, ...] = ()
    """How it learns, NAME or NAME:key=value,key=value; may be given several times: soft_targets
    (taken when none is given), hidden_matching, theseus, or none for training on labels alone.
    `bertwright methods NAME` shows a method's options."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    out: str
    """The run's folder: recipe.yaml, metrics.jsonl, checkpoints/, model/."""
    resume: bool = False
    """Carry on a run that was broken off; it ends with the same weights as an unbroken one."""

    def __post_init__(self) -> None:
        require(0 < self.eval_share < 1, "eval_share", self.eval_share, "between 0 and 1")
        narrow = pruning_methods(self)
        if self.layers is None and not narrow:
            raise ConfigError(
                "the student has no size of its own", hint="--layers, --heads or --neurons"
            )
        require(self.layers is None or self.layers >= 1, "layers", self.layers, "at least 1")
        if narrow and any(spec.partition(":")[0].strip() == "theseus" for spec in self.method):
            raise ConfigError(
                "--method theseus replaces layers by whole layers",
                hint="leave --heads and --neurons out; prune its student in a second run",
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
    depth = teacher.roles.num_layers
    layers = choose_layers(depth, config.layers or depth, _layer_rule(config))
    run_dir = open_run_dir("distil", config)
    rows, eval_rows = read_train_and_eval(config, run_dir, task, labels=labels)
    teacher.max_length = config.training.max_length
    encoded, encoded_eval = tokenise_both(
        (rows, eval_rows), teacher, task, long_rows=config.long_rows
    )
    student, result = _train(config, methods, teacher, layers, encoded, encoded_eval, run_dir)
    student.lineage = {
        "base_model": teacher.lineage.get("base_model"),
        "teacher": config.teacher,
        "teacher_scores": teacher.lineage.get("scores"),
        "data": config.data,
        "data_fingerprint": rows.fingerprint,
        "num_rows": len(rows),
        "seed": config.training.seed,
        "recipe": {"verb": "distil", **config_to_dict(config)},
    }
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
        if kind not in ("distil", "replace"):
            raise ConfigError(f"--method {spec}: a {kind} method does not make students")
        given = getattr(method, "num_layers", config.layers)
        if given != config.layers:
            raise ConfigError(f"--method {spec}: --layers says {config.layers} layers")
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


def pruning_methods(config: DistilConfig) -> list[Any]:
    """Return the methods that make the student narrower, heads first.

    Raises:
        ConfigError: an option is unknown or its value is out of range.
    """
    found = []
    for option, name in (("heads", "head_pruning"), ("neurons", "neuron_pruning")):
        given = getattr(config, option)
        if given is not None:
            spec = given if "=" in given else f"share={given}"
            found.append(find_method(name).apply(parse_method_spec(f"{name}:{spec}")))
    return found


def _layer_rule(config: DistilConfig) -> Any:
    """Return a rule's name or the layers themselves.

    Raises:
        ConfigError: it is neither.
    """
    choice = config.layer_choice or "uniform"
    if choice in RULES:
        return choice
    try:
        return tuple(int(number) for number in choice.replace(",", "+").split("+"))
    except ValueError:
        raise ConfigError(
            f"--layer-choice {choice}: not a rule and not layers",
            hint=f"{', '.join(RULES)}, or layers from 0 such as 0+2+5",
        ) from None


def _train(
    config: DistilConfig,
    methods: list[Any],
    teacher: TaskModel,
    layers: Sequence[int],
    rows: EncodedRows,
    eval_rows: EncodedRows,
    run_dir: Path,
) -> tuple[TaskModel, TrainResult]:
    task = find_task(teacher.task)
    if methods and isinstance(methods[0], TheseusConfig):
        return train_theseus(
            teacher,
            rows,
            eval_rows,
            config=methods[0],
            training=config.training,
            run_dir=run_dir,
            task=task,
            resume=config.resume,
        )
    narrow = teacher
    for pruning in pruning_methods(config):
        narrow = pruning.apply(narrow, rows, task)
    student = init_student(narrow, layers)
    if not methods:
        result = train(
            student,
            rows,
            eval_rows,
            task=task,
            config=config.training,
            run_dir=run_dir,
            resume=config.resume,
        )
    else:
        result = train_distilled(
            student,
            teacher,
            rows,
            eval_rows,
            methods=methods,
            training=config.training,
            run_dir=run_dir,
            task=task,
            resume=config.resume,
        )
    return student, result
