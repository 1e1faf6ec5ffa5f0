"""An LSTM or a GRU that reads the classification token's states layer by layer.

Shapes: B batch, D model width, K layers, H width of the recurrent state.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.models.pooling.base import EncoderShape, Pooling, States

__all__ = ["GruPooling", "LstmPooling"]

_HIDDEN = 256


class LstmPooling(Pooling):
    """The last output of an LSTM of `number` units over the states after 1, ... K layers."""

    card = MethodCard(
        name="lstm",
        kind="pool",
        summary="An LSTM reads the classification token's states from the first layer to the last.",
        paper="Utilizing BERT Intermediate Layers for Aspect Based Sentiment Analysis",
        year=2020,
        citation="Song, Wang, Liang, Liu, Jiang 2020, arXiv:2002.04815",
        equation="v = LSTM(H_1[cls], ..., H_K[cls]), its last output",
        needs="Training: at the start it is random.",
        cost="4 H (D + H + 2) parameters, K steps one after the other.",
        expected_effect="In the paper about a point of accuracy over cls on aspect sentiment.",
        expected_source="Song et al. 2020, table 3, quoted from memory.",
        when_to_use="Rarely: where inner layers are known to matter and rows are many.",
        when_not_to_use="With few rows; the differences are of the size of seed noise.",
        siblings="gru is the same with fewer parameters; attention has no order of layers.",
        departures="None.",
    )
    number_is = "units"
    random_at_first = True
    reads_layers = True
    cell: type[nn.LSTM] | type[nn.GRU] = nn.LSTM

    def __init__(self, shape: EncoderShape, number: int | None = None) -> None:
        super().__init__(shape, number)
        self.width = _HIDDEN if number is None else self.in_range(number, 1)
        self.reader = self.cell(shape.width, self.width, batch_first=True)

    def read(self, states: States) -> Tensor:
        """Return the classification token's states after 1, ... K layers, [B, K, D]."""
        return self.stacked_cls(states)

    def learned(self, read: Tensor, mask: Tensor) -> Tensor:
        """Return [B, H]."""
        outputs, _ = self.reader(read)
        return outputs[:, -1]


class GruPooling(LstmPooling):
    """The last output of a GRU of `number` units over the states after 1, ... K layers."""

    card = replace(
        LstmPooling.card,
        name="gru",
        summary="A GRU reads the classification token's states from the first layer to the last.",
        equation="v = GRU(H_1[cls], ..., H_K[cls]), its last output",
        cost="3 H (D + H + 2) parameters, K steps one after the other.",
        expected_source="Song et al. 2020 for the LSTM; none for the GRU.",
        siblings="lstm is the paper's form; attention has no order of layers.",
        departures="A GRU in place of the LSTM.",
    )
    cell = nn.GRU
