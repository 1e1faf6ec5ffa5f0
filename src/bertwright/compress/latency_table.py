"""What a batch takes on this machine, for any depth and any widths: sums of measured layers.

A table holds times of a few models, of one and of several layers, with all heads and neurons and
with fewer of either, for batches of several sizes. The time of another model is put together:

    t(model) = base(last layer) + sum over the other layers of layer(heads, neurons)
    layer(h, f) = layer(H, F) + [layer(h, F) - layer(H, F)] + [layer(H, f) - layer(H, F)]

where base is everything that a model of one layer does, and the time of a layer is what one more of
them adds. Heads and neurons do not share work, so what fewer of both save is the sum of what each
saves. Between the measured widths, rows and lengths, times are interpolated linearly.

Shapes: B rows of a batch, L tokens of its longest row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertwright.errors import UsageError

__all__ = ["Cell", "LatencyTable", "LayerShape", "MeasuredModel", "table_cells", "table_models"]

Cell = tuple[int, int]
"""Rows and tokens of a batch."""

_ROWS = (1, 2, 4, 8, 16, 32)
_LENGTHS = (4, 8, 16, 32, 64, 128, 256, 512)
_SHARES = (0.5, 0.25)
"""Of the heads, and of the neurons, that models besides the whole one have."""
_DEPTH = 3
"""Layers of the deeper model of each pair."""


@dataclass(frozen=True, order=True)
class LayerShape:
    """How wide a layer is."""

    heads: int
    neurons: int


@dataclass(frozen=True, order=True)
class MeasuredModel:
    """A model that is measured: so many layers, all of one shape."""

    layers: int
    shape: LayerShape


def table_cells(longest: int, batch_tokens: int, batch_size: int | None) -> list[Cell]:
    """Return the batches to measure, so that all that a predictor makes lie between them.

    Args:
        longest: tokens of the longest row.
        batch_tokens: most padded tokens of a batch.
        batch_size: most rows of a batch; None: only the tokens count.
    """
    lengths = _up_to(_LENGTHS, longest)
    cells = []
    for below, length in itertools.pairwise((1, *lengths)):
        most = max(1, batch_tokens // (below + 1))
        rows = _up_to(_ROWS, most if batch_size is None else min(most, batch_size))
        cells += [(count, length) for count in rows]
    return cells


def _up_to(grid: Sequence[int], most: int) -> list[int]:
    """Return the grid's numbers below `most`, and one that is not."""
    inside = [one for one in grid if one < most]
    rest = [one for one in grid if one >= most]
    return [*inside, rest[0] if rest else most]


def table_models(
    whole: LayerShape, depth: int, *, heads: bool, neurons: bool
) -> list[MeasuredModel]:
    """Return the models to measure.

    Args:
        whole: of each layer of the model that others are made of.
        depth: its layers.
        heads: whether heads can be taken out.
        neurons: whether neurons can be.

    Raises:
        UsageError: it has one layer, from which none can be told from the rest.
    """
    if depth < 2:
        raise UsageError(
            "a model of one layer says nothing about the time of another one",
            hint="price students of a deeper model",
        )
    shapes = [whole]
    if heads:
        shapes += [LayerShape(max(1, round(s * whole.heads)), whole.neurons) for s in _SHARES]
    if neurons:
        shapes += [LayerShape(whole.heads, max(1, round(s * whole.neurons))) for s in _SHARES]
    different = dict.fromkeys(shapes)
    return [MeasuredModel(n, shape) for shape in different for n in (1, min(_DEPTH, depth))]


