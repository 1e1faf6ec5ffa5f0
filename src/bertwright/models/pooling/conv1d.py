"""Two convolutions over the tokens, and the largest value over time.

Shapes: B batch, L length, D model width, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.models.pooling.base import EncoderShape, Pooling, States
from bertwright.models.pooling.max import max_of_tokens

__all__ = ["Conv1dPooling", "masked_conv"]

_KERNEL = 3
_CHANNELS = 256


def masked_conv(hidden: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the convolution over real tokens [B, L, C]; padding counts as zeros, and is zeros.

    Args:
        hidden: [B, L, D]; any finite numbers at padding.
        mask: true or 1 for real tokens, [B, L].
        weight: [C, D, kernel], an odd kernel, so that the length stays.
        bias: [C].
    """
    padding = ~mask.bool().unsqueeze(-1)
    clean = hidden.masked_fill(padding, 0.0).transpose(1, 2)
    found = nn.functional.conv1d(clean, weight, bias, padding=weight.shape[2] // 2).transpose(1, 2)
    return found.masked_fill(padding, 0.0)


class Conv1dPooling(Pooling):
    """Convolution, ReLU, convolution, and the largest value over the tokens; `number` channels."""

    card = MethodCard(
        name="conv1d",
        kind="pool",
        summary="Two learned convolutions of three tokens, and the largest value over time.",
        paper="Convolutional Neural Networks for Sentence Classification",
        year=2014,
        citation="Kim 2014, arXiv:1408.5882 (above static vectors; here above the states)",
        equation="v = max_t Conv2(ReLU(Conv1(m H)))_t; m again between the two",
        needs="Training: at the start it is random.",
        cost="3 number (D + number) parameters.",
        expected_effect="Not known: no published figure isolates it above an encoder.",
        expected_source="The paper has no figure that isolates it.",
        when_to_use="Where phrases decide and the encoder stays frozen.",
        when_not_to_use="With few rows.",
        siblings="max is the same without the convolutions.",
        departures="One kernel width, two layers. Padding is masked before and after each.",
    )
    number_is = "channels"
    random_at_first = True
    reads_tokens = True

    def __init__(self, shape: EncoderShape, number: int | None = None) -> None:
        super().__init__(shape, number)
        self.width = _CHANNELS if number is None else self.in_range(number, 1)
        self.first = nn.Conv1d(shape.width, self.width, _KERNEL)
        self.second = nn.Conv1d(self.width, self.width, _KERNEL)

    def read(self, states: States) -> Tensor:
        """Return the tokens' states, [B, L, D]."""
        return states.last

    def learned(self, read: Tensor, mask: Tensor) -> Tensor:
        """Return [B, C]."""
        inner = self._conv(self.first, read, mask).relu()
        return max_of_tokens(self._conv(self.second, inner, mask), mask)

    @staticmethod
    def _conv(conv: nn.Conv1d, hidden: Tensor, mask: Tensor) -> Tensor:
        assert isinstance(conv.bias, torch.Tensor)
        return masked_conv(hidden, mask, conv.weight, conv.bias)
