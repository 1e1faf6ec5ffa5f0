"""Let a saved model stop early on easy texts, with a promise."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.config import config_to_dict
from bertwright.data.labels import LabelSet
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.errors import ConfigError
from bertwright.evaluate.measure import model_folder
from bertwright.files import write_json
from bertwright.methods.exit.early_exit import (
    EarlyExit,
    EarlyExitConfig,
    answer_rows,
    exit_layers,
)
from bertwright.models.agreement import Calibration, rows_needed
from bertwright.models.exits import Measure
from bertwright.models.multi import head_folder
from bertwright.models.task_model import TaskModel
from bertwright.tasks import Task, find_task
from bertwright.training.evaluation import compute_logits
from bertwright.verbs.common import DataConfig, read_rows, refuse_full

__all__ = ["EXAMPLES", "GROUPS", "ExitsConfig", "ExitsResult", "ExitsTest", "exits", "judge_exits"]

EXAMPLES = (
    (
        "99 of 100 answers stay the same, and what that saves on other rows",
        "--model runs/mine --data train.csv --calibration dev.csv --test-data test.csv "
        "--out runs/early",
    ),
    (
        "two exits, and a weaker promise",
        "--model runs/mine --data train.csv --calibration dev.csv --layers 2+4 --agreement 0.97 "
        "--out runs/early",
    ),
)
GROUPS = {
    "What you give": ("model", "head", "data", "calibration", "test_data", "reading"),
    "The exits": ("layers", "measure", "most_rows"),
    "The promise": ("agreement", "confidence"),
    "Output": ("out",),
}
EXITS_FILE = "exits.json"


@dataclass(frozen=True, kw_only=True)
class ExitsConfig:
    """Let a saved classifier stop early on texts that an inner layer is sure of.

    A head after each inner layer learns the model's own answers; nothing else is trained. How sure
    it must be is chosen so that a promised share of texts gets the answer of the whole model.
    Every engine stops early; `export` writes such a model for OpenVINO or ONNX Runtime as several
    graphs, one from each exit to the next, and finds the threshold anew where that is in int8.
    """

    model: str
    """A run or model folder."""
    head: str | None = None
    """Which head, of a model that has several (bertwright multitask)."""
    data: str
    """Texts that the heads learn from: the training rows. Labels are not needed. A file, folder,
    glob or Hub dataset."""
    calibration: str
    """Other texts, like those the model will meet; the promise is made on these. Labels are not
    needed."""
    test_data: str | None = None
    """Labelled rows, again others: what was promised is measured on them, and both scores."""
    reading: DataConfig = field(default_factory=DataConfig)
    layers: str | None = None
    """After how many layers heads stand, such as 2+4. Without it, after each but the last."""
    measure: Measure = "probability"
    """What says how sure a head is: the probability of its likeliest label, or the entropy."""
    most_rows: int = 20_000
    """Most rows of --data that the heads learn from; of more, so many are drawn."""
    agreement: float = 0.99
    """Promised share of texts that are answered as by the whole model."""
    confidence: float = 0.95
    """How sure the promise is: 0.95 says that at most 1 calibration file in 20 misleads it."""
    out: str
    """Folder to write: a model, and exits.json with what is promised."""

    def __post_init__(self) -> None:
        _method_config(self)


@dataclass(frozen=True, kw_only=True)
class ExitsTest:
    """What the exits do on rows that nothing was chosen by."""

    num_rows: int
    agreement: float
    """Share of rows answered as by the whole model."""
    average_layers: float
    left_after: dict[int, int]
    """How many rows ran through so many layers."""
    primary: str
    """Name of the metric."""
    score_whole: float
    score_early: float


@dataclass(frozen=True, kw_only=True)
class ExitsResult:
    """The exits, what is promised of them, and what they do."""

    out: Path
    source: Path
    """The model as it was."""
    num_layers: int
    layers: tuple[int, ...]
    """After how many layers a row may leave."""
    threshold: float | None
    """None: the promise could not be made, and no row leaves."""
    promised_agreement: float
    confidence: float
    calibration: Calibration
    rows_needed: int
    """Fewest calibration rows with which this promise can be made."""
    test: ExitsTest | None
    """None without --test-data."""


def exits(config: ExitsConfig) -> ExitsResult:
    """Write the model with exits. An existing, non-empty folder is refused.

    Raises:
        UsageError: the model, the data or the folder cannot be used, the task is not classify, or
            the family cannot be stopped between its layers.
    """
    out = Path(config.out)
    refuse_full(out)
    source = model_folder(head_folder(config.model, config.head))
    model, method = TaskModel.load(source), EarlyExit(_method_config(config))
    method.check(model)
    task = find_task(model.task)
    layers = exit_layers(method.config.layers, model.roles.num_layers)
    rows = _encode(config.data, config, task, model, split="train")
    calibration = _encode(config.calibration, config, task, model, split="validation")
    tests = None
    if config.test_data is not None:
        tests = _encode(config.test_data, config, task, model, split="test", need_label=True)
    early, found = method.apply(model, rows, calibration)
    result = ExitsResult(
        out=out,
        source=source,
        num_layers=model.roles.num_layers,
        layers=layers,
        threshold=found.threshold,
        promised_agreement=config.agreement,
        confidence=config.confidence,
        calibration=found,
        rows_needed=rows_needed(config.agreement, config.confidence),
        test=None if tests is None else judge_exits(model, early, tests, task),
    )
    early.lineage = _lineage(config, model, found)
    early.save(out)
    write_json(out / EXITS_FILE, _facts(result))
    return result


def _method_config(config: ExitsConfig) -> EarlyExitConfig:
    return EarlyExitConfig(
        layers=_read_layers(config.layers),
        agreement=config.agreement,
        confidence=config.confidence,
        measure=config.measure,
        most_rows=config.most_rows,
    )


def _read_layers(words: str | None) -> tuple[int, ...]:
    if words is None:
        return ()
    try:
        return tuple(int(number) for number in words.replace(",", "+").split("+"))
    except ValueError:
        raise ConfigError(
            f"--layers {words}: not numbers of layers", hint="write them as 2+4"
        ) from None


def _encode(
    place: str,
    config: ExitsConfig,
    task: Task,
    model: TaskModel,
    *,
    split: str,
    need_label: bool = False,
) -> EncodedRows:
    labels = LabelSet(tuple(model.labels)) if need_label else None
    rows = read_rows(place, config.reading, task, labels=labels, need_label=need_label, split=split)
    return tokenise(rows, model.tokenizer, encoder=task.encoder, max_length=model.max_length)


def judge_exits(model: TaskModel, early: TaskModel, rows: EncodedRows, task: Task) -> ExitsTest:
    """Return what a model with exits does on labelled rows, beside the model as it was."""
    whole = compute_logits(model, rows, precision="fp32")
    answers, layers = answer_rows(early, rows)
    task = task.judging(rows)
    scores = [
        task.metrics(task.judge(logits, rows, model.decoding))[task.primary]
        for logits in (whole, answers)
    ]
    return ExitsTest(
        num_rows=len(rows),
        agreement=float(np.mean(np.argmax(whole, axis=1) == answers.argmax(axis=1))),
        average_layers=float(layers.mean()),
        left_after=dict(sorted(Counter(layers.tolist()).items())),
        primary=task.primary,
        score_whole=scores[0],
        score_early=scores[1],
    )


def _facts(result: ExitsResult) -> dict[str, Any]:
    """Return the result as plain values."""
    nested = {
        "calibration": vars(result.calibration),
        "test": None if result.test is None else vars(result.test),
    }
    return {**vars(result), "out": str(result.out), "source": str(result.source), **nested}


def _lineage(config: ExitsConfig, model: TaskModel, found: Calibration) -> dict[str, Any]:
    """Return the model's lineage with the exits; its scores were those without."""
    before = {key: value for key, value in model.lineage.items() if key != "scores"}
    facts = {"calibrated": vars(found), "scores_before": model.lineage.get("scores")}
    return {**before, "exits": {"verb": "exits", **config_to_dict(config), **facts}}
