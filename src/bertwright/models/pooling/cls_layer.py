"""The classification token of an inner layer, or of several one after the other.

Shapes: B batch, D model width, K layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bertwright.card import MethodCard
from bertwright.models.pooling.base import EncoderShape, Pooling, States

__all__ = ["ClsLayerPooling", "ConcatLastPooling"]


class ClsLayerPooling(Pooling):
    """The state of the classification token after `number` layers, K - 1 without a number."""

    card = MethodCard(
        name="cls-layer",
        kind="pool",
        summary="The state of the classification token after so many layers: cls-layer:4.",
        paper="What does BERT learn about the structure of language?",
        year=2019,
        citation="Jawahar, Sagot, Seddah 2019, ACL P19-1356",
        equation="v = H_k[cls]; k counts layers from 1, k = K - 1 without a number",
        needs="Nothing.",
        cost="Nothing. Layers above k are computed all the same: see finetune --layers.",
        expected_effect="Inner layers hold surface and syntax, the last what pre-training asked.",
        expected_source="Probing accuracies of Jawahar et al., tables 1 and 2; no single figure.",
        when_to_use="Frozen, where the last layer is too close to the masked words.",
        when_not_to_use="Fine-tuned: the layers above k are then not trained.",
        siblings="cls is layer K.",
        departures="None.",
    )
    number_is = "layer"
    reads_layers = True

    def __init__(self, shape: EncoderShape, number: int | None = None) -> None:
        super().__init__(shape, number)
        self.layer = max(shape.num_layers - 1, 1)
        if number is not None:
            self.layer = self.in_range(number, 1, shape.num_layers)

    def read(self, states: States) -> Tensor:
        """Return [B, D]."""
        return self.cls(states, self.layer)

    def number_for(self, num_layers: int) -> int | None:
        """Return the layer at the same share of the depth."""
        if self.number is None:
            return None
        return max(round(self.layer * num_layers / self.shape.num_layers), 1)


class ConcatLastPooling(Pooling):
    """The classification token's states after the last `number` layers: W = number D."""

    card = MethodCard(
        name="concat-last",
        kind="pool",
        summary="The states of the classification token after the last 4 layers, end to end.",
        paper="BERT: Pre-training of Deep Bidirectional Transformers (feature-based approach)",
        year=2019,
        citation="Devlin, Chang, Lee, Toutanova 2019, arXiv:1810.04805, section 5.3",
        equation="v = [H_K[cls]; H_{K-1}[cls]; ...], number of them (4, or K if that is less)",
        needs="Nothing.",
        cost="Vectors number times as wide.",
        expected_effect="Tags of a frozen BERT-base, dev F1: 96.1, the last layer 94.9.",
        expected_source="Devlin et al. 2019, table 7 (CoNLL-2003), tokens rather than cls.",
        when_to_use="Frozen, with a linear head.",
        when_not_to_use="For stored vectors.",
        siblings="weighted-layers learns one mixture in place of all of them.",
        departures="Of the classification token, to have one vector a text.",
    )
    number_is = "layers"
    reads_layers = True

    def __init__(self, shape: EncoderShape, number: int | None = None) -> None:
        super().__init__(shape, number)
        most = shape.num_layers
        self.count = min(4, most) if number is None else self.in_range(number, 1, most)
        self.width = self.count * shape.width

    def read(self, states: States) -> Tensor:
        """Return [B, number D], the last layer first."""
        stacked = self.stacked_cls(states, self.shape.num_layers - self.count + 1)
        return torch.flip(stacked, dims=[1]).flatten(1)

    def number_for(self, num_layers: int) -> int | None:
        """Return as many layers, as far as there are so many."""
        return None if self.number is None else min(self.number, num_layers)
