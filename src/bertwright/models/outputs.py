"""What a model gives: how many numbers, for a row or for each token, in what units.

Shapes: B batch, C outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bertwright.config import require

__all__ = ["PADDING_LOGIT", "OutputScale", "Outputs"]

PADDING_LOGIT = -1e9
"""Takes the place of a padding token's logit, so that a softmax over tokens gives it nothing."""


@dataclass(frozen=True)
class Outputs:
    """The outputs of a `TaskModel`, as its task asks for them."""

    count: int
    """C; 0 asks for vectors as wide as the encoder and its head make them."""
    kind: Literal["classes", "labels", "numbers", "places", "vectors"] = "classes"
    """Logits of classes of which one is right, of labels each of which may be, numbers, for each
    output, logits of the tokens of which one is right, or vectors of length 1."""
    level: Literal["row", "token"] = "row"
    """One vector a row, or one a token."""
    scaled: bool = False
    """Outputs are in the units of the targets, which the head itself does not see."""

    def __post_init__(self) -> None:
        least = 0 if self.kind == "vectors" else 1
        require(self.count >= least, "outputs", self.count, f"at least {least}")


class OutputScale(nn.Module):
    """Turns standardised outputs into the units of the targets: z spread + centre.

    `spread` and `centre` [C] are set once, before training, and are no parameters.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(count))
        self.register_buffer("spread", torch.ones(count))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    centre: Tensor
    spread: Tensor
    fitted: Tensor

    def fit(self, centre: Tensor, spread: Tensor) -> None:
        """Take the targets' mean and deviation, [C] each; a deviation of 0 counts as 1."""
        self.centre.copy_(centre)
        self.spread.copy_(torch.where(spread > 0, spread, 1.0))
        self.fitted.fill_(True)

    def forward(self, standardised: Tensor) -> Tensor:
        """Return [B, C] in the units of the targets."""
        return standardised * self.spread + self.centre
