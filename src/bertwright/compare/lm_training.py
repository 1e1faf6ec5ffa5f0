"""Training of a language model, and of a classifier on its states.

Shapes: B batch, T pieces, D width, K layers mixed, C classes, N texts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bertwright.compare.contender import ReportProgress
from bertwright.compare.language_models import LanguageModel, PieceVocabulary, padded
from bertwright.data.batching import plan_batches
from bertwright.training.optim import parameter_groups
from bertwright.training.schedules import schedule_factor

__all__ = [
    "Budget",
    "LmClassifier",
    "LmHead",
    "layer_vectors",
    "piece_loss",
    "train_classifier",
    "train_lm",
]

_PREDICT_TOKENS = 8192
_WARMUP_SHARE = 0.05
_WEIGHT_DECAY = 0.01
_MAX_NORM = 1.0
_PARTS = 1_000_000
_BATCHES, _LEAST_TOKENS, _MOST_TOKENS = 50, 256, 2048
Rows = Sequence[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to train."""

    epochs: int
    minutes: float | None = None
    """Ends before the epochs are done if these are over; then the clock decides, not the seed."""
    lr: float
    batch_tokens: int | None = None
    """Pieces of a batch, padding included; none: a fiftieth of all, from 256 to 2048."""

    def tokens_of_a_batch(self, lengths: np.ndarray) -> int:
        """Return the pieces of a batch, for rows of these lengths."""
        if self.batch_tokens is not None:
            return self.batch_tokens
        return int(np.clip(lengths.sum() // _BATCHES, _LEAST_TOKENS, _MOST_TOKENS))


def train_lm(
    model: LanguageModel,
    rows: Rows,
    dev_rows: Rows,
    budget: Budget,
    *,
    seed: int,
    progress: ReportProgress | None = None,
) -> list[float]:
    """Train a language model, and leave it as it was at the epoch of the least loss on dev.

    Args:
        model: is changed.
        rows: the ids of each training text.
        dev_rows: those of dev.
        budget: how long.
        seed: fixes the order.
        progress: told about the work.

    Returns:
        The loss of a piece on dev after each epoch, in nats.
    """
    losses: list[float] = []
    best = deepcopy(model.state_dict())

    def step(batch: np.ndarray) -> Tensor:
        ids, mask = padded([rows[row] for row in batch])
        return model.lm_loss(model(ids, mask), ids, mask)

    for _ in _epochs(model, rows, step, budget, seed, "language model", progress):
        losses.append(piece_loss(model, dev_rows))
        if losses[-1] == min(losses):
            best = deepcopy(model.state_dict())
    model.load_state_dict(best)
    return losses


@torch.inference_mode()
def piece_loss(model: LanguageModel, rows: Rows) -> float:
    """Return the mean loss of a prediction over all rows, in nats; dropout off, all pieces."""
    model.eval()
    total, count = 0.0, 0
    for batch in _in_order(rows):
        ids, mask = padded([rows[row] for row in batch])
        predictions = int(mask.sum()) - len(batch)
        total += float(model.lm_loss(model(ids, mask), ids, mask)) * predictions
        count += predictions
    return total / count


class LmHead(nn.Module):
    """Logits from one vector a layer: gamma sum_k softmax(s)_k v_k, then a linear layer.

    With `last_only` the last layer alone is read.
    """

    def __init__(
        self, widths: Sequence[int], num_classes: int, *, dropout: float, last_only: bool
    ) -> None:
        super().__init__()
        self.last_only = last_only
        self.s = nn.Parameter(torch.zeros(1 if last_only else len(widths)))
        self.gamma = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(widths[-1], num_classes)

    @property
    def shares(self) -> Tensor:
        """The weights of the layers, [K]; their sum is 1."""
        return self.s.softmax(dim=0)

    def forward(self, vectors: Sequence[Tensor]) -> Tensor:
        """Return [B, C] from one [B, D] a layer."""
        chosen = vectors[-1:] if self.last_only else vectors
        mixed = self.gamma * torch.tensordot(self.shares, torch.stack(list(chosen)), dims=1)
        return self.linear(self.dropout(mixed))


class LmClassifier:
    """A language model and a head on it."""

    def __init__(self, vocabulary: PieceVocabulary, model: LanguageModel, head: LmHead) -> None:
        self.vocabulary = vocabulary
        self.model = model.eval()
        self.head = head.eval()

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [N, C], computed in batches of like length."""
        return _row_logits(self.model, self.head, self.vocabulary.encode(texts))

    @property
    def num_bytes(self) -> int:
        """Bytes of weights and pieces; the softmax over pieces is not needed any more."""
        parts = (*self.model.named_parameters(), *self.head.named_parameters())
        weights = sum(weight.nbytes for name, weight in parts if not name.startswith("softmax."))
        return weights + self.vocabulary.num_bytes


@torch.inference_mode()
def _row_logits(model: LanguageModel, head: LmHead, rows: Rows) -> np.ndarray:
    model.eval()
    head.eval()
    logits = np.empty((len(rows), head.linear.out_features), dtype=np.float32)
    for batch in _in_order(rows):
        ids, mask = padded([rows[row] for row in batch])
        logits[batch] = head(model.sentence_vectors(model(ids, mask), mask)).numpy()
    return logits


@torch.no_grad()
def layer_vectors(model: LanguageModel, rows: Rows) -> Tensor:
    """Return the vectors of all layers, [K, N, D]; dropout off."""
    model.eval()
    vectors = torch.empty(len(model.widths), len(rows), model.widths[-1])
    for batch in _in_order(rows):
        ids, mask = padded([rows[row] for row in batch])
        states = model.sentence_vectors(model(ids, mask), mask)
        vectors[:, torch.from_numpy(batch)] = torch.stack(states)
    return vectors


def train_classifier(
    model: LanguageModel,
    head: LmHead,
    rows: Rows,
    labels: np.ndarray,
    dev_rows: Rows,
    dev_labels: np.ndarray,
    budget: Budget,
    *,
    tune_model: bool,
    lm_weight: float,
    seed: int,
    progress: ReportProgress | None = None,
) -> list[float]:
    """Train the head, and the model under it if asked; keep the epoch of the best dev accuracy.

    Args:
        model: is changed if `tune_model`; otherwise its vectors are computed once.
        head: is changed.
        rows: the ids of each training text.
        labels: int64 [N].
        dev_rows: those of dev.
        dev_labels: theirs.
        budget: how long.
        tune_model: whether the model learns too.
        lm_weight: of the language model's own loss beside the classes', if the model learns.
        seed: fixes the order.
        progress: told about the work.

    Returns:
        The accuracy on dev after each epoch.
    """
    trained = nn.ModuleList([model, head]) if tune_model else head
    targets = torch.from_numpy(labels)
    still = None if tune_model else (layer_vectors(model, rows), layer_vectors(model, dev_rows))

    def step(batch: np.ndarray) -> Tensor:
        if still is not None:
            return cross_entropy(head(list(still[0][:, torch.from_numpy(batch)])), targets[batch])
        ids, mask = padded([rows[row] for row in batch])
        states = model(ids, mask)
        loss = cross_entropy(head(model.sentence_vectors(states, mask)), targets[batch])
        return loss + lm_weight * model.lm_loss(states, ids, mask) if lm_weight else loss

    @torch.inference_mode()
    def dev_logits() -> np.ndarray:
        if still is None:
            return _row_logits(model, head, dev_rows)
        return head.eval()(list(still[1])).numpy()

    scores: list[float] = []
    best = deepcopy(trained.state_dict())
    for _ in _epochs(trained, rows, step, budget, seed, "classifier", progress):
        scores.append(float((dev_logits().argmax(axis=1) == dev_labels).mean()))
        if scores[-1] > max(scores[:-1], default=-1.0):
            best = deepcopy(trained.state_dict())
    trained.load_state_dict(best)
    return scores


def _epochs(
    trained: nn.Module,
    rows: Rows,
    step: Callable[[np.ndarray], Tensor],
    budget: Budget,
    seed: int,
    what: str,
    progress: ReportProgress | None,
) -> Iterator[int]:
    """Train by AdamW, the rate falling linearly to 0 over the budget; yield after each epoch."""
    groups = parameter_groups([trained], lr=budget.lr, weight_decay=_WEIGHT_DECAY)
    optimizer = torch.optim.AdamW(groups, fused=True)
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    batch_tokens = budget.tokens_of_a_batch(lengths)
    began, done = time.monotonic(), 0.0
    for epoch in range(budget.epochs):
        trained.train()
        batches = plan_batches(
            lengths, batch_tokens=batch_tokens, seed=seed, epoch=epoch, pad_multiple=1
        )
        for position, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = budget.lr * _rate_factor(done)
            optimizer.zero_grad()
            step(batch).backward()
            nn.utils.clip_grad_norm_(trained.parameters(), _MAX_NORM)
            optimizer.step()
            done = (epoch + (position + 1) / len(batches)) / budget.epochs
            if budget.minutes is not None:
                done = max(done, (time.monotonic() - began) / (60 * budget.minutes))
            if progress is not None:
                progress(what, min(done, 1.0))
            if done >= 1:
                break
        yield epoch
        if done >= 1:
            return


def _rate_factor(done: float) -> float:
    """Return the share of the peak rate once this share of the work is done."""
    return schedule_factor(round(_PARTS * done), _PARTS, round(_PARTS * _WARMUP_SHARE), "linear")


def _in_order(rows: Rows) -> list[np.ndarray]:
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    return plan_batches(
        lengths, batch_tokens=_PREDICT_TOKENS, seed=0, epoch=0, shuffle=False, pad_multiple=1
    )
