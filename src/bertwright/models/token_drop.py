"""Leaving out, after some layers, the tokens that the others hardly look at.

Shapes: B batch, L length, M tokens that go on, D model width, N heads, H features of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bertwright.config import config_to_dict, require
from bertwright.errors import UsageError
from bertwright.models.in_parts import embed, mask_for_layers
from bertwright.models.roles import Roles

__all__ = ["TokenDrop", "attention_received", "refuse_token_drop", "run_with_fewer"]


def refuse_token_drop(drop: TokenDrop | None, who: str) -> None:
    """Raise if a model leaves tokens out on the way, which `who` would not do.

    Raises:
        UsageError: it does.
    """
    if drop is not None:
        raise UsageError(
            f"the model leaves tokens out on the way, which {who} would not",
            hint="export it to onnx or openvino, or export the model that it was made of",
        )


@dataclass(frozen=True, kw_only=True)
class TokenDrop:
    """Which tokens go on, and from where."""

    layer: int
    """After how many layers tokens are left out."""
    share: float
    """Of a text's tokens, special ones counted, that go on."""
    least: int = 16
    """So many go on in any case."""

    def __post_init__(self) -> None:
        require(self.layer >= 1, "layer", self.layer, "at least 1")
        require(0 < self.share <= 1, "share", self.share, "above 0, at most 1")
        require(self.least >= 1, "least", self.least, "at least 1")

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return config_to_dict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TokenDrop:
        """Read what `to_json` gave."""
        return cls(**values)

    def count(self, lengths: Tensor) -> Tensor:
        """Return how many tokens of each text go on, [B], of its number of tokens [B]."""
        wanted = (lengths * self.share).ceil().clamp(min=self.least)
        return torch.minimum(wanted, lengths.to(wanted.dtype)).long()


def attention_received(roles: Roles, index: int, states: Tensor, mask: Tensor) -> Tensor:
    """Return how much attention each token receives in a layer, [B, L].

    The sum over heads and real tokens of softmax(q k / sqrt(H)): what a token gives to all others.

    Args:
        roles: of the encoder.
        index: the layer, from 0.
        states: what enters it, [B, L, D].
        mask: 1 for real tokens, [B, L].

    Source: the significance score of Goyal et al. 2020 (PoWER-BERT), arXiv:2001.08950.
    """
    size = int(getattr(roles.attention(index), roles.record.head_size))
    query, key = (
        roles.part(index, role)(states).unflatten(-1, (-1, size)).transpose(1, 2)
        for role in ("query", "key")
    )
    scores = query @ key.transpose(2, 3) / math.sqrt(size)
    real = mask.bool()
    scores = scores.masked_fill(~real[:, None, None, :], torch.finfo(scores.dtype).min)
    given = scores.float().softmax(dim=-1) * real[:, None, :, None]
    return given.sum(dim=(1, 2))


def run_with_fewer(
    roles: Roles,
    drop: TokenDrop,
    input_ids: Tensor,
    mask: Tensor,
    token_type_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the last states [B, L, D] of an encoder that leaves tokens out on the way, and which.

    After `drop.layer` layers the tokens that receive most attention go on, the first always; the
    mask of these is the second, [B, L]. Those left out keep the state that they had, so every token
    has one. A text's are the same in any batch.

    Args:
        roles: of an encoder that runs in parts.
        drop: from where, and how many.
        input_ids: [B, L].
        mask: 1 for real tokens, [B, L].
        token_type_ids: [B, L]; ignored where the family does not have them.
    """
    layers = roles.layers
    states = embed(roles, input_ids, token_type_ids)
    states, before = _run(roles, layers[: drop.layer], states, mask)
    received = attention_received(roles, drop.layer - 1, before, mask)
    first = mask.cumsum(dim=1) == 1
    ranked = received.masked_fill(mask == 0, -1.0).masked_fill(first & (mask == 1), torch.inf)
    order = ranked.sort(dim=1, descending=True).indices
    counts = drop.count(mask.sum(dim=1))
    going = order[:, : counts.max()]
    stays = torch.arange(mask.shape[1], device=mask.device)[: counts.max()] < counts.unsqueeze(1)
    places = going.unsqueeze(-1).expand(-1, -1, states.shape[-1])
    fewer = states.gather(1, places)
    done, _ = _run(roles, layers[drop.layer :], fewer, stays.to(mask.dtype))
    went = torch.zeros_like(mask).scatter(1, going, stays.to(mask.dtype))
    return states.scatter(1, places, torch.where(stays.unsqueeze(-1), done, fewer)), went


def _run(roles: Roles, layers: list[Any], states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states after these layers, and those that entered the last of them."""
    layer_mask = mask_for_layers(roles, states, mask)
    before = states
    for layer in layers:
        before = states
        states = roles.hidden_of(roles.run_layers([layer], (before, layer_mask), {}))
    return states, before
