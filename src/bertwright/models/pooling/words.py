"""Means of tokens weighted by how rare they are: TF-IDF and SIF.

Shapes: B batch, L length, D model width, V vocabulary, N texts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bertwright.card import MethodCard
from bertwright.models.pooling.base import EncoderShape, Pooling, States

__all__ = [
    "SifPooling",
    "TfidfPooling",
    "WordWeights",
    "idf_weights",
    "main_direction",
    "sif_weights",
    "weighted_mean",
    "weightless_ids",
]

SIF_A = 1e-3
_MOST_TEXTS = 2000


def weightless_ids(tokenizer: PreTrainedTokenizerBase | None) -> set[int]:
    """Return the special tokens, but for the one of unknown words: that one is a word."""
    if tokenizer is None:
        return set()
    unknown = tokenizer.unk_token_id
    return {int(token) for token in tokenizer.all_special_ids if token != unknown}


def weighted_mean(hidden: Tensor, weights: Tensor) -> Tensor:
    """Return sum over t of w_t h_t, divided by the sum of w_t.

    Args:
        hidden: token states, [B, L, D].
        weights: 0 or more, 0 at padding, [B, L].

    Returns:
        [B, D]; zeros for a row whose weights are all 0.
    """
    counted = weights > 0
    weights = weights.to(hidden.dtype).unsqueeze(-1)
    total = (weights * hidden.masked_fill(~counted.unsqueeze(-1), 0.0)).sum(dim=1)
    sums = weights.sum(dim=1)
    return total / torch.where(sums > 0, sums, torch.ones_like(sums))


def idf_weights(texts: Iterable[np.ndarray], vocab_size: int) -> np.ndarray:
    """Return log((1 + N) / (1 + df)) + 1 of each token id, float32 [V].

    Args:
        texts: the token ids of each of N texts.
        vocab_size: V.
    """
    found, num_texts = np.zeros(vocab_size), 0
    for ids in texts:
        found[np.unique(ids)] += 1
        num_texts += 1
    return (np.log((1 + num_texts) / (1 + found)) + 1).astype(np.float32)


def sif_weights(texts: Iterable[np.ndarray], vocab_size: int, a: float = SIF_A) -> np.ndarray:
    """Return a / (a + p) of each token id, p its share of all tokens, float32 [V]."""
    counts = np.zeros(vocab_size)
    for ids in texts:
        np.add.at(counts, ids, 1)
    shares = counts / max(counts.sum(), 1)
    return (a / (a + shares)).astype(np.float32)


def main_direction(vectors: np.ndarray) -> np.ndarray:
    """Return the first right singular vector of vectors [N, D], float32 [D]; zeros of none."""
    if not len(vectors) or not np.abs(vectors).max() > 0:
        return np.zeros(vectors.shape[-1], np.float32)
    square = vectors.astype(np.float64).T @ vectors.astype(np.float64)
    return np.linalg.eigh(square)[1][:, -1].astype(np.float32)


class WordWeights(Pooling):
    """A mean of the tokens' states, weighted by token."""

    reads_ids = True
    weights: Tensor
    """[V]; ones until they are fitted, so that it is the mean."""

    def __init__(self, shape: EncoderShape, number: int | None = None) -> None:
        super().__init__(shape, number)
        self.register_buffer("weights", torch.ones(shape.vocab_size))

    @abstractmethod
    def weigh(self, texts: Iterable[np.ndarray]) -> np.ndarray:
        """Return the weight of each token id, [V], from the token ids of texts."""

    def fit(
        self,
        texts: Sequence[np.ndarray],
        special_ids: Collection[int],
        vectors_of: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        """Set all that comes from the training texts.

        Args:
            texts: the token ids of each text.
            special_ids: tokens that weigh nothing.
            vectors_of: from the positions of some texts to their vectors by this pooling, [n, D].
        """
        self.fit_weights(texts, special_ids)

    def fit_weights(self, texts: Iterable[np.ndarray], special_ids: Collection[int]) -> None:
        """Set the weights from the training texts; special tokens weigh nothing.

        Args:
            texts: the token ids of each text, specials among them or not.
            special_ids: of the tokenizer.
        """
        special = np.asarray(sorted(special_ids), dtype=np.int64)
        weights = self.weigh(ids[~np.isin(ids, special)] for ids in texts)
        weights[special] = 0.0
        self.weights.copy_(torch.from_numpy(weights))

    def weighted(self, states: States) -> Tensor:
        """Return the weighted mean [B, D]."""
        weights = self.weights[states.ids].masked_fill(~states.mask, 0.0)
        return weighted_mean(states.last, weights)


class TfidfPooling(WordWeights):
    """A mean of the tokens' states, weighted by the token's inverse document frequency."""

    card = MethodCard(
        name="tfidf",
        kind="pool",
        summary="The mean of the tokens, each weighted by how few training texts have it.",
        paper="Sentence-BERT's library (the WordWeights module)",
        year=2019,
        citation="Reimers, Gurevych 2019, arXiv:1908.10084",
        equation="v = sum_t idf(t) h_t / sum_t idf(t), idf = log((1 + N) / (1 + df)) + 1",
        needs="Training texts; no labels.",
        cost="One number a vocabulary entry.",
        expected_effect=(
            "STS12 to 16 with MiniLM: of static vectors 66.8, their mean 52.1; of states 76.6 "
            "against 76.2."
        ),
        expected_source="Measured here: docs/poolings.md.",
        when_to_use="On encoders whose states are near word vectors.",
        when_not_to_use="Fine-tuned: attention can weigh words by itself.",
        siblings="sif weighs by frequency and removes a common direction; mean weighs all alike.",
        departures=(
            "Weights are of word pieces, so that the graph has all it needs; unseen ones have the "
            "highest. Special tokens weigh 0; a text of nothing else is zeros."
        ),
    )

    def weigh(self, texts: Iterable[np.ndarray]) -> np.ndarray:
        """Return the idf of each token id."""
        return idf_weights(texts, self.shape.vocab_size)

    def read(self, states: States) -> Tensor:
        """Return [B, D]."""
        return self.weighted(states)


class SifPooling(WordWeights):
    """A mean weighted by a / (a + frequency), less its part in the training texts' direction."""

    card = MethodCard(
        name="sif",
        kind="pool",
        summary="Smooth inverse frequency weights, then the common direction is removed.",
        paper="A Simple but Tough-to-Beat Baseline for Sentence Embeddings",
        year=2017,
        citation="Arora, Liang, Ma 2017, ICLR",
        equation=(
            "s = sum_t w_t h_t / sum_t w_t, w = a / (a + p(t)), a = 0.001;\n"
            "v = s - u (u . s), u the first right singular vector of the training texts' s"
        ),
        needs="Training texts; no labels. The direction is that of the encoder as it was then.",
        cost="One number a vocabulary entry, D more; one pass over at most 2,000 texts.",
        expected_effect="On static vectors 10 to 30% better STS than the plain sum.",
        expected_source="Arora et al. 2017, abstract and table 1.",
        when_to_use="On raw encoders whose vectors all point one way, and on static vectors.",
        when_not_to_use="Fine-tuned: the direction is fitted before the training.",
        siblings="tfidf weighs by document frequency and removes nothing.",
        departures="Word pieces and not words; divided by the sum of weights, not the length.",
    )
    direction: Tensor
    """[D], of length 1; zeros until it is fitted."""

    def __init__(self, shape: EncoderShape, number: int | None = None) -> None:
        super().__init__(shape, number)
        self.register_buffer("direction", torch.zeros(shape.width))

    def fit(
        self,
        texts: Sequence[np.ndarray],
        special_ids: Collection[int],
        vectors_of: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        """Set weights and direction; the latter from at most 2,000 texts."""
        super().fit(texts, special_ids, vectors_of)
        self.direction.zero_()
        drawn = np.arange(len(texts))
        if len(texts) > _MOST_TEXTS:
            rng = np.random.default_rng(0)
            drawn = np.sort(rng.choice(len(texts), _MOST_TEXTS, replace=False))
        self.direction.copy_(torch.from_numpy(main_direction(vectors_of(drawn))))

    def weigh(self, texts: Iterable[np.ndarray]) -> np.ndarray:
        """Return a / (a + frequency) of each token id."""
        return sif_weights(texts, self.shape.vocab_size)

    def read(self, states: States) -> Tensor:
        """Return [B, D]."""
        pooled = self.weighted(states)
        direction = self.direction.to(pooled.dtype)
        return pooled - (pooled @ direction).unsqueeze(1) * direction
