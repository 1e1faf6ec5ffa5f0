"""SBERT-WK: layers weighed by what each adds to its neighbours, tokens by how they change.

Shapes: B batch, L length, D model width, K layers used, W neighbours of a layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bertwright.card import MethodCard
from bertwright.errors import ConfigError
from bertwright.models.pooling.base import EncoderShape, Pooling, States

__all__ = ["WkPooling", "pool_wk"]

_WINDOW = 2
_FIRST_LAYER = 4
_FEWEST_LAYERS = 3
_RIDGE = 1e-10
_SMALL = 1e-6


def pool_wk(
    states: Tensor, mask: Tensor, *, window: int = _WINDOW, legacy_window: bool = False
) -> Tensor:
    """Return the SBERT-WK vectors of a batch, [B, D].

    No loop over texts or tokens: all that the QR decompositions of the paper say follows from the
    cosines of each token's layers, by one small Cholesky factorisation for all of them at once.

    Args:
        states: after the layers that are used, from low to high, [B, K, L, D]; K is 3 or more.
        mask: true or 1 for real tokens, [B, L]. The last of them (the separator) does not count,
            unless it is the only one.
        window: neighbours on either side of a layer.
        legacy_window: as the authors' code has it, whose slice leaves out the lower neighbours of
            the layers 1 to `window` - 1.

    Raises:
        ValueError: fewer than 3 layers.

    Source: Wang and Kuo 2020, arXiv:2002.06652.
    """
    num_layers = states.shape[1]
    if num_layers < _FEWEST_LAYERS:
        raise ValueError(f"{num_layers} layers: a variance over layers needs 3 or more")
    real = mask.bool()
    by_token = states.masked_fill(~real[:, None, :, None], 0.0).transpose(1, 2)
    # what layers add to each other is small beside what they share: single floats would lose it
    exact = by_token.double()
    units = exact / exact.norm(dim=-1, keepdim=True).clamp(min=_SMALL**2)
    cosines = units @ units.transpose(2, 3)
    shares = _layer_shares(cosines, window, legacy_window)
    tokens = (shares.to(states.dtype).unsqueeze(-2) @ by_token).squeeze(-2)
    weights = _token_weights(cosines, real).to(states.dtype)
    return (weights.unsqueeze(1) @ tokens).squeeze(1)


def _neighbours(num_layers: int, window: int, legacy: bool) -> list[list[int]]:
    """Return the layers that each layer is compared with."""
    found = []
    for layer in range(num_layers):
        low = max(layer - window, 0)
        if legacy and 0 < layer < window:
            low = layer
        high = min(layer + window, num_layers - 1)
        found.append([other for other in range(low, high + 1) if other != layer])
    return found


def _layer_shares(cosines: Tensor, window: int, legacy: bool) -> Tensor:
    """Return how much of each layer goes into a token's vector, [B, L, K], from [B, L, K, K].

    Of a layer x and its neighbours C: novelty is the sine of the angle between x and the space of
    C; alignment the mean cosine of the C with x's projection on that space.
    """
    num_layers = cosines.shape[-1]
    neighbours = _neighbours(num_layers, window, legacy)
    counts = cosines.new_tensor([len(others) for others in neighbours])
    most = max(map(len, neighbours))
    flat = cosines.flatten(2)

    def between(row: int, column: int | None) -> Tensor:
        """Return cosines of neighbour `row` with neighbour `column`, or the layer, [B, L, K].

        A layer that lacks a neighbour has in its place one at a right angle to all.
        """
        pairs, absent = [], []
        for layer, others in enumerate(neighbours):
            here = row < len(others) and (column is None or column < len(others))
            other = layer if column is None else others[column] if here else 0
            pairs.append(others[row] * num_layers + other if here else 0)
            absent.append(0.0 if here else float(row == column))
        found = flat.index_select(2, torch.tensor(pairs, device=flat.device))
        there = [row < len(o) and (column is None or column < len(o)) for o in neighbours]
        keep = flat.new_tensor([float(value) for value in there])
        return found * keep + flat.new_tensor(absent)

    with_layer = [between(row, None) for row in range(most)]
    # the Cholesky factor of the neighbours' cosines, and with it the solution for the layer's
    factor: dict[tuple[int, int], Tensor] = {}
    solved: list[Tensor] = []
    for row in range(most):
        for column in range(row):
            rest = between(row, column)
            for k in range(column):
                rest = rest - factor[row, k] * factor[column, k]
            factor[row, column] = rest / factor[column, column]
        rest = between(row, row) + _RIDGE
        for k in range(row):
            rest = rest - factor[row, k].square()
        factor[row, row] = rest.clamp(min=_RIDGE).sqrt()
        value = with_layer[row]
        for k in range(row):
            value = value - factor[row, k] * solved[k]
        solved.append(value / factor[row, row])
    projected = torch.stack(solved).square().sum(dim=0).clamp(max=1.0)
    novelty = (1 - projected).clamp(min=_RIDGE**2).sqrt()
    alignment = torch.stack(with_layer).sum(dim=0) / counts / projected.clamp(min=_RIDGE).sqrt()
    # written without a choice between doubles, which ONNX Runtime lacks
    sign = 2 * (alignment >= 0).to(alignment.dtype) - 1
    away = sign * alignment.abs().clamp(min=_SMALL)
    agreement = 1 / (2 * away * (counts + 1))
    return (_normalised(agreement) + _normalised(novelty)) / 2


def _normalised(values: Tensor) -> Tensor:
    return values / values.sum(dim=-1, keepdim=True)


def _token_weights(cosines: Tensor, mask: Tensor) -> Tensor:
    """Return the share of each token in its text, [B, L]: the variance of its layers' steps."""
    num_layers = cosines.shape[-1]
    next_to = torch.arange(num_layers - 1, device=cosines.device) * (num_layers + 1) + 1
    steps = cosines.flatten(2).index_select(2, next_to)
    changes = (steps - steps.mean(dim=-1, keepdim=True)).square().mean(dim=-1)
    followed = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1) & mask
    used = (followed | (mask & ~followed.any(dim=1, keepdim=True))).to(changes.dtype)
    changes = changes * used
    total = changes.sum(dim=1, keepdim=True)
    even = used / used.sum(dim=1, keepdim=True).clamp(min=1)
    alike = (total == 0).to(changes.dtype)
    return changes / (total + alike) + alike * even


