"""Train an encoder on labelled text."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from bertwright.config import config_to_dict, require
from bertwright.errors import ConfigError
from bertwright.methods.quantize.qat import QatConfig
from bertwright.models.build import build_task_model, copy_with_layers
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.registry import find_method, parse_method_spec
from bertwright.tasks import find_task
from bertwright.training.config import TrainingConfig
from bertwright.training.loop import train
from bertwright.verbs.common import (
    TRAINING_BASICS,
    DataConfig,
    TrainedResult,
    open_run_dir,
    output_labels,
    read_train_and_eval,
    save_trained,
    tokenise_both,
)
from bertwright.verbs.frozen import FrozenConfig, check_frozen, train_frozen

__all__ = ["EXAMPLES", "GROUPS", "FinetuneConfig", "finetune"]

EXAMPLES = (
    ("on the built-in corpus, nothing to download", "--data builtin:train --out runs/first"),
    (
        "your own files; columns are found by name",
        "--data train.csv --eval-data dev.csv --out runs/intents",
    ),
    ("a quick try", "--data train.jsonl --max-rows 500 --max-steps 50 --out runs/try"),
    (
        "few rows, or little time: the encoder stays as it is",
        "--frozen --data train.csv --out runs/frozen",
    ),
    ("carry a broken-off run on", "--data train.csv --out runs/intents --resume"),
)
GROUPS = {
    "What you give": ("data", "eval_data", "eval_share", "task", "reading", "long_rows"),
    "Model": ("model", "layers", "classifier"),
    "A frozen encoder": ("freezing",),
    "Training": ("method", *TRAINING_BASICS),
    "Training, the finer points": ("training",),
    "Output": ("out", "resume"),
}


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Train an encoder on labelled text, and keep the weights that score best."""

    data: str
    """Labelled rows: a file (csv, tsv, jsonl, parquet; .gz too), folder, glob, Hub dataset, or
    builtin:train."""
    eval_data: str | None = None
    """Rows to score on while training. Without it, --eval-share of the rows is held out."""
    eval_share: float = 0.1
    """Share of the rows held out, when there is no --eval-data."""
    task: str = "classify"
    """What to learn: classify (one label a text, or a pair of texts), multilabel (several labels),
    powerset (the same, each set of labels a class), regress (a number), tag (entities: tokens with
    tags, or text with spans), span (the answer to a question in a context), embed (vectors: pairs
    with scores, pairs or triplets that belong together, texts with labels, or texts alone), rerank
    (candidates for a query), senses (a word in its context). Options follow a colon:
    multilabel:thresholds=each, embed:scale=30, senses:how=nearest."""
    reading: DataConfig = field(default_factory=DataConfig)
    long_rows: Literal["truncate", "stop"] = "truncate"
    """A row longer than --max-length is cut, or stops the command."""
    model: str = "minilm"
    """Where to start: a Hub name, a directory, or minilm (no network needed)."""
    layers: int | None = None
    """Use only the first so many layers of the encoder. Without it, all."""
    classifier: ModelConfig = field(default_factory=ModelConfig)
    freezing: FrozenConfig = field(default_factory=FrozenConfig)
    method: tuple[str, ...] = ()
    """Add a method, NAME or NAME:key=value,key=value; may be given several times.
    `bertwright methods` lists them."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    out: str
    """The run's folder: recipe.yaml, metrics.jsonl, checkpoints/, model/."""
    resume: bool = False
    """Carry on a run that was broken off; it ends with the same weights as an unbroken one."""

    def __post_init__(self) -> None:
        require(0 < self.eval_share < 1, "eval_share", self.eval_share, "between 0 and 1")
        require(self.layers is None or self.layers >= 1, "layers", self.layers, "at least 1")
        find_task(self.task)
        check_frozen(self)


def finetune(config: FinetuneConfig) -> TrainedResult:
    """Train as `config` says; the run directory then holds the best weights in `model/`.

    Raises:
        UsageError: an option, the data or the model cannot be used; nothing was trained.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    hooks = []
    for spec in config.method:
        method = parse_method_spec(spec)
        entry = find_method(type(method))
        if entry.card.kind != "finetune" and not isinstance(method, QatConfig):
            raise ConfigError(
                f"--method {spec}: {entry.name} is a {entry.card.kind} method",
                hint="`bertwright distil` trains a student with it",
            )
        hooks.append(entry.apply(method))
    run_dir = open_run_dir("finetune", config)
    task = find_task(config.task)
    rows, eval_rows = read_train_and_eval(config, run_dir, task)
    labels = output_labels(task, rows.labels)
    training = config.training
    model = build_task_model(
        config.model,
        task=task.spec,
        labels=labels,
        config=_classifier(config),
        max_length=training.max_length,
        seed=training.seed,
        outputs=task.outputs(labels),
    )
    if config.layers is not None:
        model = _first_layers(model, config.layers)
    encoded, encoded_eval = tokenise_both(
        (rows, eval_rows), model, task, long_rows=config.long_rows
    )
    if config.freezing.frozen:
        result = train_frozen(model, (encoded, encoded_eval), task, config, run_dir)
    else:
        result = train(
            model,
            encoded,
            encoded_eval,
            task=task,
            config=training,
            hooks=hooks,
            run_dir=run_dir,
            resume=config.resume,
        )
    model.lineage = {
        "base_model": config.model,
        "data": config.data,
        "data_fingerprint": rows.fingerprint,
        "num_rows": len(rows),
        "seed": training.seed,
        "recipe": {"verb": "finetune", **config_to_dict(config)},
    }
    return save_trained(model, result, run_dir, num_rows=len(rows), num_eval_rows=len(eval_rows))


def _classifier(config: FinetuneConfig) -> ModelConfig:
    """Return what stands on the encoder: without a word about pooling, a frozen one has a mean."""
    given = config.classifier
    if config.freezing.frozen and given.pooling is None:
        return replace(given, pooling="mean")
    return given


def _first_layers(model: TaskModel, count: int) -> TaskModel:
    depth = model.roles.num_layers
    if count > depth:
        raise ConfigError(f"--layers {count}: the encoder has {depth}")
    return copy_with_layers(model, range(count))
