"""Narrower encoders: fewer attention heads and FFN neurons, in each layer as many as it needs.

A configuration says one width for all layers. Where that is true after surgery too, it says the new
one, and `transformers` loads what is saved. Where it is not, the configuration also has
`layer_widths`, and `load_encoder` makes the layers as narrow before it reads their weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from bertwright.errors import CheckpointError, UnsupportedRoleError
from bertwright.models.factorised import saved_rank
from bertwright.models.roles import Roles, get_roles
from bertwright.models.stream import saved_attention_width
from bertwright.surgery.kept import check_kept, check_order
from bertwright.surgery.widths import head_features, keep_inputs, keep_outputs

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = [
    "LayerWidths",
    "make_narrower",
    "narrow_to_saved",
    "note_widths",
    "put_in_order",
    "refuse_fixed",
    "refuse_uneven",
    "saved_widths",
    "why_heads_stay",
    "why_neurons_stay",
    "widths_of",
]

KEY = "layer_widths"
"""In an encoder's configuration."""


@dataclass(frozen=True)
class LayerWidths:
    """How wide each layer is; None where the family does not let it be told."""

    heads: tuple[int, ...] | None
    neurons: tuple[int, ...] | None


def why_heads_stay(roles: Roles) -> str | None:
    """Return why no heads can be taken out of this encoder, or None."""
    needed = ("query", "key", "value", "attention_output")
    reasons = (roles.supports(role) for role in needed)
    return next((reason for reason in reasons if reason), roles.record.heads_fixed)


def why_neurons_stay(roles: Roles) -> str | None:
    """Return why no FFN neurons can be taken out of this encoder, or None."""
    return roles.supports("ffn_in") or roles.supports("ffn_out")


def refuse_fixed(roles: Roles, what: Literal["heads", "neurons"]) -> None:
    """Check that heads or neurons can be taken out of this encoder.

    Raises:
        UnsupportedRoleError: they cannot, with the reason.
    """
    reason = why_heads_stay(roles) if what == "heads" else why_neurons_stay(roles)
    if reason:
        raise UnsupportedRoleError(
            f"{roles.family} keeps its {what}: {reason}", hint="take whole layers out instead"
        )


def widths_of(encoder: nn.Module) -> LayerWidths:
    """Return how many heads and neurons each layer has."""
    roles = get_roles(encoder)
    every = range(roles.num_layers)
    heads = neurons = None
    if why_heads_stay(roles) is None:
        heads = tuple(
            _linear(roles, i, "query").out_features // _head_size(roles, i) for i in every
        )
    if why_neurons_stay(roles) is None:
        neurons = tuple(_linear(roles, i, "ffn_in").out_features for i in every)
    return LayerWidths(heads, neurons)


def make_narrower(
    encoder: PreTrainedModel,
    *,
    heads: Mapping[int, Sequence[int]] | None = None,
    neurons: Mapping[int, Sequence[int]] | None = None,
) -> PreTrainedModel:
    """Return a copy of `encoder` whose layers have only these heads and neurons.

    Args:
        encoder: left as it is.
        heads: layer (from 0) -> the heads that it keeps, increasing; other layers keep theirs.
        neurons: layer -> the neurons of its FFN that it keeps, increasing.

    Raises:
        UsageError: a layer, head or neuron is not there, or a layer would keep none.
        UnsupportedRoleError: the family's heads or neurons cannot be taken out, with the reason.
    """
    narrower = copy.deepcopy(encoder)
    _narrow(narrower, heads or {}, neurons or {})
    note_widths(narrower)
    return narrower


def put_in_order(
    encoder: PreTrainedModel,
    *,
    heads: Mapping[int, Sequence[int]] | None = None,
    neurons: Mapping[int, Sequence[int]] | None = None,
) -> PreTrainedModel:
    """Return a copy of `encoder` that computes the same, heads and neurons in another order.

    Args:
        encoder: left as it is.
        heads: layer (from 0) -> all of its heads, in the order that they shall have.
        neurons: layer -> all neurons of its FFN, likewise.

    Raises:
        UsageError: a layer is not there, or not each head or neuron is named once.
        UnsupportedRoleError: the family's heads or neurons stay where they are, with the reason.
    """
    ordered = copy.deepcopy(encoder)
    _narrow(ordered, heads or {}, neurons or {}, check_order)
    return ordered


