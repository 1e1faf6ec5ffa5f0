"""SBERT-WK: layers weighed by what each adds to its neighbours, tokens by how they change.

Shapes: B batch, L length, N = B L tokens, D model width, K layers used, W neighbours of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence

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
_BLOCK_TOKENS = 128


def pool_wk(
    layers: Sequence[Tensor], mask: Tensor, *, window: int = _WINDOW, legacy_window: bool = False
) -> Tensor:
    """Return the SBERT-WK vectors of a batch, [B, D].

    All that the QR decompositions of the paper say follows from the cosines of each token's
    layers, by one small Cholesky factorisation for all tokens and layers at once. The states are
    read three times, for their lengths, the cosines and the sum, and never copied as a whole.

    Args:
        layers: states after the layers that are used, from low to high, K of [B, L, D]; K is 3 or
            more.
        mask: true or 1 for real tokens, [B, L]. The last of them (the separator) does not count,
            unless it is the only one.
        window: neighbours on either side of a layer.
        legacy_window: as the authors' code has it, whose slice leaves out the lower neighbours of
            the layers 1 to `window` - 1.

    Raises:
        ValueError: fewer than 3 layers.

    Source: Wang and Kuo 2020, arXiv:2002.06652.
    """
    if len(layers) < _FEWEST_LAYERS:
        raise ValueError(f"{len(layers)} layers: a variance over layers needs 3 or more")
    real, in_blocks = mask.bool(), _can_go_in_blocks(layers)
    layers = _cleared(layers, real) if in_blocks else _masked(layers, real)
    flat = [layer.flatten(0, 1) for layer in layers]
    products = _products_in_blocks(flat) if in_blocks else _products(flat)
    cosines = _cosines(products)
    neighbours = _neighbours(len(layers), window, legacy_window)
    shares = _layer_shares(cosines, neighbours).view(-1, *mask.shape)
    weights = (shares * _token_weights(cosines, real)).to(layers[0].dtype)
    return _sum_of_tokens(layers, weights)


def _masked(layers: Sequence[Tensor], real: Tensor) -> Sequence[Tensor]:
    """Return the layers with zeros in place of padding."""
    return [layer.masked_fill(~real.unsqueeze(-1), 0.0) for layer in layers]


def _cleared(layers: Sequence[Tensor], real: Tensor) -> Sequence[Tensor]:
    """Return what `_masked` does, the layers themselves where there is no padding."""
    pads = (~real).flatten().nonzero().squeeze(1)
    if not len(pads):
        return layers
    return [x.flatten(0, 1).index_fill(0, pads, 0.0).view(x.shape) for x in layers]


def _sum_of_tokens(layers: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the weighted sum of all layers' tokens, [B, D], from K of [B, L, D] and [K, B, L]."""
    total = torch.bmm(weights[0].unsqueeze(1), layers[0])
    for share, layer in zip(weights[1:], layers[1:], strict=True):
        total = total + torch.bmm(share.unsqueeze(1), layer)
    return total.squeeze(1)


def _can_go_in_blocks(layers: Sequence[Tensor]) -> bool:
    """Say whether a loop over blocks of tokens is possible (no graph, no gradient) and of use."""
    traced = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    learned = torch.is_grad_enabled() and any(layer.requires_grad for layer in layers)
    return layers[0].device.type == "cpu" and not (
        traced or torch.compiler.is_compiling() or learned
    )


def _products(layers: Sequence[Tensor]) -> Tensor:
    """Return the products of each token's steps, [N, K-1, K-1] in double floats.

    A step leads from a layer's unit to the next layer's. What layers add to each other is small
    beside what they share: products of the states themselves in single floats would lose it.

    Args:
        layers: K of [N, D].
    """
    states = [layer.to(torch.promote_types(layer.dtype, torch.float32)) for layer in layers]
    lengths = _lengths(states)
    pairs = zip(states[:-1], states[1:], _ratios(lengths), strict=True)
    steps = torch.stack([x - below * ratio for below, x, ratio in pairs], dim=1)
    return _of_units(torch.bmm(steps, steps.transpose(1, 2)), lengths)


def _products_in_blocks(layers: Sequence[Tensor]) -> Tensor:
    """Return what `_products` does, by as many tokens at a time as stay in the cache."""
    better = torch.promote_types(layers[0].dtype, torch.float32)
    num_steps, (num_tokens, width) = len(layers) - 1, layers[0].shape
    size = min(_BLOCK_TOKENS, num_tokens)
    lengths = _lengths(layers).to(better)
    steps = lengths.new_empty(size, num_steps, width)
    products = lengths.new_empty(num_tokens, num_steps, num_steps)
    blocks = (x.split(size) for x in (products, *_ratios(lengths), *layers))
    for found, *rest in zip(*blocks, strict=True):
        ratios, states = rest[:num_steps], [x.to(better) for x in rest[num_steps:]]
        here = steps[: len(found)]
        pairs = zip(here.unbind(dim=1), states[:-1], states[1:], ratios, strict=True)
        for step, below, x, ratio in pairs:
            torch.addcmul(x, below, ratio, value=-1, out=step)
        torch.bmm(here, here.transpose(1, 2), out=found)
    return _of_units(products, lengths)


def _lengths(states: Sequence[Tensor]) -> Tensor:
    """Return the length of each state, [N, K] from K of [N, D]."""
    found = torch.stack([torch.linalg.vector_norm(x, dim=-1) for x in states], dim=1)
    return found.clamp(min=_SMALL**2)


def _ratios(lengths: Tensor) -> tuple[Tensor, ...]:
    """Return how much longer each layer is than the one below, K - 1 of [N, 1] from [N, K]."""
    return (lengths[:, 1:] / lengths[:, :-1]).split(1, dim=1)


