"""Shallower encoders: the same family with fewer layers, still stock for `transformers`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from bertwright.models.roles import get_roles
from bertwright.surgery.layers import keep_layers
from bertwright.surgery.plan import SurgeryPlan, apply_plan

__all__ = ["make_shallower", "replay_surgery"]


def make_shallower(encoder: PreTrainedModel, indices: Sequence[int]) -> PreTrainedModel:
    """Return a copy of `encoder` that has only the layers at `indices` (0-based, increasing).

    The copy's configuration says its own depth, so `save_pretrained` and
    `AutoModel.from_pretrained` give the same encoder back.

    Raises:
        UsageError: the indices are empty, out of range or not increasing.
        UnsupportedRoleError: the family cannot do without one of the dropped layers.
    """
    layers = keep_layers(get_roles(encoder).layers, indices)
    return _with_layers(encoder, layers)


def replay_surgery(encoder: PreTrainedModel, plan: SurgeryPlan) -> PreTrainedModel:
    """Return a copy of `encoder` (the model that the plan began with) after the plan's operations.

    Raises:
        UsageError: an operation names a layer that is not there.
        UnsupportedRoleError: the family cannot do without one of the dropped layers.
    """
    return _with_layers(encoder, apply_plan(plan, get_roles(encoder).layers))


def _with_layers(encoder: PreTrainedModel, layers: Sequence[nn.Module]) -> PreTrainedModel:
    positions = {id(layer): i for i, layer in enumerate(get_roles(encoder).layers)}
    chosen = [positions[id(layer)] for layer in layers]
    smaller = copy.deepcopy(encoder)
    roles = get_roles(smaller)
    everything = roles.layers
    roles.set_layers([everything[i] for i in chosen])
    for position, layer in enumerate(roles.layers):
        for module in layer.modules():
            _renumber(module, position)
    return smaller


def _renumber(module: Any, position: int) -> None:
    """Tell a module that knows which layer it is in where it stands now."""
    if isinstance(getattr(module, "layer_idx", None), int):
        module.layer_idx = position