def _narrow(
    encoder: PreTrainedModel,
    heads: Mapping[int, Sequence[int]],
    neurons: Mapping[int, Sequence[int]],
    check: Callable[[Sequence[int], int, str], tuple[int, ...]] = check_kept,
) -> None:
    roles = get_roles(encoder)
    if heads:
        refuse_fixed(roles, "heads")
    if neurons:
        refuse_fixed(roles, "neurons")
    for index, kept in heads.items():
        _keep_heads(roles, index, check(kept, _num_heads(roles, index), "head"))
    for index, kept in neurons.items():
        first, second = _linear(roles, index, "ffn_in"), _linear(roles, index, "ffn_out")
        chosen = check(kept, first.out_features, "neuron")
        roles.set_part(index, "ffn_in", keep_outputs(first, chosen))
        roles.set_part(index, "ffn_out", keep_inputs(second, chosen))


def _keep_heads(roles: Roles, index: int, chosen: Sequence[int]) -> None:
    features = head_features(chosen, _head_size(roles, index))
    for role in ("query", "key", "value"):
        roles.set_part(index, role, keep_outputs(_linear(roles, index, role), features))
    output = _linear(roles, index, "attention_output")
    roles.set_part(index, "attention_output", keep_inputs(output, features))
    layer: Any = roles.layers[index]
    for path in roles.record.by_head:
        parent_path, _, name = path.rpartition(".")
        parent = layer.get_submodule(parent_path)
        if isinstance(getattr(parent, name, None), nn.Linear):
            setattr(parent, name, keep_outputs(getattr(parent, name), features))
    attention: Any = roles.attention(index)
    setattr(attention, roles.record.head_count, len(chosen))
    if hasattr(attention, "all_head_size"):
        attention.all_head_size = len(features)


def _num_heads(roles: Roles, index: int) -> int:
    return _linear(roles, index, "query").out_features // _head_size(roles, index)


def _head_size(roles: Roles, index: int) -> int:
    return int(getattr(roles.attention(index), roles.record.head_size))


def _linear(roles: Roles, index: int, role: str) -> nn.Linear:
    part = roles.part(index, role)
    if not isinstance(part, nn.Linear):
        raise UnsupportedRoleError(
            f"layer {index}: {role} is a {type(part).__name__}, which cannot be made narrower",
            hint="prune before quantizing",
        )
    return part


def note_widths(encoder: PreTrainedModel) -> None:
    """Make the configuration say how wide the layers are."""
    config, widths = encoder.config, widths_of(encoder)
    key = get_roles(encoder).record.neurons_in_config
    if widths.neurons and len(set(widths.neurons)) == 1:
        setattr(config, key, widths.neurons[0])
    even = _even(widths.heads, config.num_attention_heads) and _even(
        widths.neurons, getattr(config, key)
    )
    if even:
        if hasattr(config, KEY):
            delattr(config, KEY)
    else:
        setattr(config, KEY, {k: v and list(v) for k, v in asdict(widths).items()})


def _even(widths: Sequence[int] | None, width: int) -> bool:
    return widths is None or all(one == width for one in widths)


def saved_widths(config: PreTrainedConfig) -> Mapping[str, Any] | None:
    """Return the widths that a configuration has beside its own; None where its own are true."""
    return getattr(config, KEY, None)


def refuse_uneven(encoder: PreTrainedModel) -> None:
    """Check that the configuration says how wide states, layers and word embeddings are.

    Raises:
        UnsupportedRoleError: it cannot.
    """
    if saved_rank(encoder.config) is not None:
        raise UnsupportedRoleError(
            "the word embeddings are two factors, which no configuration of "
            f"{encoder.config.model_type} in transformers can say",
            hint="export it to onnx or openvino",
        )
    if saved_attention_width(encoder.config) is not None:
        raise UnsupportedRoleError(
            "the states are narrower than the heads together, which no configuration of "
            f"{encoder.config.model_type} in transformers can say",
            hint="export it to onnx or openvino",
        )
    if saved_widths(encoder.config):
        raise UnsupportedRoleError(
            f"the layers have heads or neurons that no configuration of {encoder.config.model_type}"
            " in transformers can say",
            hint="export it to onnx or openvino",
        )


def narrow_to_saved(encoder: PreTrainedModel) -> None:
    """Give the layers of a new encoder, in place, the widths that its configuration has.

    Raises:
        CheckpointError: they do not fit the encoder.
    """
    saved = saved_widths(encoder.config)
    try:
        heads, neurons = (
            {index: range(width) for index, width in enumerate((saved or {})[what] or ())}
            for what in ("heads", "neurons")
        )
        _narrow(encoder, heads, neurons)
    except Exception as error:
        raise CheckpointError(f"{KEY} in config.json does not fit the encoder: {error}") from error