def _of_units(products: Tensor, lengths: Tensor) -> Tensor:
    """Return the products of units' steps from those of states, whose lengths are [N, K]."""
    scales = lengths[:, 1:].double().reciprocal()
    return products.double() * scales.unsqueeze(2) * scales.unsqueeze(1)


def _cosines(products: Tensor) -> Tensor:
    """Return the cosines of each token's layers, [K, K, N], from the products of `_products`.

    Units that are s apart have a cosine of 1 - s^2 / 2. What single floats have rounded is the same
    in all sums of steps, so in double floats their differences are as exact as the steps are.
    """
    num_steps = products.shape[1]
    upto = products.new_ones(num_steps + 1, num_steps).tril(-1)
    rows = upto @ products.permute(1, 2, 0).flatten(1)
    away = upto @ rows.view(num_steps + 1, num_steps, -1)
    squares = away.flatten(0, 1)[:: num_steps + 2]
    return 1 + away - (squares.unsqueeze(1) + squares) / 2


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


def _columns(cosines: Tensor, neighbours: list[list[int]]) -> list[Tensor]:
    """Return the lower triangles of the cosines of each layer's neighbours and the layer.

    A layer that lacks a neighbour has in its place one at a right angle to all.

    Args:
        cosines: [K, K, N].
        neighbours: of each layer.

    Returns:
        W columns; column j has its rows below the diagonal, [W - j, K, N], the layer's the last.
    """
    num_layers, most = len(neighbours), max(map(len, neighbours))
    absent = num_layers**2
    places: list[int] = []
    for column in range(most):
        for row in range(column + 1, most + 1):
            for layer, others in enumerate(neighbours):
                ends = [*others, *[absent] * (most - len(others)), layer]
                here = ends[row] != absent and ends[column] != absent
                places.append(ends[row] * num_layers + ends[column] if here else absent)
    table = torch.cat([cosines.flatten(0, 1), torch.zeros_like(cosines[0, :1])])
    found = table.index_select(0, torch.tensor(places, device=cosines.device))
    sizes = list(range(most, 0, -1))
    return list(found.view(sum(sizes), num_layers, -1).split(sizes))


def _layer_shares(cosines: Tensor, neighbours: list[list[int]]) -> Tensor:
    """Return how much of each layer goes into a token's vector, [K, N], from [K, K, N].

    Of a layer x and its neighbours C: novelty is the sine of the angle between x and the space of
    C; alignment the mean cosine of the C with x's projection on that space.
    """
    counts = cosines.new_tensor([[len(others)] for others in neighbours])
    columns = _columns(cosines, neighbours)
    with_layer = torch.stack([column[-1] for column in columns]).sum(dim=0)
    projected = _squared_projection(columns).clamp(max=1.0)
    novelty = (1 - projected).clamp(min=_RIDGE**2).sqrt()
    alignment = with_layer / counts / projected.clamp(min=_RIDGE).sqrt()
    # written without a choice between doubles, which ONNX Runtime lacks
    sign = 2 * (alignment >= 0).to(alignment.dtype) - 1
    away = sign * alignment.abs().clamp(min=_SMALL)
    agreement = 1 / (2 * away * (counts + 1))
    return (_normalised(agreement) + _normalised(novelty)) / 2


def _squared_projection(columns: list[Tensor]) -> Tensor:
    """Return the squared length of a unit's projection on the space of its neighbours, [K, N].

    It is that of the last row of the Cholesky factor, the last column of R but for its end.

    Args:
        columns: of `_columns`.
    """
    rest = list(columns)
    pivots = [rest[0].new_tensor(1 + _RIDGE)] * len(rest)
    projected = torch.zeros_like(columns[0][0])
    for j, column in enumerate(rest):
        factor = column / pivots[j].clamp(min=_RIDGE).sqrt()
        projected = projected + factor[-1].square()
        for i in range(j + 1, len(rest)):
            row = factor[i - j - 1 : i - j]
            pivots[i] = pivots[i] - row.square()
            rest[i] = rest[i] - factor[i - j :] * row
    return projected


def _normalised(values: Tensor) -> Tensor:
    return values / values.sum(dim=0, keepdim=True)


def _token_weights(cosines: Tensor, mask: Tensor) -> Tensor:
    """Return the share of each token in its text, [B, L]: the variance of its layers' steps."""
    num_layers = cosines.shape[0]
    next_to = torch.arange(num_layers - 1, device=cosines.device) * (num_layers + 1) + 1
    steps = cosines.flatten(0, 1).index_select(0, next_to)
    steps = steps - steps[:1]  # so that equal steps have no variance at all
    changes = (steps - steps.mean(dim=0)).square().mean(dim=0).view(mask.shape)
    so_far = mask.int().cumsum(dim=1)
    followed = mask & (so_far < so_far[:, -1:])
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
        cost="Three readings of all layers' states; nothing is learned.",
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

    def read(self, states: States) -> Tensor:
        """Return [B, D]."""
        return pool_wk(states.layers[self.first :], states.mask)

    def number_for(self, num_layers: int) -> int | None:
        """Return the layer at the same share of the depth, with 3 states left above it."""
        if self.number is None:
            return None
        share = round(self.first * num_layers / self.shape.num_layers)
        return min(share, num_layers + 1 - _FEWEST_LAYERS)

    def spec_for(self, num_layers: int) -> str:
        """Return wk, or mean where there are too few layers."""
        return super().spec_for(num_layers) if num_layers + 1 >= _FEWEST_LAYERS else "mean"
