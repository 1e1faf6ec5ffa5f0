"""Drop the pieces of a vocabulary that some texts do not use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.config import config_to_dict, require
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.errors import ConfigError, ParityError
from bertwright.evaluate.measure import model_folder
from bertwright.files import folder_size_mb, write_json
from bertwright.methods.prune.vocabulary import (
    VocabularyTrimming,
    VocabularyTrimmingConfig,
    prove_tokens_alike,
    share_of_changed_rows,
)
from bertwright.models.multi import head_folder
from bertwright.models.task_model import TaskModel
from bertwright.models.vocabulary import copy_with_pieces
from bertwright.tasks import Task, find_task
from bertwright.training.evaluation import compute_logits
from bertwright.verbs.common import InputConfig, read_rows, refuse_full

__all__ = ["EXAMPLES", "GROUPS", "TrimConfig", "TrimResult", "trim"]

EXAMPLES = (
    (
        "keep what the training texts use, and see what that does to others",
        "--model runs/small --data train.csv --check-data test.csv --out runs/trimmed",
    ),
    (
        "several files, and the most frequent pieces of the whole vocabulary",
        "--model runs/small --data train.csv --data logs.jsonl --at-least 12000 --out runs/trimmed",
    ),
)
GROUPS = {
    "What you give": ("model", "head", "data", "check_data", "reading"),
    "What stays": ("characters", "at_least"),
    "Output": ("score_rows", "out"),
}
PROOF_FILE = "trim.json"


@dataclass(frozen=True, kw_only=True)
class TrimConfig:
    """Drop the pieces of a model's vocabulary that your texts do not use.

    The texts keep their pieces and their scores, bit for bit, and that is checked before anything
    is written. Trim after training and before int8; a student of a trimmed teacher is trimmed too.
    """

    model: str
    """A run or model folder."""
    head: str | None = None
    """Which head, of a model that has several (bertwright multitask)."""
    data: tuple[str, ...]
    """Texts whose pieces stay: files, folders, globs or Hub datasets; may be given several times.
    Labels are not needed."""
    check_data: str | None = None
    """Other texts: how many of them are split into other pieces afterwards is told."""
    reading: InputConfig = field(default_factory=InputConfig)
    characters: bool = True
    """Keep every piece of a single character or byte, so that a new word is written in more pieces
    and not lost as unknown."""
    at_least: int = 0
    """Keep so many pieces: those that your texts need, filled up from the beginning of the
    vocabulary, where the frequent ones stand. New texts lose less."""
    score_rows: int = 256
    """Rows of --data whose scores are computed by both models and compared."""
    out: str
    """Folder to write: a model, and trim.json with what was checked."""

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("--data is missing", hint="give the texts whose pieces stay")
        require(self.score_rows >= 1, "score_rows", self.score_rows, "at least 1")
        _options(self)


@dataclass(frozen=True, kw_only=True)
class TrimResult:
    """What was trimmed, and what was checked."""

    out: Path
    pieces_before: int
    pieces_after: int
    parameters_before: int
    parameters_after: int
    size_mb_before: float
    size_mb: float
    num_rows: int
    """Features of --data, each split into the same pieces as before."""
    num_tokens: int
    num_scored: int
    """Of them, those whose scores were compared and are equal bit for bit."""
    changed_share: float | None
    """Share of --check-data that is split into other pieces; None without it."""


def trim(config: TrimConfig) -> TrimResult:
    """Write the trimmed model. An existing, non-empty folder is refused.

    Raises:
        UsageError: the model, the data or the folder cannot be used.
        ParityError: a text would have other pieces or scores; nothing was written.
    """
    out = Path(config.out)
    refuse_full(out)
    source = model_folder(head_folder(config.model, config.head))
    model = TaskModel.load(source)
    task = find_task(model.task)
    before = [_encode(place, config, task, model) for place in config.data]
    method = VocabularyTrimming(_options(config))
    kept = method.kept_pieces(model, *before)
    trimmed = copy_with_pieces(model, kept)
    after = [_encode(place, config, task, trimmed) for place in config.data]
    num_tokens = sum(prove_tokens_alike(*pair, kept) for pair in zip(before, after, strict=True))
    num_scored = _prove_scores_alike((model, trimmed), before[0], after[0], config.score_rows)
    changed = None
    if config.check_data is not None:
        whole, fewer = (_encode(config.check_data, config, task, one) for one in (model, trimmed))
        changed = share_of_changed_rows(whole, fewer, kept)
    trimmed.lineage = {**model.lineage, "trim": {"verb": "trim", **config_to_dict(config)}}
    trimmed.save(out)
    words: Any = model.encoder.get_input_embeddings()
    result = TrimResult(
        out=out,
        pieces_before=words.num_embeddings,
        pieces_after=len(kept),
        parameters_before=model.num_parameters,
        parameters_after=trimmed.num_parameters,
        size_mb_before=folder_size_mb(source),
        size_mb=folder_size_mb(out),
        num_rows=sum(map(len, before)),
        num_tokens=num_tokens,
        num_scored=num_scored,
        changed_share=changed,
    )
    write_json(out / PROOF_FILE, {**vars(result), "out": str(out), "data": list(config.data)})
    return result


def _options(config: TrimConfig) -> VocabularyTrimmingConfig:
    return VocabularyTrimmingConfig(characters=config.characters, at_least=config.at_least)


def _encode(place: str, config: TrimConfig, task: Task, model: TaskModel) -> EncodedRows:
    rows = read_rows(place, config.reading, task, need_label=False)
    return tokenise(rows, model.tokenizer, encoder=task.encoder, max_length=model.max_length)


def _prove_scores_alike(
    models: Sequence[TaskModel], before: EncodedRows, after: EncodedRows, most: int
) -> int:
    """Check that some rows have the same outputs; return how many were compared."""
    chosen = np.linspace(0, len(before) - 1, min(most, len(before))).round().astype(int)
    whole, trimmed = (
        compute_logits(model, encoded.select(np.unique(chosen)), precision="fp32")
        for model, encoded in zip(models, (before, after), strict=True)
    )
    for one, other in zip(_arrays(whole), _arrays(trimmed), strict=True):
        if not np.array_equal(one, other):
            raise ParityError(
                f"the trimmed model has other scores, by {np.abs(one - other).max():.2g}"
            )
    return len(np.unique(chosen))


def _arrays(outputs: Any) -> list[np.ndarray]:
    return [outputs] if isinstance(outputs, np.ndarray) else list(outputs)
