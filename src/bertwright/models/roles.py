"""Where each family of encoders keeps its parts, so that no method spells a module path.

A family is one record in `families`. `get_roles(encoder)` answers in the field's terms: the
embeddings, the layers, and in layer i the query, key, value, attention output, FFN in, FFN out and
norms. A part that a family does not have in a usable form has a reason instead.

Shapes: B batch, L length, D model width, N heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from bertwright.errors import UnsupportedFamilyError, UnsupportedRoleError, UsageError
from bertwright.models.families import FAMILIES, ROLES, Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Roles", "get_roles"]

_RETURNED_TUPLES = {"mpnet": 1, "deberta-v2": 2, "xlnet": 2}
"""Families whose layers return a tuple, hidden states first, and of how many; others a tensor."""


def get_roles(encoder: nn.Module) -> Roles:
    """Return where this encoder keeps its parts.

    Raises:
        UnsupportedFamilyError: the family is not known, or this is not a bare encoder of it.
    """
    from transformers import PreTrainedModel

    name = str(getattr(getattr(encoder, "config", None), "model_type", None))
    if name not in FAMILIES or not isinstance(encoder, PreTrainedModel):
        raise UnsupportedFamilyError(
            f"{type(encoder).__name__} (model type {name}) is not of a supported family",
            hint=f"supported: {', '.join(FAMILIES)}",
        )
    family = FAMILIES[name]
    try:
        encoder.get_submodule(family.layers)
    except AttributeError:
        raise UnsupportedFamilyError(
            f"{type(encoder).__name__} is not a bare {name} encoder (it has no {family.layers!r})",
            hint="pass it through bertwright.models.encoder.load_encoder",
        ) from None
    return Roles(encoder, family)


class Roles:
    """The parts of one encoder; holds nothing but the encoder, so it never grows stale."""

    def __init__(self, encoder: PreTrainedModel, family: Family) -> None:
        self.encoder = encoder
        self.record = family
        self._model: Any = encoder

    @property
    def family(self) -> str:
        """The family's name, a key of `FAMILIES`."""
        return self.record.name

    @property
    def embeddings(self) -> nn.Module:
        """What turns ids into vectors (xlnet and bart: the word embedding alone)."""
        return self.encoder.get_submodule(self.record.embeddings)

    @property
    def layers(self) -> list[nn.Module]:
        """The layers in the order they run; a shared layer (albert) stands there repeatedly."""
        module_list = self.encoder.get_submodule(self.record.layers)
        assert isinstance(module_list, nn.ModuleList)
        modules = list(module_list)
        if self.family == "albert":
            count = self.encoder.config.num_hidden_layers
            return [modules[_albert_group(i, count, len(modules))] for i in range(count)]
        return modules

    @property
    def num_layers(self) -> int:
        """K, how many layers run."""
        return len(self.layers)

    @property
    def hidden_size(self) -> int:
        """D, the width of the states between layers."""
        return int(self.encoder.config.hidden_size)

    @property
    def num_heads(self) -> int:
        """N, the attention heads of a layer."""
        return int(self.encoder.config.num_attention_heads)

    @property
    def cls_at_end(self) -> bool:
        """The classification token is the last one, not the first."""
        return self.record.cls_at_end

    @property
    def uses_token_types(self) -> bool:
        """The encoder tells a first text from a second one by `token_type_ids`."""
        return self.record.token_types and getattr(self.encoder.config, "type_vocab_size", 2) > 1

    @property
    def max_length(self) -> int | None:
        """The longest input in tokens that the positions allow; None where there is no limit."""
        config = self.encoder.config
        if self.family == "xlnet" or not getattr(config, "position_biased_input", True):
            return None
        return int(config.max_position_embeddings) - self.record.position_offset

    @property
    def asks_for_attentions(self) -> bool:
        """The encoder must be called with `output_attentions=True` to compute probabilities."""
        return self.record.asks_for_attentions

    @property
    def forward_options(self) -> dict[str, Any]:
        """Keyword arguments that every forward of this family should get."""
        return dict(self.record.forward_options)

    def supports(self, role: str) -> str | None:
        """Return None when every layer has this part as a module of its own, else the reason.

        Raises:
            UnsupportedRoleError: `role` is not one of `ROLES`.
        """
        if role not in ROLES:
            raise UnsupportedRoleError(f"unknown role {role!r}", hint=f"roles: {', '.join(ROLES)}")
        reasons = {**self.record.missing, **self.record.missing_for(self.encoder.config)}
        return reasons.get(role)

    def part(self, index: int, role: str) -> nn.Module:
        """Return the module that plays `role` in layer `index` (0-based).

        In modernbert the norms stand before their block, elsewhere after it.

        Raises:
            UnsupportedRoleError: the family has no such part, with the reason.
            UsageError: there is no such layer.
        """
        reason = self.supports(role)
        if reason is not None:
            raise UnsupportedRoleError(f"no {role!r} to work on in {self.family}: {reason}")
        return self._inside(index, role)

    def set_part(self, index: int, role: str, module: nn.Module) -> None:
        """Put `module` where layer `index` has the part that plays `role`; raises as `part`."""
        self.part(index, role)
        parent_path, _, name = self.record.parts[role].rpartition(".")
        setattr(self.layers[index].get_submodule(parent_path), name, module)

    def attention(self, index: int) -> nn.Module:
        """Return the module of layer `index` that computes the attention probabilities."""
        return self._inside(index, "attention")

    def _inside(self, index: int, name: str) -> nn.Module:
        layers = self.layers
        if not 0 <= index < len(layers):
            raise UsageError(f"there is no layer {index}", hint=f"0 to {len(layers) - 1}")
        if name not in self.record.parts:
            raise UnsupportedRoleError(f"{self.family} has no {name!r}")
        try:
            return layers[index].get_submodule(self.record.parts[name])
        except AttributeError:
            raise UnsupportedRoleError(
                f"layer {index} is a {type(layers[index]).__name__}, which has no {name!r}"
            ) from None

    def set_layers(self, layers: Sequence[nn.Module]) -> None:
        """Put these layers in the encoder, in this order, and set the configuration's depth.

        Any module with the signature of the family's layers may stand in the place of one.

        Raises:
            UsageError: there are no layers.
            UnsupportedRoleError: the family cannot run them in this order, with the reason.
        """
        if not layers:
            raise UsageError("no layer would be left", hint="keep at least one layer")
        modules = list(layers)
        config = self.encoder.config
        if self.family == "modernbert":
            self._check_modernbert(modules)
        if self.family == "deberta-v2" and getattr(self._model.encoder, "conv", None) is not None:
            foreign = [m for m in modules if not isinstance(m, type(self.layers[0]))]
            if foreign:
                raise UnsupportedRoleError(
                    f"this deberta-v2 has a convolution after its first layer, so a "
                    f"{type(foreign[0]).__name__} cannot stand in the place of layers"
                )
        if self.family == "albert":
            modules = _albert_groups(modules)
            config.num_hidden_groups = len(modules)
        config.num_hidden_layers = len(layers)
        if self.family == "modernbert":
            config.layer_types = [str(layer.attention_type) for layer in modules]
        if self.family == "xlnet":
            self._model.n_layer = len(modules)
        if self.family == "distilbert":
            self._model.transformer.n_layers = len(modules)
        for layer in modules:
            for module in layer.modules():
                _share_config(module, config)
        parent_path, _, name = self.record.layers.rpartition(".")
        setattr(self.encoder.get_submodule(parent_path), name, nn.ModuleList(modules))

    def _check_modernbert(self, modules: Sequence[Any]) -> None:
        known = list(self._model.rotary_emb.layer_types)
        for position, layer in enumerate(modules):
            first = isinstance(getattr(layer, "attn_norm", None), nn.Identity)
            if hasattr(layer, "attn_norm") and first != (position == 0):
                raise UnsupportedRoleError(
                    "modernbert's layer 0 has no attention norm and all others have one, so "
                    "layer 0 must stay, and stay first",
                    hint="choose layers that begin with 0",
                )
            if not hasattr(layer, "attention_type"):
                layer.attention_type = known[0]

    def run_layers(
        self, layers: Sequence[nn.Module], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run several layers as if they were one.

        Args:
            layers: layers of this family, at least one.
            args: what the encoder passed by position; the first is the hidden states.
            kwargs: what it passed by name.

        Returns:
            What the last layer returns, in the family's own form.
        """
        if not layers:
            raise UsageError("no layers to run")
        if self.family == "modernbert":
            return self._run_modernbert(layers, args, kwargs)
        output = layers[0](*args, **kwargs)
        for layer in layers[1:]:
            hidden = output[0] if isinstance(output, tuple) else output
            output = layer(hidden, *args[1:], **kwargs)
        return output

    def _run_modernbert(
        self, layers: Sequence[nn.Module], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Tensor:
        """Run layers that may attend globally or in a window; each needs its own mask and angles.

        The encoder passes those of one kind only, and the others are made from them.
        """
        from transformers.masking_utils import (
            create_bidirectional_mask,
            create_bidirectional_sliding_window_mask,
        )

        (hidden, *rest), options = args, dict(kwargs)
        mask = options.pop("attention_mask", None)
        options.pop("position_embeddings", None)
        real = _real_tokens(mask, hidden)
        positions = torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0)
        inputs: dict[str, tuple[Any, Any]] = {}
        for layer in layers:
            kind = str(layer.attention_type)
            if kind not in inputs:
                make_mask = (
                    create_bidirectional_mask
                    if kind == "full_attention"
                    else create_bidirectional_sliding_window_mask
                )
                inputs[kind] = (
                    make_mask(self.encoder.config, inputs_embeds=hidden, attention_mask=real),
                    self._model.rotary_emb(hidden, positions, kind),
                )
            mask_kind, angles = inputs[kind]
            hidden = layer(
                hidden, *rest, attention_mask=mask_kind, position_embeddings=angles, **options
            )
        return hidden

    def unchanged(self, args: Sequence[Any]) -> Any:
        """Return what a layer would return if it left the hidden states as they are.

        Args:
            args: what the encoder passed by position; the first is the hidden states.

        Returns:
            The hidden states, in the family's own form.
        """
        size = _RETURNED_TUPLES.get(self.family)
        return args[0] if size is None else (args[0], *[None] * (size - 1))

    def hidden_of(self, layer_output: Any) -> Tensor:
        """Return the hidden states [B, L, D] in what a layer took or returned."""
        hidden = layer_output[0] if isinstance(layer_output, tuple) else layer_output
        return hidden.transpose(0, 1) if self.record.length_first else hidden

    def attentions_of(self, attention_output: Any) -> Tensor:
        """Return the probabilities [B, N, L, L] in what an attention module returned."""
        if self.record.length_first:
            return attention_output[2].permute(2, 3, 0, 1)
        return attention_output[1]


def _share_config(module: Any, config: PreTrainedConfig) -> None:
    """Make a layer from elsewhere follow this encoder's configuration (its kind of attention)."""
    if isinstance(getattr(module, "config", None), PreTrainedConfig):
        module.config = config


def _real_tokens(mask: Tensor | None, hidden: Tensor) -> Tensor | None:
    """Return the [B, L] padding mask inside a layer's mask: a token sees itself iff it is real."""
    if mask is None:
        return None
    if mask.dim() == 2:
        return mask
    diagonal = mask[:, 0].diagonal(dim1=-2, dim2=-1)
    seen = diagonal if diagonal.dtype == torch.bool else diagonal == 0
    return seen.expand(hidden.shape[0], -1)


def _albert_group(index: int, num_layers: int, num_groups: int) -> int:
    return int(index / (num_layers / num_groups))


def _albert_groups(modules: list[nn.Module]) -> list[nn.Module]:
    """Return the distinct groups such that albert's own rule runs `modules` in order."""
    distinct = list(dict.fromkeys(modules))
    count = len(modules)
    if [distinct[_albert_group(i, count, len(distinct))] for i in range(count)] == modules:
        return distinct
    if len(distinct) == count:
        return modules
    raise UnsupportedRoleError(
        "albert runs each shared block equally often in a row, and these layers do not fit that",
        hint="keep the same number of layers of every block",
    )
