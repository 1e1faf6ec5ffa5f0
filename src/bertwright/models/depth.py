"""Shallower encoders: the same family with fewer layers, still stock for `transformers`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bertwright.models.roles import get_roles
from bertwright.models.widths import note_widths
from bertwright.surgery.layers import keep_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["make_shallower"]


def make_shallower(encoder: PreTrainedModel, indices: Sequence[int]) -> PreTrainedModel:
    """Return a copy of `encoder` that has only the layers at `indices` (0-based, increasing).

    The copy's configuration says its own depth, so `save_pretrained` and
    `AutoModel.from_pretrained` give the same encoder back.

    Raises:
        UsageError: the indices are empty, out of range or not increasing.
        UnsupportedRoleError: the family cannot do without one of the dropped layers.
    """
    smaller = copy.deepcopy(encoder)
    roles = get_roles(smaller)
    roles.set_layers(keep_layers(roles.layers, indices))
    for position, layer in enumerate(roles.layers):
        for module in layer.modules():
            _renumber(module, position)
    note_widths(smaller)
    return smaller


def _renumber(module: Any, position: int) -> None:
    """Tell a module that knows which layer it is in where it stands now."""
    if isinstance(getattr(module, "layer_idx", None), int):
        module.layer_idx = position
