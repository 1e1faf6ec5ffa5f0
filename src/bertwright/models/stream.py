"""Encoders whose states have fewer dimensions: all that reads or writes them becomes narrower.

Heads keep their width, so queries, keys and values do; only what they are computed from shrinks.
Families derive a head's width from that of the states, so the configuration of such an encoder has
`attention_width` beside its `hidden_size`, and `load_encoder` builds the encoder at that width
before it makes it narrow.

Shapes: D width of the states.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from bertwright.errors import CheckpointError, UnsupportedRoleError
from bertwright.models.factorised import FactorisedEmbedding
from bertwright.models.roles import Roles, get_roles
from bertwright.surgery.kept import check_kept
from bertwright.surgery.widths import keep_columns, keep_entries, keep_inputs, keep_outputs

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = [
    "NORMS",
    "READERS",
    "WRITERS",
    "embedding_parts",
    "keep_saved_width",
    "keep_width",
    "refuse_fixed_width",
    "saved_attention_width",
    "stream_start",
    "with_built_width",
]

KEY = "attention_width"
"""In an encoder's configuration: the width of all heads of a layer that has all."""
READERS = ("query", "key", "value", "ffn_in")
"""Roles of the linear maps that read the states."""
WRITERS = ("attention_output", "ffn_out")
"""Roles of those whose outputs are added to them."""
NORMS = ("attention_norm", "ffn_norm")


def refuse_fixed_width(roles: Roles) -> None:
    """Check that dimensions can be taken out of this encoder's states.

    Raises:
        UnsupportedRoleError: they cannot, with the reason.
    """
    reason = roles.record.width_fixed
    if reason:
        raise UnsupportedRoleError(
            f"{roles.family} keeps the width of its states: {reason}",
            hint="take heads, neurons or whole layers out instead",
        )


def keep_width(encoder: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """Return a copy of a bare encoder whose states have only these dimensions.

    The function changes with it, even where what is taken out was 0: norms divide by the spread of
    the dimensions that are left.

    Args:
        encoder: left as it is.
        kept: dimensions from 0, increasing.

    Raises:
        UsageError: a dimension is not there, or none would be left.
        UnsupportedRoleError: the family keeps its width, with the reason.
    """
    copied = copy.deepcopy(encoder)
    _keep(copied, kept)
    return copied


def _keep(encoder: PreTrainedModel, kept: Sequence[int]) -> None:
    roles = get_roles(encoder)
    refuse_fixed_width(roles)
    chosen = check_kept(kept, roles.hidden_size, "dimension")
    for index in range(roles.num_layers):
        for role in READERS:
            roles.set_part(index, role, keep_inputs(_linear(roles, index, role), chosen))
        for role in WRITERS:
            roles.set_part(index, role, keep_outputs(_linear(roles, index, role), chosen))
        for role in NORMS:
            roles.set_part(index, role, _narrow(roles.part(index, role), chosen))
    for parent, name, module in list(embedding_parts(encoder)):
        setattr(parent, name, _narrow(module, chosen))
    _say_width(roles, len(chosen))


def embedding_parts(encoder: PreTrainedModel) -> Iterator[tuple[Any, str, nn.Module]]:
    """Yield what makes the first states, as (parent, name, module).

    In electra this is the projection behind its embeddings, where there is one.
    """
    projection = getattr(encoder, "embeddings_project", None)
    if projection is not None:
        yield encoder, "embeddings_project", projection
        return
    embeddings = get_roles(encoder).embeddings
    for name, module in embeddings.named_children():
        if isinstance(module, nn.Embedding | nn.LayerNorm):
            yield embeddings, name, module


def stream_start(encoder: PreTrainedModel) -> nn.Module:
    """Return the module whose outputs are the first states: electra's projection, or a norm."""
    modules = [module for _, _, module in embedding_parts(encoder)]
    return next(one for one in reversed(modules) if not isinstance(one, nn.Embedding))


def _linear(roles: Roles, index: int, role: str) -> nn.Linear:
    part = roles.part(index, role)
    assert isinstance(part, nn.Linear), role
    return part


def _narrow(module: nn.Module, chosen: Sequence[int]) -> nn.Module:
    """Return the module with only these outputs."""
    if isinstance(module, FactorisedEmbedding):
        projection = keep_outputs(module.projection, chosen).weight.detach().T
        return FactorisedEmbedding(module.weight.detach(), projection, module.padding_idx)
    if isinstance(module, nn.Embedding):
        return keep_columns(module, chosen)
    if isinstance(module, nn.Linear):
        return keep_outputs(module, chosen)
    assert isinstance(module, nn.LayerNorm), type(module)
    return keep_entries(module, chosen)


def _say_width(roles: Roles, width: int) -> None:
    """Make the configuration say the width of the states, and that of the heads if it is other."""
    config = roles.encoder.config
    if _embeds_at_width(config):
        config.embedding_size = width
    elif getattr(config, "embedding_size", None) == width:
        raise UnsupportedRoleError(
            f"{roles.family} has no projection where its states are as wide as its embeddings, "
            f"{width}",
            hint="keep another number of dimensions",
        )
    attended = config.num_attention_heads * int(getattr(roles.attention(0), roles.record.head_size))
    config.hidden_size = width
    if attended != width:
        setattr(config, KEY, attended)
    elif hasattr(config, KEY):
        delattr(config, KEY)


def _embeds_at_width(config: PreTrainedConfig) -> bool:
    return getattr(config, "embedding_size", None) == config.hidden_size


def saved_attention_width(config: PreTrainedConfig) -> Any:
    """Return the width of all heads where it is not that of the states; None where it is."""
    return getattr(config, KEY, None)


def with_built_width(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration to build a saved encoder with: as wide as its heads together.

    Raises:
        CheckpointError: what it says is no such width.
    """
    attended = saved_attention_width(config)
    if attended is None:
        return config
    fits = type(attended) is int and attended > config.hidden_size > 0
    if not fits or attended % config.num_attention_heads:
        raise CheckpointError(
            f"{KEY} in config.json is {attended!r}, which does not fit states of "
            f"{config.hidden_size} and {config.num_attention_heads} heads"
        )
    built = copy.deepcopy(config)
    if _embeds_at_width(config):
        built.embedding_size = attended
    built.hidden_size = attended
    return built


def keep_saved_width(encoder: PreTrainedModel, config: PreTrainedConfig) -> None:
    """Give a new encoder, built as `with_built_width` says, its own width, in place."""
    _keep(encoder, range(config.hidden_size))
