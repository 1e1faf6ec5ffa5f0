"""The queries, keys and values of a layer, read as an encoder computes them.

Shape letters: B batch, L length, D width of the projections (all heads together).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from bertwright.models.roles import get_roles
from bertwright.models.widths import widths_of

__all__ = [
    "ProjectionReader",
    "ProjectionShape",
    "Projections",
    "heads_of",
    "projection_shape",
]


class Projections(NamedTuple):
    """What the attention of one layer works on; the heads stand side by side in D."""

    query: Tensor
    """[B, L, D]"""
    key: Tensor
    """[B, L, D]"""
    value: Tensor
    """[B, L, D]"""


class ProjectionShape(NamedTuple):
    """How wide the projections of one layer are."""

    num_heads: int
    width: int
    """D, of all heads together; less than the model's where heads were taken out."""


def heads_of(encoder: nn.Module) -> tuple[int, ...]:
    """Return how many attention heads each layer has (1 in a family without attention)."""
    roles = get_roles(encoder)
    return widths_of(encoder).heads or (roles.num_heads,) * roles.num_layers


def projection_shape(encoder: nn.Module, layer: int) -> ProjectionShape:
    """Return the heads and the width of layer `layer` (from 1).

    Raises:
        UnsupportedRoleError: the family has no projections of their own, with the reason.
        UsageError: there is no such layer.
    """
    roles = get_roles(encoder)
    query: Any = roles.part(layer - 1, "query")
    return ProjectionShape(heads_of(encoder)[layer - 1], query.out_features)


class ProjectionReader:
    """Reads the projections of some layers from one forward pass at a time.

    `open` puts hooks on the projections. Each takes what comes first and removes itself: deberta-v2
    sends its relative positions through the same modules afterwards.
    """

    def __init__(self, encoder: nn.Module, layers: Iterable[int]) -> None:
        """Find the projections.

        Args:
            encoder: nothing is changed in it before `open`.
            layers: from 1.

        Raises:
            UnsupportedRoleError: the family has no projections of their own, with the reason.
            UsageError: there is no such layer.
        """
        roles = get_roles(encoder)
        self._modules = {
            (layer, role): roles.part(layer - 1, role)
            for layer in layers
            for role in Projections._fields
        }
        self._handles: dict[tuple[int, str], Any] = {}
        self._seen: dict[tuple[int, str], Tensor] = {}

    def open(self) -> None:
        """Be ready for one forward pass; what was read before is forgotten."""
        self.close()
        self._seen = {}
        for place, module in self._modules.items():
            self._handles[place] = module.register_forward_hook(self._noting(place))

    def close(self) -> None:
        """Remove the hooks that are still there; what was read stays."""
        for handle in self._handles.values():
            handle.remove()
        self._handles = {}

    def __enter__(self) -> ProjectionReader:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def take(self, layer: int) -> Projections:
        """Return the projections of layer `layer`, each [B, L, D], and forget them.

        Raises:
            KeyError: the layer has not run since `open`, or was not asked for.
        """
        return Projections(*(self._seen.pop((layer, role)) for role in Projections._fields))

    def _noting(self, place: tuple[int, str]) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            self._seen[place] = output
            self._handles.pop(place).remove()

        return note
