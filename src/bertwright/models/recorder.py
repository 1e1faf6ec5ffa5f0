"""What passes through an encoder in one call. Shapes: B batch, N heads, L length, D width."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bertwright.models.roles import Roles

__all__ = ["Recorder"]


class Recorder:
    """Notes what passes through the layers while the block runs, whatever their class.

    For probabilities the encoder is switched to eager attention and back.
    """

    def __init__(self, roles: Roles, hidden_states: bool, attentions: bool) -> None:
        self.hidden_states: list[Tensor] = []
        self.attentions: list[Tensor] = []
        self._roles = roles
        self._wants = (hidden_states, attentions)
        self._handles: list[Any] = []
        self._attn = roles.encoder.config._attn_implementation

    def __enter__(self) -> Recorder:
        roles, (hidden_states, attentions) = self._roles, self._wants
        if hidden_states:
            for layer in dict.fromkeys(roles.layers):
                hook = layer.register_forward_pre_hook(self._on_layer)
                self._handles.append(hook)
        if attentions:
            modules = [roles.attention(i) for i in range(roles.num_layers)]
            for module in dict.fromkeys(modules):
                self._handles.append(module.register_forward_hook(self._on_attention))
            if self._attn not in (None, "eager"):
                roles.encoder.set_attn_implementation("eager")
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        if self._wants[1] and self._attn not in (None, "eager"):
            self._roles.encoder.set_attn_implementation(self._attn)

    def _on_layer(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.hidden_states.append(self._roles.hidden_of(args[0]))

    def _on_attention(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.attentions.append(self._roles.attentions_of(output))
