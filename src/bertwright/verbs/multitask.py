"""Train one encoder on several tasks at once, each with a head and data of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from bertwright.config import config_from_strings, config_to_dict, require
from bertwright.data.labels import LabelSet
from bertwright.data.mixed import MixedRows, Sampling
from bertwright.errors import ConfigError
from bertwright.models.build import build_task_model
from bertwright.models.multi import MultiModel
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.registry import split_spec
from bertwright.tasks import Task, find_task
from bertwright.tasks.multi import MultiTask
from bertwright.training.config import TrainingConfig
from bertwright.training.loop import train
from bertwright.verbs.common import (
    TRAINING_BASICS,
    DataConfig,
    TrainedResult,
    open_run_dir,
    output_labels,
    read_parts,
    tokenise_both,
)
from bertwright.verbs.frozen import check_head_is_trained

__all__ = ["EXAMPLES", "GROUPS", "MultitaskConfig", "PartConfig", "multitask", "parse_part"]

EXAMPLES = (
    (
        "two tasks, sampled by the square root of their sizes",
        "--part topic:data=topics.csv --part similar:data=pairs.csv,task=regress "
        "--sampling sqrt --out runs/two",
    ),
    (
        "one head matters twice as much",
        "--part topic:data=topics.csv,weight=2 --part names:data=ner.jsonl,task=tag --out runs/two",
    ),
)
GROUPS = {
    "What you give": ("part", "eval_share", "reading", "long_rows"),
    "Model": ("model", "classifier"),
    "How the tasks share": ("sampling", "temperature"),
    "Training": TRAINING_BASICS,
    "Training, the finer points": ("training",),
    "Output": ("out", "resume"),
}


@dataclass(frozen=True, kw_only=True)
class PartConfig:
    """One of the tasks."""

    data: str
    """Labelled rows."""
    eval_data: str | None = None
    """Rows to score on while training; without it a share of the rows is held out."""
    task: str = "classify"
    """What to learn."""
    weight: float = 1.0
    """What its loss is multiplied by."""

    def __post_init__(self) -> None:
        if not find_task(self.task).trains:
            raise ConfigError(
                f"task={self.task}: there is nothing to train in it",
                hint="bertwright finetune makes such a model of the encoder as it is",
            )
        require(self.weight > 0, "weight", self.weight, "above 0")


@dataclass(frozen=True, kw_only=True)
class MultitaskConfig:
    """Train one encoder on several tasks at once; each gets a head with its name.

    The weights are kept that score best on the mean of the tasks' scores. The other commands take
    one head of the result: --model RUN --head NAME.
    """

    part: tuple[str, ...]
    """A task, NAME:data=FILE, and after a comma each eval_data=FILE, task=TASK or weight=NUMBER.
    Give two or more, each by a --part of its own."""
    eval_share: float = 0.1
    """Share of the rows held out of a part without eval_data."""
    reading: DataConfig = field(default_factory=DataConfig)
    long_rows: Literal["truncate", "stop"] = "truncate"
    """A row longer than --max-length is cut, or stops the command."""
    model: str = "minilm"
    """Where to start: a Hub name, a directory, or minilm (no network needed)."""
    classifier: ModelConfig = field(default_factory=ModelConfig)
    sampling: Sampling = "proportional"
    """How many rows of each task an epoch takes, of n rows: in proportion to n (each row once), to
    the square root of n, to n^(1/temperature), or annealed from n towards equal shares."""
    temperature: float = 2.0
    """Of --sampling temperature: the higher, the more equal; 1 is proportional."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    out: str
    """The run's folder: recipe.yaml, metrics.jsonl, checkpoints/, model/."""
    resume: bool = False
    """Carry on a run that was broken off; it ends with the same weights as an unbroken one."""

    def __post_init__(self) -> None:
        require(0 < self.eval_share < 1, "eval_share", self.eval_share, "between 0 and 1")
        require(self.temperature >= 1, "temperature", self.temperature, "at least 1")
        check_head_is_trained(self.classifier)
        names = [parse_part(spec)[0] for spec in self.part]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ConfigError(
                f"--part {' '.join(names) or '(none)'}: give two or more, each with its own name",
                hint="bertwright finetune trains a single task",
            )


