"""Contenders that first learn to predict the pieces of the training texts, then their classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from bertwright.card import MethodCard
from bertwright.compare.contender import Contender, LabelledTexts, ReportProgress
from bertwright.compare.language_models import (
    BiLstmLanguageModel,
    CausalLanguageModel,
    LanguageModel,
    PieceVocabulary,
)
from bertwright.compare.lm_training import (
    Budget,
    LmClassifier,
    LmHead,
    train_classifier,
    train_lm,
)
from bertwright.config import require
from bertwright.errors import ConfigError

__all__ = ["BiLstmLmContender", "CausalLmContender", "LmContender"]

_NUM_NEGATIVES = 512


@dataclass(frozen=True, kw_only=True)
class LmContender(Contender):
    """What both have in common: a language model of the training texts, then a classifier on it."""

    needs_tokenizer = True
    last_only: ClassVar[bool]
    """Whether the classifier reads the last layer alone when the model learns with it."""

    tokenizer: Any = field(default=None, repr=False, compare=False)
    """A fast tokenizer of `transformers`; no option of the command line, the caller gives it."""
    tune: Literal["whole", "frozen"] = "whole"
    """Whether the language model learns with the classifier, or only gives it its states."""
    width: int = 128
    """D of an embedded piece."""
    layers: int = 2
    """Of the language model."""
    max_pieces: int = 128
    """What of a text is read."""
    dropout: float = 0.3
    """Of the language model and the classifier."""
    unknown: float = 0.1
    """Share of pieces that are read as the unknown one, in training."""
    lm_epochs: int = 6
    """The best on dev is kept; 0: no language model is learned."""
    lm_minutes: float | None = None
    """Ends the language model's training early; then the same seed may give another one."""
    lm_lr: float = 2e-3
    """Peak learning rate of the language model."""
    epochs: int = 10
    """Of the classifier; the best on dev is kept."""
    lr: float = 1e-3
    """Peak learning rate of the classifier."""
    lm_weight: float = 0.0
    """Of the language model's loss beside the classifier's, where the model learns too."""

    def __post_init__(self) -> None:
        for name, least in (("width", 2), ("layers", 1), ("max_pieces", 3), ("epochs", 1)):
            require(getattr(self, name) >= least, name, getattr(self, name), f"at least {least}")
        for name in ("dropout", "unknown"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "from 0 to below 1")
        for name in ("lm_epochs", "lm_weight"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("lm_lr", "lr"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        minutes = self.lm_minutes
        require(minutes is None or minutes > 0, "lm_minutes", minutes, "above 0")
        if isinstance(self.tokenizer, str):
            raise ConfigError(f"tokenizer={self.tokenizer}: is not an option of {self.card.name}")

    @abstractmethod
    def build(self, counts: Tensor) -> LanguageModel:
        """Return a new language model for pieces with these counts, [V]."""

    def fit(
        self,
        train: LabelledTexts,
        dev: LabelledTexts,
        *,
        num_classes: int,
        seed: int,
        progress: ReportProgress | None = None,
    ) -> LmClassifier:
        """Learn the texts, then the classes; epochs of both are chosen on dev.

        Raises:
            ConfigError: no tokenizer was given.
        """
        if self.tokenizer is None:
            raise ConfigError(
                f"{self.card.name} needs a tokenizer",
                hint="dataclasses.replace(contender, tokenizer=...)",
            )
        vocabulary = PieceVocabulary(self.tokenizer, train.texts, max_pieces=self.max_pieces)
        rows, dev_rows = vocabulary.encode(train.texts), vocabulary.encode(dev.texts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.build(_piece_counts(rows, len(vocabulary)))
            if self.lm_epochs:
                lm_budget = Budget(epochs=self.lm_epochs, minutes=self.lm_minutes, lr=self.lm_lr)
                train_lm(model, rows, dev_rows, lm_budget, seed=seed, progress=progress)
            whole = self.tune == "whole"
            head = LmHead(
                model.widths,
                num_classes,
                dropout=self.dropout,
                last_only=whole and self.last_only,
            )
            train_classifier(
                model,
                head,
                rows,
                train.labels,
                dev_rows,
                dev.labels,
                Budget(epochs=self.epochs, lr=self.lr),
                tune_model=whole,
                lm_weight=self.lm_weight,
                seed=seed,
                progress=progress,
            )
        return LmClassifier(vocabulary, model, head)


def _piece_counts(rows: Sequence[np.ndarray], num_pieces: int) -> Tensor:
    counts = np.bincount(np.concatenate(rows), minlength=num_pieces)
    return torch.from_numpy(counts).to(torch.float32)


@dataclass(frozen=True, kw_only=True)
class BiLstmLmContender(LmContender):
    """ELMo's idea at a size that two processor cores train in minutes."""

    card: ClassVar[MethodCard] = MethodCard(
        name="bilstm-lm",
        kind="compare",
        summary="ELMo's idea: LSTM language models of both directions, a learned mix of layers.",
        paper="Deep contextualized word representations",
        year=2018,
        citation="Peters et al. 2018, arXiv:1802.05365",
        equation="minimise -1/2 (ln P(x_t | x_<t) + ln P(x_t | x_>t)), mean over pieces\n"
        "v = mean over pieces of gamma sum_j softmax(s)_j h_j, j = 0..2; P(c) = softmax(W v + b)_c",
        needs="A tokenizer; the training texts, first without their labels; dev rows for epochs.",
        cost="Minutes on a CPU for 10,000 short texts: two LSTM stacks, one step a piece.",
        expected_effect="With such few texts near a bag of n-grams; ELMo itself had 1B words.",
        expected_source="A guess from the size of the corpus; bertwright compare measures it.",
        when_to_use="To see what pre-training is worth without its large corpus.",
        when_not_to_use="Where a pretrained encoder is at hand.",
        siblings="causal-lm reads with attention, from the left alone.",
        departures="The model learns with the classifier (tune=frozen is the paper's way); pieces "
        "in place of characters; the softmax is tied to the embedding and sampled in training; "
        "some pieces are read as unknown; the vector of a text is a mean.",
    )
    last_only = False

    lr: float = 3e-3
    """Peak learning rate of the classifier."""

    def build(self, counts: Tensor) -> BiLstmLanguageModel:
        """Return two stacks of LSTMs."""
        return BiLstmLanguageModel(
            counts,
            self.width,
            num_layers=self.layers,
            dropout=self.dropout,
            unknown=self.unknown,
            num_negatives=_NUM_NEGATIVES,
        )


@dataclass(frozen=True, kw_only=True)
class CausalLmContender(LmContender):
    """GPT's idea at a size that two processor cores train in minutes."""

    card: ClassVar[MethodCard] = replace(
        BiLstmLmContender.card,
        name="causal-lm",
        summary="GPT's idea: a transformer language model that looks left, then fine-tuned.",
        paper="Improving Language Understanding by Generative Pre-Training",
        citation="Radford, Narasimhan, Salimans, Sutskever 2018",
        equation="minimise -ln P(x_t | x_<t), mean over pieces; then\n"
        "minimise -ln softmax(W h_end + b)_c + lm_weight (-ln P(x_t | x_<t)), lm_weight 0.5",
        cost="Minutes on a CPU for 10,000 short texts: a small transformer.",
        expected_effect="With such few texts near a bag of n-grams; GPT itself had 1B words.",
        siblings="bilstm-lm reads from both sides.",
        departures="Pre-norm; pieces of the given tokenizer that the texts have; the softmax is "
        "sampled in training; some pieces are read as unknown; with tune=frozen a learned mix of "
        "all layers is read in place of the last.",
    )
    last_only = True

    width: int = 128
    """D of an embedded piece, and of all layers."""
    layers: int = 4
    """Of the language model."""
    heads: int = 4
    """Attention heads of a layer; a divisor of the width."""
    dropout: float = 0.1
    """Of the language model and the classifier."""
    lm_weight: float = 0.5
    """Of the language model's loss beside the classifier's, where the model learns too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.heads >= 1 and self.width % self.heads == 0
        require(fits, "heads", self.heads, f"a divisor of the width {self.width}")

    def build(self, counts: Tensor) -> CausalLanguageModel:
        """Return a transformer."""
        return CausalLanguageModel(
            counts,
            self.width,
            max_pieces=self.max_pieces,
            num_layers=self.layers,
            num_heads=self.heads,
            dropout=self.dropout,
            unknown=self.unknown,
            num_negatives=_NUM_NEGATIVES,
        )
