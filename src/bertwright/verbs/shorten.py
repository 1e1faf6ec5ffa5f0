"""Let a saved model leave tokens out on the way, as many as a promise allows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bertwright.config import config_to_dict
from bertwright.data.labels import LabelSet
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.errors import ConfigError
from bertwright.evaluate.measure import model_folder
from bertwright.files import write_json
from bertwright.methods.exit.token_dropping import (
    DropCalibration,
    TokenDropping,
    TokenDroppingConfig,
)
from bertwright.models.multi import head_folder
from bertwright.models.task_model import TaskModel
from bertwright.models.token_drop import TokenDrop
from bertwright.tasks import Task
from bertwright.training.evaluation import compute_logits
from bertwright.verbs.common import DataConfig, read_rows, refuse_full, saved_task

__all__ = ["EXAMPLES", "GROUPS", "ShortenConfig", "ShortenResult", "ShortenTest", "shorten"]

EXAMPLES = (
    (
        "as many tokens as keep 99 of 100 answers, and what that does on other rows",
        "--model runs/reviews --calibration dev.csv --test-data test.csv --out runs/shorter",
    ),
    (
        "half of the tokens after two layers, any task",
        "--model runs/names --layer 2 --share 0.5 --test-data test.csv --out runs/shorter",
    ),
)
GROUPS = {
    "What you give": ("model", "head", "calibration", "test_data", "reading"),
    "What is left out": ("layer", "share", "least"),
    "The promise": ("agreement", "confidence"),
    "Output": ("out",),
}
SHORTEN_FILE = "shorten.json"


@dataclass(frozen=True, kw_only=True)
class ShortenConfig:
    """Let a saved model leave out, in its upper layers, tokens that receive little attention.

    For long texts. Nothing is trained; how many tokens go on is found on rows so that a promised
    share of texts gets the answer of the whole model, or given. Every engine can run the result.
    """

    model: str
    """A run or model folder."""
    head: str | None = None
    """Which head, of a model that has several (bertwright multitask)."""
    calibration: str | None = None
    """Texts like those the model will meet; the promise is made on these. Labels are not needed.
    For classifiers."""
    test_data: str | None = None
    """Labelled rows, others: what was promised, and both scores, are measured on them."""
    reading: DataConfig = field(default_factory=DataConfig)
    layer: int | None = None
    """After how many layers tokens are left out. Without it, after a third of them."""
    share: float | None = None
    """Share of a text's tokens that go on, in place of a promise."""
    least: int = 16
    """So many tokens go on in any case."""
    agreement: float = 0.99
    """Promised share of texts that are answered as by the whole model."""
    confidence: float = 0.95
    """How sure the promise is: 0.95 says that at most 1 calibration file in 20 misleads it."""
    out: str
    """Folder to write: a model, and shorten.json with what is promised."""

    def __post_init__(self) -> None:
        _method_config(self)
        if (self.share is None) == (self.calibration is None):
            raise ConfigError(
                "give either --share, how many tokens go on, or --calibration, rows to find it on"
            )


@dataclass(frozen=True, kw_only=True)
class ShortenTest:
    """What leaving tokens out does on rows that nothing was chosen by."""

    num_rows: int
    agreement: float | None
    """Share of rows answered as by the whole model; None but for classifiers."""
    tokens_left: float
    """Share of the tokens that went on, of all rows together."""
    primary: str
    """Name of the metric."""
    score_whole: float
    score_shorter: float


@dataclass(frozen=True, kw_only=True)
class ShortenResult:
    """What is left out, what is promised of it, and what it does."""

    out: Path
    source: Path
    """The model as it was."""
    num_layers: int
    drop: TokenDrop | None
    """None: the promise could not be made, and all tokens go on."""
    promised_agreement: float
    confidence: float
    calibration: DropCalibration | None
    """None where the share was given."""
    test: ShortenTest | None
    """None without --test-data."""


def shorten(config: ShortenConfig) -> ShortenResult:
    """Write the model that leaves tokens out. An existing, non-empty folder is refused.

    Raises:
        UsageError: the model, the data or the folder cannot be used, or the family cannot be run in
            parts.
    """
    out = Path(config.out)
    refuse_full(out)
    source = model_folder(head_folder(config.model, config.head))
    model, method = TaskModel.load(source), TokenDropping(_method_config(config))
    method.check(model)
    model.token_drop = None  # what is compared with is the whole model
    task, labels = saved_task(str(source))
    rows = tests = None
    if config.calibration is not None:
        rows = _encode(config.calibration, config, task, model, split="validation")
    if config.test_data is not None:
        tests = _encode(config.test_data, config, task, model, split="test", labels=labels)
    shorter, found = method.apply(model, rows)
    result = ShortenResult(
        out=out,
        source=source,
        num_layers=model.roles.num_layers,
        drop=shorter.token_drop,
        promised_agreement=config.agreement,
        confidence=config.confidence,
        calibration=found,
        test=None if tests is None else _test(model, shorter, tests, task),
    )
    before = {key: value for key, value in model.lineage.items() if key != "scores"}
    facts = {"scores_before": model.lineage.get("scores")}
    shorter.lineage = {**before, "shorten": {"verb": "shorten", **config_to_dict(config), **facts}}
    shorter.save(out)
    write_json(out / SHORTEN_FILE, _facts(result))
    return result


def _method_config(config: ShortenConfig) -> TokenDroppingConfig:
    return TokenDroppingConfig(
        layer=config.layer,
        share=config.share,
        least=config.least,
        agreement=config.agreement,
        confidence=config.confidence,
    )


def _encode(
    place: str,
    config: ShortenConfig,
    task: Task,
    model: TaskModel,
    *,
    split: str,
    labels: LabelSet | None = None,
) -> EncodedRows:
    judged = split == "test"
    rows = read_rows(place, config.reading, task, labels=labels, need_label=judged, split=split)
    return tokenise(rows, model.tokenizer, encoder=task.encoder, max_length=model.max_length)


def _test(model: TaskModel, shorter: TaskModel, rows: EncodedRows, task: Task) -> ShortenTest:
    whole, fewer = (compute_logits(one, rows, precision="fp32") for one in (model, shorter))
    task = task.judging(rows)
    scores = [
        task.metrics(task.judge(outputs, rows, model.decoding))[task.primary]
        for outputs in (whole, fewer)
    ]
    agreement = None
    if task.spec.partition(":")[0] == "classify":
        agreement = float(np.mean(np.argmax(whole, axis=1) == np.argmax(fewer, axis=1)))
    return ShortenTest(
        num_rows=len(rows),
        agreement=agreement,
        tokens_left=_tokens_left(shorter.token_drop, rows),
        primary=task.primary,
        score_whole=scores[0],
        score_shorter=scores[1],
    )


def _tokens_left(drop: TokenDrop | None, rows: EncodedRows) -> float:
    lengths = torch.as_tensor(np.asarray(rows.lengths))
    return 1.0 if drop is None else float(drop.count(lengths).sum() / lengths.sum())


def _facts(result: ShortenResult) -> dict[str, Any]:
    """Return the result as plain values."""
    nested = {
        name: None if value is None else vars(value)
        for name, value in vars(result).items()
        if name in ("drop", "calibration", "test")
    }
    return {**vars(result), "out": str(result.out), "source": str(result.source), **nested}
