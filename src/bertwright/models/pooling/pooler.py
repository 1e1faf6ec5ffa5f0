"""BERT's pooler: a pre-trained layer above the classification token.

Shapes: B batch, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.models.pooling.base import EncoderShape, Pooling, States

__all__ = ["PoolerPooling"]

_INIT_STD = 0.02
_NAMES = ("pooler.dense", "bert.pooler.dense", "mobilebert.pooler.dense", "albert.pooler", "pooler")
"""What checkpoints call the layer."""


class PoolerPooling(Pooling):
    """A dense layer and tanh above the classification token, pre-trained where there is one."""

    card = MethodCard(
        name="pooler",
        kind="pool",
        summary="A dense layer and tanh above cls, as BERT pre-trains it on the next sentence.",
        paper="BERT: Pre-training of Deep Bidirectional Transformers",
        year=2019,
        citation="Devlin, Chang, Lee, Toutanova 2019, arXiv:1810.04805",
        equation="v = tanh(W H_K[cls] + b)",
        needs="A checkpoint with a pooler; without one the layer starts at random.",
        cost="D² + D parameters.",
        expected_effect="With a linear head it is BERT's own classifier.",
        expected_source="By construction; a test holds it against transformers' pooler_output.",
        when_to_use="To have BERT's classifier with another head, or its pooler_output as vectors.",
        when_not_to_use="With the stock head, which has this layer already, or on RoBERTa frozen.",
        siblings="cls is what goes into it; dense does the same above the mean.",
        departures="None.",
    )

    random_at_first = True
    reads_cls_alone = True

    def __init__(self, shape: EncoderShape, number: int | None = None) -> None:
        super().__init__(shape, number)
        self.dense = nn.Linear(shape.width, shape.width)
        nn.init.normal_(self.dense.weight, std=_INIT_STD)
        nn.init.zeros_(self.dense.bias)

    def start(self, read: Callable[[list[str]], Mapping[str, Tensor]]) -> list[str]:
        """Take the pre-trained layer where the checkpoint has one of this shape."""
        found = read([f"{name}.{leaf}" for name in _NAMES for leaf in ("weight", "bias")])
        for name in _NAMES:
            weight, bias = (found.get(f"{name}.{leaf}") for leaf in ("weight", "bias"))
            if weight is None or bias is None or weight.shape != self.dense.weight.shape:
                continue
            self.dense.load_state_dict({"weight": weight, "bias": bias})
            return ["dense.weight", "dense.bias"]
        return []

    def read(self, states: States) -> Tensor:
        """Return the classification token's state, [B, D]."""
        return self.cls(states)

    def learned(self, read: Tensor, mask: Tensor) -> Tensor:
        """Return [B, D]."""
        return self.dense(read).tanh()
