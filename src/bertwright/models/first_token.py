"""Running the last layer for the classification token alone, where nothing else of it is read.

Keys and values need every token; what comes after attention in the last layer needs one. Of a layer
whose feed-forward network is four times as wide as its states, that leaves a quarter of the work.

Shapes: B batch, L length, D model width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bertwright.models.roles import Roles

__all__ = ["FirstTokenAlone"]


class FirstTokenAlone:
    """While the block runs, the encoder returns the first real token's state, [B, 1, D].

    Where the family cannot, or a module of another kind stands in the place of the last layer, it
    returns all of them as ever. Gradients are the same: what is left out had none.
    """

    def __init__(self, roles: Roles, mask: Tensor) -> None:
        """Note the places; nothing is changed yet.

        Args:
            roles: of the encoder.
            mask: 1 for real tokens, [B, L].
        """
        self._roles = roles
        self.places = mask.int().argmax(dim=1)
        """Of the first real tokens, int64 [B]."""
        self._handle: Any = None

    def __enter__(self) -> FirstTokenAlone:
        module = self._after_attention()
        if module is not None:
            self._handle = module.register_forward_pre_hook(self._take_first)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._handle is not None:
            self._handle.remove()

    def first_of(self, per_token: Tensor) -> Tensor:
        """Return what belongs to the first real tokens: [B, 1, ...] of [B, L, ...]."""
        index = self.places.view(-1, 1, *[1] * (per_token.ndim - 2))
        return per_token.gather(1, index.expand(-1, 1, *per_token.shape[2:]))

    def _after_attention(self) -> nn.Module | None:
        path = self._roles.record.after_attention
        if path is None:
            return None
        try:
            return self._roles.layers[-1].get_submodule(path)
        except AttributeError:
            return None

    def _take_first(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self.first_of(states) for states in args)
