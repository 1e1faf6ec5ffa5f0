"""Heads of our own: linear, or an MLP of one to three hidden layers.

Shapes: B batch, D width of the vector, C classes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from bertwright.config import require
from bertwright.errors import ConfigError
from bertwright.registry import Choices

__all__ = ["ACTIVATIONS", "ClassificationHead", "HeadConfig"]

ACTIVATIONS: Choices[type[nn.Module]] = Choices(
    "head activation", {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
)

_INIT_STD = 0.02
_DROPOUT = 0.1


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Which head stands on the pooled vector."""

    head: Literal["stock", "linear", "mlp", "nearest", "trees"] = "stock"
    """stock: as the family's own classifier in transformers; linear; or mlp. What --frozen fits may
    be saved as nearest (neighbours) or trees."""
    head_layers: int = 0
    """Hidden layers of the mlp head, 1 to 3 (0 for the other heads)."""
    head_hidden: int = 128
    """Width of each hidden layer of the mlp head."""
    head_dropout: float | None = None
    """Dropout rate in the head; by default the family's own (0.1 for linear and mlp)."""
    head_activation: Literal["relu", "tanh", "gelu"] = "tanh"
    """Activation of the mlp head's hidden layers."""
    head_lstm: int = 0
    """Width of each direction of an LSTM below a token head; 0: none."""
    head_crf: bool = False
    """Score the tags of a row together, with a linear-chain CRF (tagging only)."""
    head_bags: int = 1
    """Heads whose answers are averaged, each trained on other folds of the rows (with --frozen)."""

    def __post_init__(self) -> None:
        legal = ("stock", "linear", "mlp", "nearest", "trees")
        require(self.head in legal, "head", self.head, "stock, linear or mlp")
        require(self.head_bags >= 1, "head_bags", self.head_bags, "at least 1")
        require(0 <= self.head_layers <= 3, "head_layers", self.head_layers, "0 to 3")
        require(self.head_hidden >= 1, "head_hidden", self.head_hidden, "1 or more")
        if self.head_dropout is not None:
            rate = self.head_dropout
            require(0.0 <= rate < 1.0, "head_dropout", rate, "0 or more and below 1")
        require(self.head_lstm >= 0, "head_lstm", self.head_lstm, "0 or more")
        ACTIVATIONS[self.head_activation]
        if (self.head == "mlp") != (self.head_layers > 0):
            raise ConfigError(
                f"--head {self.head} with --head-layers {self.head_layers} do not fit",
                hint="hidden layers need --head mlp, and --head mlp needs --head-layers 1, 2 or 3",
            )


class ClassificationHead(nn.Module):
    """Dropout and a linear layer, after `head_layers` times (dropout, linear, activation).

    Weights are drawn from N(0, 0.02²), biases are zero.
    """

    def __init__(self, in_features: int, num_outputs: int, config: HeadConfig) -> None:
        """Build the head for pooled vectors of width `in_features` and `num_outputs` classes."""
        super().__init__()
        rate = _DROPOUT if config.head_dropout is None else config.head_dropout
        widths = [in_features] + [config.head_hidden] * config.head_layers
        linears = [nn.Linear(*pair) for pair in itertools.pairwise(widths)]
        self.hidden = nn.ModuleList(linears)
        self.activation = ACTIVATIONS[config.head_activation]()
        self.dropout = nn.Dropout(rate)
        self.out = nn.Linear(widths[-1], num_outputs)
        for linear in (*linears, self.out):
            nn.init.normal_(linear.weight, std=_INIT_STD)
            nn.init.zeros_(linear.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return logits [..., C] from vectors [..., D]: pooled ones [B, D], or those of tokens."""
        for linear in self.hidden:
            pooled = self.activation(linear(self.dropout(pooled)))
        return self.out(self.dropout(pooled))
