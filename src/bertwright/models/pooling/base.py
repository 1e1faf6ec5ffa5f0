"""What a pooling is: from the states of an encoder to one vector a text.

Shapes: B batch, L length, D model width, K layers, W width of the pooled vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.errors import ConfigError

__all__ = ["EncoderShape", "Pooling", "States", "state_of_first", "state_of_last"]


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """What a pooling has to know of the encoder below it."""

    width: int
    """D."""
    num_layers: int
    """K."""
    num_heads: int
    vocab_size: int
    cls_at_end: bool = False
    """The classification token is the last one (XLNet)."""


@dataclass(frozen=True)
class States:
    """The states of a batch that an encoder gave."""

    layers: tuple[Tensor, ...]
    """After 0, 1, ... K layers, K+1 of [B, L, D]; the last one alone where no other was asked
    for."""
    mask: Tensor
    """True for real tokens, bool [B, L]."""
    ids: Tensor
    """Of the tokens, int64 [B, L]."""
    from_start: bool = False
    """Every row is known to begin with a real token: a graph may then take place 0."""

    @property
    def last(self) -> Tensor:
        """What the encoder returned, [B, L, D]."""
        return self.layers[-1]


def state_of_first(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the state of each row's first real token, whichever side the padding is on.

    Args:
        hidden: [B, L, D].
        mask: true or 1 for real tokens, [B, L].

    Returns:
        [B, D]; zeros for a row without a real token.
    """
    return _take(hidden, mask.int().argmax(dim=1), mask.bool())


def state_of_last(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the state of each row's last real token, [B, D]; arguments as `state_of_first`."""
    places = torch.arange(mask.shape[1], device=mask.device)
    return _take(hidden, (mask.int() * places).argmax(dim=1), mask.bool())


def _take(hidden: Tensor, places: Tensor, mask: Tensor) -> Tensor:
    index = places[:, None, None].expand(-1, 1, hidden.shape[-1])
    taken = hidden.gather(1, index).squeeze(1)
    return taken.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)


class Pooling(nn.Module, ABC):
    """One way to make one vector [B, W] of a text's states.

    A text's vector does not depend on padding or on the other texts of its batch. Without a real
    token it is zeros, before any learned layer.
    """

    card: ClassVar[MethodCard]
    number_is: ClassVar[str | None] = None
    """What the number after the colon says: "layer", "layers", "width"; None: there is none."""
    reads_layers: ClassVar[bool] = False
    """Whether it reads states other than those that the encoder returns."""
    reads_tokens: ClassVar[bool] = False
    """Whether what it reads has a state for each token."""
    reads_cls_alone: ClassVar[bool] = False
    """Whether it reads one state only, that of the classification token after the last layer."""
    reads_ids: ClassVar[bool] = False
    """Whether it asks which tokens they are."""
    random_at_first: ClassVar[bool] = False
    """Whether it says nothing until it is trained."""

    def __init__(self, shape: EncoderShape, number: int | None = None) -> None:
        """Build it for an encoder of this shape.

        Raises:
            ConfigError: the number is out of range.
        """
        super().__init__()
        self.shape = shape
        self.number = number
        self.width = shape.width
        """W."""

    @property
    def name(self) -> str:
        """As in `--pooling`, without a number."""
        return self.card.name

    @property
    def spec(self) -> str:
        """As in `--pooling`."""
        return self.name if self.number is None else f"{self.name}:{self.number}"

    @abstractmethod
    def read(self, states: States) -> Tensor:
        """Return what it needs of the states, before anything that is trained.

        For a frozen encoder this is computed once. [B, W] where nothing is trained; else [B, ...],
        the tokens second to last where `reads_tokens`.
        """

    def learned(self, read: Tensor, mask: Tensor) -> Tensor:
        """Return [B, W] from what was read.

        Args:
            read: of `read`.
            mask: true for real tokens, bool [B, L]; asked only where `reads_tokens`.
        """
        return read

    def forward(self, states: States) -> Tensor:
        """Return [B, W]."""
        return self.learned(self.read(states), states.mask)

    def number_for(self, num_layers: int) -> int | None:
        """Return the number that means the same for an encoder of fewer layers."""
        return self.number

    def spec_for(self, num_layers: int) -> str:
        """Return the `--pooling` that does the same for an encoder of fewer layers."""
        number = self.number_for(num_layers)
        return self.name if number is None else f"{self.name}:{number}"

    def start(self, read: Callable[[list[str]], Mapping[str, Tensor]]) -> list[str]:
        """Take over what the checkpoint has for it; return the names of its own tensors so set.

        Args:
            read: returns those of the named tensors that the checkpoint has.
        """
        return []

    def cls(self, states: States, layer: int = -1) -> Tensor:
        """Return the state of the classification token after so many layers, [B, D]."""
        if states.from_start and not self.shape.cls_at_end:
            return states.layers[layer][:, 0]
        return self.cls_of(states.layers[layer], states.mask)

    def cls_of(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the state of the classification token, [B, D] from [B, L, D] and [B, L]."""
        take = state_of_last if self.shape.cls_at_end else state_of_first
        return take(hidden, mask)

    def stacked_cls(self, states: States, first: int = 1) -> Tensor:
        """Return the states of the classification token after `first`, ... K layers, [B, N, D]."""
        layers = range(first, self.shape.num_layers + 1)
        return torch.stack([self.cls(states, layer) for layer in layers], dim=1)

    def in_range(self, number: int, low: int, high: int | None = None) -> int:
        """Return the number.

        Raises:
            ConfigError: it is out of range.
        """
        if number < low or (high is not None and number > high):
            legal = f"{low} or more" if high is None else f"{low} to {high}"
            raise ConfigError(
                f"--pooling {self.card.name}:{number}: {self.number_is} must be {legal} "
                f"for an encoder of {self.shape.num_layers} layers"
            )
        return number
