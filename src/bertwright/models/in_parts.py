"""Encoders that can be run one layer after the other from outside.

Shapes: B batch, L length, D model width.
"""

from __future__ import annotations

from torch import Tensor

from bertwright.errors import UnsupportedFamilyError
from bertwright.models.roles import Roles

__all__ = ["FAMILIES_IN_PARTS", "check_runs_in_parts", "embed", "mask_for_layers"]

FAMILIES_IN_PARTS = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")
"""Their encoders are embeddings and then layers that take states and one mask, and no more."""


def check_runs_in_parts(roles: Roles, what: str) -> None:
    """Raise unless the encoder can be run one layer after the other from outside.

    Raises:
        UnsupportedFamilyError: it cannot, so there is no `what`; with the reason.
    """
    if roles.family not in FAMILIES_IN_PARTS:
        raise UnsupportedFamilyError(
            f"{what}: a layer of {roles.family} needs more than states and a mask, or its "
            "encoder does more than run its layers, so it cannot be stopped between them",
            hint=f"families that can: {', '.join(FAMILIES_IN_PARTS)}",
        )


def embed(roles: Roles, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
    """Return what enters the first layer, [B, L, D]."""
    types = {"token_type_ids": token_type_ids} if roles.uses_token_types else {}
    states = roles.embeddings(input_ids=input_ids, **types)
    projection = getattr(roles.encoder, "embeddings_project", None)
    return states if projection is None else projection(states)


def mask_for_layers(roles: Roles, states: Tensor, mask: Tensor) -> Tensor | None:
    """Return the padding of rows as their layers take it; None where there is none.

    Args:
        roles: of the encoder.
        states: what enters the next layer, [B, L, D].
        mask: 1 for real tokens, [B, L].
    """
    from transformers.masking_utils import create_bidirectional_mask

    return create_bidirectional_mask(
        config=roles.encoder.config, inputs_embeds=states, attention_mask=mask
    )
