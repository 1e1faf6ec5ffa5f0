"""Doing again, on the encoder that surgery began with, what its plan says was done."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from bertwright.models.depth import make_shallower
from bertwright.models.factorised import factorise_embeddings
from bertwright.models.stream import keep_width
from bertwright.models.vocabulary import keep_embeddings
from bertwright.models.widths import make_narrower, put_in_order
from bertwright.surgery.plan import SurgeryPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["replay_surgery"]


def _keep_pieces(encoder: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    copied = copy.deepcopy(encoder)
    keep_embeddings(copied, kept)
    return copied


def _factor_embeddings(encoder: PreTrainedModel, op: Mapping[str, Any]) -> PreTrainedModel:
    given = op["weights"]
    weights = None if given is None else torch.tensor(given, dtype=torch.float64)
    return factorise_embeddings(encoder, op["rank"], weights)


_DO: Mapping[str, Callable[[PreTrainedModel, Mapping[str, Any]], PreTrainedModel]] = {
    "keep_layers": lambda encoder, op: make_shallower(encoder, op["indices"]),
    "keep_heads": lambda encoder, op: make_narrower(encoder, heads={op["layer"]: op["indices"]}),
    "keep_neurons": lambda encoder, op: make_narrower(
        encoder, neurons={op["layer"]: op["indices"]}
    ),
    "order_heads": lambda encoder, op: put_in_order(encoder, heads={op["layer"]: op["indices"]}),
    "order_neurons": lambda encoder, op: put_in_order(
        encoder, neurons={op["layer"]: op["indices"]}
    ),
    "keep_pieces": lambda encoder, op: _keep_pieces(encoder, op["indices"]),
    "keep_width": lambda encoder, op: keep_width(encoder, op["indices"]),
    "factor_embeddings": _factor_embeddings,
}


def replay_surgery(encoder: PreTrainedModel, plan: SurgeryPlan) -> PreTrainedModel:
    """Return a copy of `encoder` (the model that the plan began with) after the plan's operations.

    Raises:
        UsageError: an operation names a layer, head or neuron that is not there.
        UnsupportedRoleError: the family cannot do without what is taken out.
    """
    changed = copy.deepcopy(encoder)
    for op in plan.ops:
        changed = _DO[op["op"]](changed, op)
    return changed
