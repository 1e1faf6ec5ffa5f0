"""A learned mixture of layers. Shapes: B batch, L length, D model width, N layers mixed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.models.pooling.base import EncoderShape, Pooling, States
from bertwright.models.pooling.mean import mean_of_tokens

__all__ = ["WeightedLayersPooling", "mix_layers"]


def mix_layers(layers: Tensor, weights: Tensor, scale: Tensor) -> Tensor:
    """Return scale times the mean of the layers, weighted by the softmax of `weights`, [B, D].

    Args:
        layers: [B, N, D].
        weights: [N].
        scale: [].
    """
    return scale * (weights.softmax(dim=0) @ layers)


class WeightedLayersPooling(Pooling):
    """The mean over tokens of a learned mixture of the layers from `number` up."""

    card = MethodCard(
        name="weighted-layers",
        kind="pool",
        summary="A learned mixture of the layers from k up (1 without a number), mean over tokens.",
        paper="Deep contextualized word representations (ELMo's scalar mix)",
        year=2018,
        citation="Peters et al. 2018, arXiv:1802.05365",
        equation="v = mean over tokens of g sum_l softmax(a)_l H_l, l = k..K; first a = 0, g = 1",
        needs="Training, to be more than the mean of the layers.",
        cost="K - k + 2 parameters; the states of all layers stay in memory.",
        expected_effect="Frozen BERT-base, all layers: dev F1 95.5 on tags, the last alone 94.9.",
        expected_source="Devlin et al. 2019, table 7.",
        when_to_use="On frozen states, where it is not known which layer holds the answer.",
        when_not_to_use="Fine-tuned: the encoder can move what it needs to the last layer.",
        siblings="attention weighs the layers by the text; concat-last keeps them apart.",
        departures="None. Shares are a softmax: an unnormalised sum may divide by zero.",
    )
    number_is = "layer"
    reads_layers = True

    def __init__(self, shape: EncoderShape, number: int | None = None) -> None:
        super().__init__(shape, number)
        self.first = 1 if number is None else self.in_range(number, 0, shape.num_layers)
        self.weights = nn.Parameter(torch.zeros(shape.num_layers + 1 - self.first))
        self.scale = nn.Parameter(torch.ones(()))

    def read(self, states: States) -> Tensor:
        """Return the mean over tokens of each layer's states, [B, N, D]."""
        layers = states.layers[self.first :]
        return torch.stack([mean_of_tokens(layer, states.mask) for layer in layers], dim=1)

    def learned(self, read: Tensor, mask: Tensor) -> Tensor:
        """Return [B, D]."""
        return mix_layers(read, self.weights, self.scale)

    def number_for(self, num_layers: int) -> int | None:
        """Return the layer at the same share of the depth."""
        if self.number is None:
            return None
        return round(self.first * num_layers / self.shape.num_layers)
