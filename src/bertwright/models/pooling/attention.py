"""Attention over the layers. Shapes: B batch, D model width, K layers, W width of the vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.models.pooling.base import EncoderShape, Pooling, States

__all__ = ["AttentionPooling", "attend_layers"]


def attend_layers(stacked: Tensor, query: Tensor) -> Tensor:
    """Return the mean of the layers, weighted by the softmax of their products with the query.

    Args:
        stacked: [B, K, D].
        query: [D]; with zeros it is the plain mean.

    Returns:
        [B, D].
    """
    scores = stacked @ query * stacked.shape[-1] ** -0.5
    return (scores.softmax(dim=1).unsqueeze(1) @ stacked).squeeze(1)


class AttentionPooling(Pooling):
    """A learned query attends to the classification token's states after 1, ... K layers."""

    card = MethodCard(
        name="attention",
        kind="pool",
        summary="A learned query weighs the layers of the classification token, text by text.",
        paper="Utilizing BERT Intermediate Layers for Aspect Based Sentiment Analysis",
        year=2020,
        citation="Song, Wang, Liang, Liu, Jiang 2020, arXiv:2002.04815",
        equation="a = softmax(Z q / sqrt(D)), v = M sum_k a_k Z_k, Z_k = H_k[cls]; q = 0 at first",
        needs="Training: at the start it is a random map of the mean of the layers.",
        cost="D (W + 1) parameters.",
        expected_effect="In the paper about a point of accuracy over cls on aspect sentiment.",
        expected_source="Song et al. 2020, table 3, quoted from memory.",
        when_to_use="On frozen states, where the layer that holds the answer depends on the text.",
        when_not_to_use="With few rows.",
        siblings="weighted-layers has the same shares for all texts; lstm reads them in order.",
        departures="Scores are divided by sqrt(D); q starts at 0 and not at random.",
    )
    number_is = "width"
    random_at_first = True
    reads_layers = True

    def __init__(self, shape: EncoderShape, number: int | None = None) -> None:
        super().__init__(shape, number)
        self.width = shape.width if number is None else self.in_range(number, 1)
        self.query = nn.Parameter(torch.zeros(shape.width))
        self.map = nn.Linear(shape.width, self.width, bias=False)

    def read(self, states: States) -> Tensor:
        """Return the classification token's states after 1, ... K layers, [B, K, D]."""
        return self.stacked_cls(states)

    def learned(self, read: Tensor, mask: Tensor) -> Tensor:
        """Return [B, W]."""
        return self.map(attend_layers(read, self.query))