class WkPooling(Pooling):
    """SBERT-WK from layer `number` up: 4 without a number, or lower in a shallow encoder."""

    card = MethodCard(
        name="wk",
        kind="pool",
        summary="Layers weighed by what each adds to its neighbours, tokens by how they change.",
        paper="SBERT-WK: A Sentence Embedding Method by Dissecting BERT-based Word Models",
        year=2020,
        citation="Wang, Kuo 2020, arXiv:2002.06652",
        equation=(
            "[C | x_k] = Q R, r the last column: novelty n_k = |r_last| / |r|,\n"
            "alignment p_k = mean_j cos(R_j, r without its last), a_k = 1 / (2 p_k (|C| + 1));\n"
            "u_t = sum_k (a_k / sum a + n_k / sum n) / 2 x_k, "
            "v = sum_t b_t u_t, b_t = Var_k cos(x_k, x_k+1) / sum b"
        ),
        needs="The states of 3 layers or more.",
        cost="Products of all layers' states in double floats; nothing is learned.",
        expected_effect="On SBERT 3.5 points of STS over its mean; on MiniLM 13 below it.",
        expected_source="Wang and Kuo 2020, table 3: 72.59 to 76.09. MiniLM: docs/poolings.md.",
        when_to_use="Where a trial on data like yours shows that it is above the mean.",
        when_not_to_use=(
            "Where the engine must be fast, the encoder is fine-tuned with it, or layers are in "
            "int8: the weights rest on small differences of layers."
        ),
        siblings="weighted-layers learns the layers' weights; mean weighs tokens alike.",
        departures=(
            "Windows at the lower edge are the paper's; the authors' code leaves out lower "
            "neighbours there (legacy_window has it). Layers alike, or a single token, have even "
            "weights in place of 0 / 0. The first layer is lower where there are too few above."
        ),
    )
    number_is = "layer"
    reads_layers = True

    def __init__(self, shape: EncoderShape, number: int | None = None) -> None:
        super().__init__(shape, number)
        highest = shape.num_layers + 1 - _FEWEST_LAYERS
        if highest < 0:
            raise ConfigError(
                "--pooling wk: a variance over layers needs an encoder of 2 layers or more",
                hint="take --pooling mean",
            )
        if number is None:
            self.first = min(_FIRST_LAYER, highest)
        else:
            self.first = self.in_range(number, 0, highest)

    def forward(self, states: States) -> Tensor:
        """Return [B, D]."""
        return pool_wk(torch.stack(states.layers[self.first :], dim=1), states.mask)

    def number_for(self, num_layers: int) -> int | None:
        """Return the layer at the same share of the depth, with 3 states left above it."""
        if self.number is None:
            return None
        share = round(self.first * num_layers / self.shape.num_layers)
        return min(share, num_layers + 1 - _FEWEST_LAYERS)

    def spec_for(self, num_layers: int) -> str:
        """Return wk, or mean where there are too few layers."""
        return super().spec_for(num_layers) if num_layers + 1 >= _FEWEST_LAYERS else "mean"