def parse_part(spec: str) -> tuple[str, PartConfig]:
    """Return the name and the options of `NAME:key=value,...`.

    Raises:
        ConfigError: the name cannot be one of a folder, or an option is unknown or lacking.
    """
    name, options = split_spec(spec, "--part")
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(
            f"--part {spec}: {name!r} cannot name a head", hint="letters, digits, - and _"
        )
    if "data" not in options:
        raise ConfigError(f"--part {spec}: no data", hint=f"--part {name}:data=FILE")
    return name, config_from_strings(PartConfig, options, source=f"--part {spec}")


def build_head(config: MultitaskConfig, task: Task, row_labels: LabelSet | None) -> TaskModel:
    """Return a new model for one task, on an encoder of its own."""
    labels = output_labels(task, row_labels)
    return build_task_model(
        config.model,
        task=task.spec,
        labels=labels,
        config=config.classifier,
        max_length=config.training.max_length,
        seed=config.training.seed,
        outputs=task.outputs(labels),
    )


def multitask(config: MultitaskConfig) -> TrainedResult:
    """Train as `config` says; the run directory then holds the encoder and all heads in `model/`.

    Raises:
        UsageError: an option, the data or the model cannot be used; nothing was trained.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    given = dict(parse_part(spec) for spec in config.part)
    tasks = {name: find_task(part.task) for name, part in given.items()}
    run_dir = open_run_dir("multitask", config)
    rows = {
        name: read_parts(
            part.data,
            part.eval_data,
            config.reading,
            tasks[name],
            run_dir,
            eval_share=config.eval_share,
            seed=config.training.seed,
            suffix=f"-{name}",
        )
        for name, part in given.items()
    }
    models = {name: build_head(config, tasks[name], rows[name][0].labels) for name in given}
    joined = MultiModel(models)
    both = {
        name: tokenise_both(rows[name], models[name], tasks[name], long_rows=config.long_rows)
        for name in given
    }
    training = config.training
    mixed: Any = MixedRows(
        {name: train_rows for name, (train_rows, _) in both.items()},
        sampling=config.sampling,
        num_epochs=training.epochs,
        temperature=config.temperature,
    )
    mixed_eval: Any = MixedRows({name: eval_rows for name, (_, eval_rows) in both.items()})
    weights = {name: part.weight for name, part in given.items()}
    result = train(
        joined,  # type: ignore[arg-type]
        mixed,
        mixed_eval,
        task=MultiTask(tasks=tasks, weights=weights),
        config=training,
        run_dir=run_dir,
        resume=config.resume,
    )
    recipe = {"verb": "multitask", **config_to_dict(config)}
    for name, model in models.items():
        scores = {
            key.partition("/")[2]: value
            for key, value in result.metrics.items()
            if key.startswith(f"{name}/")
        }
        model.lineage = {
            "base_model": config.model,
            "data": given[name].data,
            "data_fingerprint": rows[name][0].fingerprint,
            "num_rows": len(rows[name][0]),
            "seed": training.seed,
            "recipe": recipe,
            "scores": scores,
            "steps": result.steps,
        }
    joined.save(run_dir / "model", {"base_model": config.model, "recipe": recipe})
    return TrainedResult(
        run_dir=run_dir,
        model_dir=run_dir / "model",
        primary=result.primary,
        score=result.best_score,
        metrics=result.metrics,
        num_rows=sum(len(part) for part, _ in rows.values()),
        num_eval_rows=sum(len(part) for _, part in rows.values()),
        num_layers=joined.roles.num_layers,
        parameters=sum(parameter.numel() for parameter in joined.parameters()),
        steps=result.steps,
        seconds=result.seconds,
        tokens_per_s=result.tokens_per_s,
        stopped=result.stopped,
    )
