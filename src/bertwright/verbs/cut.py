"""Take whole layers out of a saved model, and heads and neurons of an elastic one; no training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from bertwright.config import config_to_dict, require
from bertwright.data.labels import LabelSet
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.errors import ConfigError, UsageError
from bertwright.evaluate.measure import model_folder
from bertwright.files import folder_size_mb, write_json
from bertwright.methods.distil.student_init import (
    LayerChoice,
    choose_layers,
    read_layer_choice,
)
from bertwright.methods.prune.layers import (
    DroppedLayer,
    LayerPruning,
    LayerPruningConfig,
    kept_layers,
)
from bertwright.models.build import copy_with_first, copy_with_layers
from bertwright.models.encoder import saved_size_mb
from bertwright.models.multi import head_folder
from bertwright.models.quantized import refuse_quantized
from bertwright.models.task_model import TaskModel
from bertwright.models.widths import widths_of
from bertwright.tasks import Task, find_task
from bertwright.training.evaluation import compute_logits
from bertwright.verbs.common import DataConfig, read_rows, refuse_full

__all__ = ["EXAMPLES", "GROUPS", "CutConfig", "CutResult", "cut"]

EXAMPLES = (
    (
        "three layers, evenly spaced, and what that does to the score",
        "--model runs/mine --layers 3 --check-data test.csv --out runs/three",
    ),
    (
        "drop what the score misses least",
        "--model runs/mine --layers 4 --layer-choice search --data dev.csv --out runs/four",
    ),
    ("these layers", "--model runs/mine --layers 3 --layer-choice 0+2+5 --out runs/three"),
)
GROUPS = {
    "What you give": ("model", "head", "data", "check_data", "reading"),
    "What stays": ("layers", "layer_choice", "heads", "neurons"),
    "Output": ("out",),
}
CUT_FILE = "cut.json"
ELASTIC = "elastic"
"""In the lineage of a model whose sizes were all trained, the first layers, heads, neurons."""
RULES_BY_DATA = ("importance", "search")


@dataclass(frozen=True, kw_only=True)
class CutConfig:
    """Take whole layers out of a saved model, without training.

    finetune --method layer_drop trains a model for this, and distil --method elastic one of which
    heads and neurons can be left out too. Where the score falls too far, train:
    bertwright distil --layer-choice 0+2+5 starts a student from the same layers.
    """

    model: str
    """A run or model folder."""
    head: str | None = None
    """Which head, of a model that has several (bertwright multitask)."""
    layers: int | None = None
    """How many layers stay. Without it all of them, if --heads or --neurons is given."""
    layer_choice: str | None = None
    """Which layers stay: uniform (taken when none is given), first (taken of an elastic model),
    last, alternate, or numbers from 0 such as 0+2+5; or by --data: importance (those go that the
    loss would notice least) or search (those go, one after the other, without which the score is
    best)."""
    data: str | None = None
    """Labelled rows to choose the layers by: a file, folder, glob or Hub dataset."""
    check_data: str | None = None
    """Labelled rows to score both models on. Not those of --data: the choice fits these."""
    reading: DataConfig = field(default_factory=DataConfig)
    heads: int | None = None
    """How many attention heads of each layer stay, of a model of distil --method elastic."""
    neurons: int | None = None
    """How many neurons of each feed-forward network stay, likewise."""
    out: str
    """Folder to write: a model, and cut.json with what was taken out."""

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("layers", "heads", "neurons")}
        for name, count in sizes.items():
            require(count is None or count >= 1, name, count, "at least 1")
        if not any(sizes.values()):
            raise ConfigError("nothing is to be taken out", hint="--layers, --heads or --neurons")
        if self.layers is None and (self.layer_choice or self.data):
            raise ConfigError(
                "--layer-choice and --data say which layers stay", hint="give --layers too"
            )
        rule = read_layer_choice(self.layer_choice or "uniform", more_rules=RULES_BY_DATA)
        if rule in RULES_BY_DATA and self.data is None:
            raise ConfigError(
                f"--layer-choice {rule} looks at labelled rows", hint="give them by --data"
            )
        if rule not in RULES_BY_DATA and self.data is not None:
            raise ConfigError(
                f"--data is for --layer-choice {' and '.join(RULES_BY_DATA)}",
                hint="leave it out; --check-data scores the models",
            )


@dataclass(frozen=True, kw_only=True)
class CutResult:
    """What was cut, and what that did to the score."""

    out: Path
    layers_before: int
    kept: tuple[int, ...]
    """Layers of the model, from 0, that stayed."""
    heads: int | None
    """How many of each layer stayed; None: all."""
    neurons: int | None
    dropped: tuple[DroppedLayer, ...]
    """Those that went, in this order, by --data; empty without."""
    parameters_before: int
    parameters_after: int
    size_mb_before: float
    size_mb: float
    primary: str | None
    """Name of the metric; None without --check-data, like the scores."""
    score_before: float | None
    score_after: float | None
    num_check_rows: int
    """Features of --check-data."""


def cut(config: CutConfig) -> CutResult:
    """Write the smaller model. An existing, non-empty folder is refused.

    Raises:
        UsageError: the model, the data or the folder cannot be used, or the family cannot do
            without one of the layers.
    """
    out = Path(config.out)
    refuse_full(out)
    source = model_folder(head_folder(config.model, config.head))
    model = TaskModel.load(source)
    refuse_quantized(model, "its layers cannot be taken out")
    depth = model.roles.num_layers
    task = find_task(model.task)
    kept, dropped = _choose(config, model, task)
    shallower = _narrower(config, model, kept)
    primary, scores, num_rows = _score_both(config, (model, shallower), task)
    shallower.lineage = _lineage(config, model, kept)
    shallower.save(out)
    result = CutResult(
        out=out,
        layers_before=depth,
        kept=kept,
        heads=config.heads,
        neurons=config.neurons,
        dropped=tuple(dropped),
        parameters_before=model.num_parameters,
        parameters_after=shallower.num_parameters,
        size_mb_before=saved_size_mb(source),
        size_mb=folder_size_mb(out),
        primary=primary,
        score_before=scores[0],
        score_after=scores[1],
        num_check_rows=num_rows,
    )
    facts = {**vars(result), "out": str(out), "dropped": [vars(one) for one in dropped]}
    write_json(out / CUT_FILE, facts)
    return result


def _narrower(config: CutConfig, model: TaskModel, kept: tuple[int, ...]) -> TaskModel:
    """Return these layers of the model, of each as many heads and neurons as are asked for."""
    shallower = copy_with_layers(model, kept) if len(kept) < model.roles.num_layers else model
    wanted = {"heads": config.heads, "neurons": config.neurons}
    wanted = {what: count for what, count in wanted.items() if count is not None}
    if not wanted:
        return shallower
    if ELASTIC not in model.lineage:
        raise UsageError(
            f"--{next(iter(wanted))}: which heads and neurons this model can do without is not "
            "known, since it was not trained for that",
            hint="bertwright distil --method elastic trains such a model, and distil --heads or "
            "--neurons a narrower one",
        )
    widths = widths_of(shallower.encoder)
    for what, count in wanted.items():
        have: tuple[int, ...] = getattr(widths, what)
        if count > min(have):
            raise ConfigError(f"--{what} {count}: a layer of this model has {min(have)}")
    return copy_with_first(shallower, heads=config.heads, neurons=config.neurons)


def _check_depth(layers: int, depth: int, narrower: bool) -> None:
    if layers > depth or (layers == depth and not narrower):
        raise ConfigError(
            f"--layers {layers}: the model has {depth}, so there is nothing to cut",
            hint=f"choose from 1 to {depth - 1}" if depth > 1 else "it cannot have fewer",
        )


def _choose(
    config: CutConfig, model: TaskModel, task: Task
) -> tuple[tuple[int, ...], list[DroppedLayer]]:
    """Return the layers that stay, and, where data says so, those that go, in order."""
    depth = model.roles.num_layers
    if config.layers is None:
        return tuple(range(depth)), []
    _check_depth(config.layers, depth, bool(config.heads or config.neurons))
    otherwise = "first" if ELASTIC in model.lineage else "uniform"
    rule = read_layer_choice(config.layer_choice or otherwise, more_rules=RULES_BY_DATA)
    if config.data is None or rule not in RULES_BY_DATA:
        choice = cast("LayerChoice | tuple[int, ...]", rule)
        return choose_layers(depth, config.layers, choice), []
    by = cast("Literal['importance', 'search']", rule)
    method = LayerPruning(LayerPruningConfig(num_layers=config.layers, by=by))
    dropped = method.choose(model, _encode(config.data, config, task, model), task)
    return kept_layers(depth, dropped), dropped


def _score_both(
    config: CutConfig, models: tuple[TaskModel, TaskModel], task: Task
) -> tuple[str | None, tuple[float | None, float | None], int]:
    """Return the primary metric's name, both models' scores and the number of features, if any.

    What decoding was tuned for the whole model (thresholds) serves both.
    """
    if config.check_data is None:
        return None, (None, None), 0
    rows = _encode(config.check_data, config, task, models[0])
    task = task.judging(rows)
    scores = []
    for model in models:
        outputs = compute_logits(model, rows, precision="fp32")
        scores.append(task.metrics(task.judge(outputs, rows, model.decoding))[task.primary])
    return task.primary, (scores[0], scores[1]), len(rows)


def _encode(place: str, config: CutConfig, task: Task, model: TaskModel) -> EncodedRows:
    labels = LabelSet(tuple(model.labels)) if model.labels else None
    rows = read_rows(place, config.reading, task, labels=labels, split="validation")
    return tokenise(rows, model.tokenizer, encoder=task.encoder, max_length=model.max_length)


def _lineage(config: CutConfig, model: TaskModel, kept: tuple[int, ...]) -> dict[str, Any]:
    """Return the model's lineage with the cut; its scores are not those of the smaller model."""
    before = {key: value for key, value in model.lineage.items() if key != "scores"}
    facts = {"kept": list(kept), "scores_before": model.lineage.get("scores")}
    return {**before, "cut": {"verb": "cut", **config_to_dict(config), **facts}}