@dataclass(frozen=True)
class LatencyTable:
    """Times of batches, from which those of other models are put together."""

    whole: LayerShape
    cells: tuple[Cell, ...]
    seconds: Mapping[MeasuredModel, tuple[float, ...]]
    """Of each model, for each cell."""

    def batch_seconds(self, layers: Sequence[LayerShape], batches: Iterable[Cell]) -> np.ndarray:
        """Return the time of each batch, [N], in seconds.

        Args:
            layers: of the model, first to last.
            batches: rows and tokens of each.

        Raises:
            UsageError: the model has no layers.
        """
        if not layers:
            raise UsageError("a model without layers has no time here")
        counts: dict[LayerShape, int] = {}
        for shape in layers[:-1]:
            counts[shape] = counts.get(shape, 0) + 1
        times = self._of_shape(self._base(), layers[-1])
        added = self._added()
        for shape, count in counts.items():
            times = times + count * self._of_shape(added, shape)
        return self._between_cells(times, list(batches))

    def _base(self) -> dict[LayerShape, np.ndarray]:
        """Return what models of one layer take, by its shape, for each cell."""
        return {m.shape: np.array(times) for m, times in self.seconds.items() if m.layers == 1}

    def _added(self) -> dict[LayerShape, np.ndarray]:
        """Return what one more layer takes, by its shape, for each cell."""
        base = self._base()
        return {
            m.shape: np.maximum(np.array(times) - base[m.shape], 0) / (m.layers - 1)
            for m, times in self.seconds.items()
            if m.layers > 1
        }

    def _of_shape(self, known: Mapping[LayerShape, np.ndarray], shape: LayerShape) -> np.ndarray:
        """Return the time of a shape for each cell, from shapes with fewer heads or neurons."""
        whole = known[self.whole]
        by_heads = {one.heads: t for one, t in known.items() if one.neurons == self.whole.neurons}
        by_neurons = {one.neurons: t for one, t in known.items() if one.heads == self.whole.heads}
        saved = (_on_line(by_heads, shape.heads) - whole) + (
            _on_line(by_neurons, shape.neurons) - whole
        )
        return np.maximum(whole + saved, 0)

    def _between_cells(self, times: np.ndarray, batches: Sequence[Cell]) -> np.ndarray:
        """Return the times of batches whose sizes lie between those of the cells."""
        by_length: dict[int, tuple[list[int], list[float]]] = {}
        for (rows, length), time in zip(self.cells, times, strict=True):
            known = by_length.setdefault(length, ([], []))
            known[0].append(rows)
            known[1].append(float(time))
        lengths = np.array(sorted(by_length))
        found = np.empty(len(batches))
        for index, (rows, length) in enumerate(batches):
            above = min(max(int(np.searchsorted(lengths, length)), 1), len(lengths) - 1)
            around = sorted({max(above - 1, 0), above})
            at = [_line(rows, *map(np.array, by_length[int(lengths[i])])) for i in around]
            found[index] = _line(length, lengths[around], np.array(at))
        return np.maximum(found, 0)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "whole": vars(self.whole),
            "cells": [list(cell) for cell in self.cells],
            "models": [
                {"layers": model.layers, **vars(model.shape), "seconds": list(times)}
                for model, times in self.seconds.items()
            ],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LatencyTable:
        """Read what `to_json` gave.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            whole=LayerShape(**values["whole"]),
            cells=tuple((int(rows), int(length)) for rows, length in values["cells"]),
            seconds={
                MeasuredModel(one["layers"], LayerShape(one["heads"], one["neurons"])): tuple(
                    map(float, one["seconds"])
                )
                for one in values["models"]
            },
        )


def _on_line(known: Mapping[int, np.ndarray], wanted: int) -> np.ndarray:
    """Return the times at a width, linearly between those at the widths beside it."""
    widths = sorted(known)
    if len(widths) == 1:
        return known[widths[0]]
    above = min(max(int(np.searchsorted(widths, wanted)), 1), len(widths) - 1)
    low, high = widths[above - 1], widths[above]
    share = (wanted - low) / (high - low)
    return (1 - share) * known[low] + share * known[high]


def _line(x: float, xs: np.ndarray, ys: np.ndarray) -> float:
    """Return y at x on the line through the two points beside it, beyond the ends too."""
    if len(xs) == 1:
        return float(ys[0])
    above = min(max(int(np.searchsorted(xs, x)), 1), len(xs) - 1)
    low, high = xs[above - 1], xs[above]
    return float(ys[above - 1] + (ys[above] - ys[above - 1]) * (x - low) / (high - low))
