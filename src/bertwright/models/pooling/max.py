"""The largest of each coordinate. Shapes: B batch, L length, D model width."""

from __future__ import annotations

import torch
from torch import Tensor

from bertwright.card import MethodCard
from bertwright.models.pooling.base import EncoderShape, Pooling, States
from bertwright.models.pooling.mean import mean_of_tokens

__all__ = ["MaxPooling", "MeanMaxPooling", "max_of_tokens"]


def max_of_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the largest value of each coordinate over the real tokens.

    Args:
        hidden: token states, [B, L, D]; not changed.
        mask: true or 1 for real tokens, [B, L].

    Returns:
        [B, D]; zeros for a row without a real token.
    """
    real = mask.bool()
    lowest = torch.finfo(hidden.dtype).min
    highest = hidden.masked_fill(~real.unsqueeze(-1), lowest).amax(dim=1)
    return highest.masked_fill(~real.any(dim=1, keepdim=True), 0.0)


class MaxPooling(Pooling):
    """The largest value of each coordinate over the tokens."""

    card = MethodCard(
        name="max",
        kind="pool",
        summary="The largest value of each coordinate over all real tokens.",
        paper="Supervised Learning of Universal Sentence Representations (InferSent)",
        year=2017,
        citation="Conneau, Kiela, Schwenk, Barrault, Bordes 2017, arXiv:1705.02364",
        equation="v_j = max over t with m_t = 1 of h_tj",
        needs="Nothing.",
        cost="Nothing.",
        expected_effect="Trained for entailment near the mean, for similarity far below it.",
        expected_source=(
            "Sentence-BERT, table 6, quoted from memory: NLI 80.8 mean, 79.1 max; STSb 87.4, 69.9."
        ),
        when_to_use="Where single words decide.",
        when_not_to_use="For vectors of long texts: every coordinate then finds a large value.",
        siblings="mean-max puts it beside the mean.",
        departures="None.",
    )

    def read(self, states: States) -> Tensor:
        """Return [B, D]."""
        return max_of_tokens(states.last, states.mask)


class MeanMaxPooling(Pooling):
    """The mean and the largest value of each coordinate, one after the other: W = 2D."""

    card = MethodCard(
        name="mean-max",
        kind="pool",
        summary="The mean of the tokens' states, and after it the largest of each coordinate.",
        paper="Universal Language Model Fine-tuning for Text Classification (concat pooling)",
        year=2018,
        citation="Howard, Ruder 2018, arXiv:1801.06146",
        equation="v = [mean; max]",
        needs="Nothing.",
        cost="Vectors twice as wide; D C more weights in a linear head.",
        expected_effect="Not known: no published figure isolates it for a transformer.",
        expected_source="None; the paper has it above an LSTM, with the last state.",
        when_to_use="For classifiers on frozen states, where width is cheap.",
        when_not_to_use="For stored vectors: twice the memory.",
        siblings="mean; max. The paper adds the last state, which is cls here.",
        departures="Without the last state.",
    )

    def __init__(self, shape: EncoderShape, number: int | None = None) -> None:
        super().__init__(shape, number)
        self.width = 2 * shape.width

    def read(self, states: States) -> Tensor:
        """Return [B, 2D]."""
        parts = [pool(states.last, states.mask) for pool in (mean_of_tokens, max_of_tokens)]
        return torch.cat(parts, dim=1)
