"""The mean over the real tokens, alone or beside the first one.

Shapes: B batch, L length, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bertwright.card import MethodCard
from bertwright.models.pooling.base import EncoderShape, Pooling, States

__all__ = ["ClsMeanPooling", "MeanPooling", "mean_of_tokens"]


def mean_of_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the real tokens' states: sum over t of m_t h_t, divided by sum of m_t.

    Args:
        hidden: token states, [B, L, D].
        mask: true or 1 for real tokens, [B, L].

    Returns:
        [B, D]; zeros for a row without a real token.
    """
    real = mask.bool().unsqueeze(-1)
    total = hidden.masked_fill(~real, 0.0).sum(dim=1)
    return total / real.sum(dim=1).clamp(min=1).to(hidden.dtype)


class MeanPooling(Pooling):
    """The mean of the tokens' states."""

    card = MethodCard(
        name="mean",
        kind="pool",
        summary="The mean of the states of all real tokens.",
        paper="Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks",
        year=2019,
        citation="Reimers, Gurevych 2019, arXiv:1908.10084",
        equation="v = sum_t m_t h_t / max(sum_t m_t, 1)",
        needs="Nothing.",
        cost="Nothing.",
        expected_effect="The strongest simple vector of an encoder that is not fine-tuned.",
        expected_source="STS average of raw BERT: 61.5, cls 39.0 (SBERT-WK, table 3).",
        when_to_use="For vectors, and for frozen encoders.",
        when_not_to_use="Where one word decides and the rest is noise: see max, attention.",
        siblings="tfidf and sif weigh the tokens; mean-max adds the maximum.",
        departures="None. Special tokens count, as in the paper.",
    )

    def read(self, states: States) -> Tensor:
        """Return [B, D]."""
        return mean_of_tokens(states.last, states.mask)


class ClsMeanPooling(Pooling):
    """The classification token's state and the mean of all real tokens': W = 2D."""

    card = MethodCard(
        name="cls-mean",
        kind="pool",
        summary="The classification token's state, and after it the mean of the tokens' states.",
        paper="How to Fine-Tune BERT for Text Classification? (and what early exits read here)",
        year=2019,
        citation="Sun, Qiu, Xu, Huang 2019, arXiv:1905.05583, who compare cls, mean and max",
        equation="v = [H_K[cls]; mean]",
        needs="Nothing.",
        cost="Vectors twice as wide; D C more weights in a linear head.",
        expected_effect="For the first layers of a fine-tuned model: docs/students.md.",
        expected_source="Measured here; the paper does not join them.",
        when_to_use="For shallow students, where the first token has had little time to gather.",
        when_not_to_use="For stored vectors: twice the memory.",
        siblings="cls and mean are its halves; mean-max has the maximum in the place of cls.",
        departures="None.",
    )

    def __init__(self, shape: EncoderShape, number: int | None = None) -> None:
        super().__init__(shape, number)
        self.width = 2 * shape.width

    def read(self, states: States) -> Tensor:
        """Return [B, 2D]."""
        return torch.cat([self.cls(states), mean_of_tokens(states.last, states.mask)], dim=1)
