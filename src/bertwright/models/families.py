"""The supported families of encoders: where each keeps its parts, and what is special about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig

__all__ = ["FAMILIES", "ROLES", "Family"]

ROLES = (
    "query",
    "key",
    "value",
    "attention_output",
    "ffn_in",
    "ffn_out",
    "attention_norm",
    "ffn_norm",
)

Reasons = Callable[[PreTrainedConfig], Mapping[str, str]]


def _no_reasons(config: PreTrainedConfig) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family: paths to its parts, and what is special about it."""

    name: str
    parts: Mapping[str, str]
    """Role -> path inside a layer; `attention` is the module that returns the probabilities."""
    layers: str = "encoder.layer"
    embeddings: str = "embeddings"
    missing: Mapping[str, str] = field(default_factory=dict)
    """Role -> why no module plays it."""
    missing_for: Reasons = _no_reasons
    """The same where it depends on the configuration."""
    token_types: bool = True
    """The encoder's forward takes `token_type_ids` (used when its vocabulary has two or more)."""
    cls_at_end: bool = False
    length_first: bool = False
    """Layers speak [L, B, D] instead of [B, L, D]."""
    asks_for_attentions: bool = False
    """Layers return probabilities only when called with `output_attentions=True`."""
    position_offset: int = 0
    """How many of the position embeddings no token can use."""
    forward_options: Mapping[str, Any] = field(default_factory=dict)
    stock_options: Mapping[str, Any] = field(default_factory=dict)
    """What a stock model's configuration says in their place."""
    head_count: str = "num_attention_heads"
    """What the attention module calls its number of heads."""
    head_size: str = "attention_head_size"
    """What it calls the features of one head."""
    by_head: tuple[str, ...] = ()
    """Paths inside a layer to more projections whose outputs belong to heads; may be absent."""
    after_attention: str | None = None
    """Path inside a layer to the module that is called with what attention found and with the
    states, [B, L, D] both; all after it works token by token. None: there is none, or a layer
    stands there more than once."""
    heads_fixed: str | None = None
    """Why a layer cannot have fewer heads than another."""
    width_fixed: str | None = "not all that reads them is known here"
    """Why its states cannot have fewer dimensions; None: they can."""
    neurons_in_config: str = "intermediate_size"
    """What the configuration calls the width of the FFN."""


_ATTENDED = "attention.output"
_BERT_PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "ffn_in": "intermediate.dense",
    "ffn_out": "output.dense",
    "ffn_norm": "output.LayerNorm",
    "attention": "attention.self",
}


def _mobilebert_reasons(config: PreTrainedConfig) -> Mapping[str, str]:
    count = config.num_feedforward_networks
    if count == 1:
        return {}
    reason = f"a mobilebert layer has {count} feed-forward networks, not one"
    return dict.fromkeys(("ffn_in", "ffn_out", "ffn_norm"), reason)


def _albert_reasons(config: PreTrainedConfig) -> Mapping[str, str]:
    if config.inner_group_num > 1:
        reason = f"an albert layer is a group of {config.inner_group_num} blocks here"
        return dict.fromkeys(ROLES, reason)
    if config.num_hidden_groups < config.num_hidden_layers:
        reason = (
            f"albert shares the weights of {config.num_hidden_groups} block(s) among "
            f"{config.num_hidden_layers} layers, so no part belongs to one layer alone"
        )
        return dict.fromkeys(ROLES, reason)
    return {}


_NO_ATTENTION = "encoders without attention have no such part"
_XLNET_REASON = "xlnet holds this projection as a raw parameter, not as a module"
_MODERNBERT_QKV = "modernbert fuses query, key and value in one projection (Wqkv)"

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(name="bert", parts=_BERT_PARTS, after_attention=_ATTENDED, width_fixed=None),
        Family(
            name="roberta",
            parts=_BERT_PARTS,
            after_attention=_ATTENDED,
            position_offset=2,
            width_fixed=None,
        ),
        Family(
            name="xlm-roberta",
            parts=_BERT_PARTS,
            after_attention=_ATTENDED,
            position_offset=2,
            width_fixed=None,
        ),
        Family(name="electra", parts=_BERT_PARTS, after_attention=_ATTENDED, width_fixed=None),
        Family(
            name="mobilebert",
            parts=_BERT_PARTS,
            missing_for=_mobilebert_reasons,
            width_fixed="its layers bring the states into bottlenecks of other widths",
        ),
        Family(
            name="distilbert",
            width_fixed=None,
            layers="transformer.layer",
            token_types=False,
            head_count="n_heads",
            neurons_in_config="hidden_dim",
            parts={
                "query": "attention.q_lin",
                "key": "attention.k_lin",
                "value": "attention.v_lin",
                "attention_output": "attention.out_lin",
                "attention_norm": "sa_layer_norm",
                "ffn_in": "ffn.lin1",
                "ffn_out": "ffn.lin2",
                "ffn_norm": "output_layer_norm",
                "attention": "attention",
            },
        ),
        Family(
            name="albert",
            width_fixed="it has a layer's weights once for all layers that share them",
            layers="encoder.albert_layer_groups",
            missing_for=_albert_reasons,
            parts={
                "query": "albert_layers.0.attention.query",
                "key": "albert_layers.0.attention.key",
                "value": "albert_layers.0.attention.value",
                "attention_output": "albert_layers.0.attention.dense",
                "attention_norm": "albert_layers.0.attention.LayerNorm",
                "ffn_in": "albert_layers.0.ffn",
                "ffn_out": "albert_layers.0.ffn_output",
                "ffn_norm": "albert_layers.0.full_layer_layer_norm",
                "attention": "albert_layers.0.attention",
            },
        ),
        Family(
            name="mpnet",
            token_types=False,
            asks_for_attentions=True,
            position_offset=2,
            heads_fixed="mpnet adds one table of relative positions, by head, in every layer",
            parts={
                "query": "attention.attn.q",
                "key": "attention.attn.k",
                "value": "attention.attn.v",
                "attention_output": "attention.attn.o",
                "attention_norm": "attention.LayerNorm",
                "ffn_in": "intermediate.dense",
                "ffn_out": "output.dense",
                "ffn_norm": "output.LayerNorm",
                "attention": "attention.attn",
            },
        ),
        Family(
            name="deberta-v2",
            width_fixed="its table of relative positions is as wide as the states, and is read by "
            "the same projections",
            asks_for_attentions=True,
            by_head=("attention.self.pos_key_proj", "attention.self.pos_query_proj"),
            parts={
                **_BERT_PARTS,
                "query": "attention.self.query_proj",
                "key": "attention.self.key_proj",
                "value": "attention.self.value_proj",
            },
        ),
        Family(
            name="modernbert",
            width_fixed="it fuses the projections that read the states",
            layers="layers",
            token_types=False,
            parts={
                "attention_output": "attn.Wo",
                "attention_norm": "attn_norm",
                "ffn_out": "mlp.Wo",
                "ffn_norm": "mlp_norm",
                "attention": "attn",
            },
            missing={
                **dict.fromkeys(("query", "key", "value"), _MODERNBERT_QKV),
                "ffn_in": "modernbert fuses the input and the gate of its FFN in one matrix (Wi)",
            },
        ),
        Family(
            name="xlnet",
            width_fixed="it holds the projections that read the states as raw parameters",
            layers="layer",
            embeddings="word_embedding",
            cls_at_end=True,
            length_first=True,
            asks_for_attentions=True,
            neurons_in_config="d_inner",
            forward_options={"use_mems": False},
            stock_options={"use_mems_eval": False},
            parts={
                "attention_norm": "rel_attn.layer_norm",
                "ffn_in": "ff.layer_1",
                "ffn_out": "ff.layer_2",
                "ffn_norm": "ff.layer_norm",
                "attention": "rel_attn",
            },
            missing=dict.fromkeys(("query", "key", "value", "attention_output"), _XLNET_REASON),
        ),
        Family(
            name="bart",
            width_fixed="it shares its word embeddings with the decoder that it is saved with",
            layers="layers",
            embeddings="embed_tokens",
            token_types=False,
            head_count="num_heads",
            head_size="head_dim",
            neurons_in_config="encoder_ffn_dim",
            parts={
                "query": "self_attn.q_proj",
                "key": "self_attn.k_proj",
                "value": "self_attn.v_proj",
                "attention_output": "self_attn.out_proj",
                "attention_norm": "self_attn_layer_norm",
                "ffn_in": "fc1",
                "ffn_out": "fc2",
                "ffn_norm": "final_layer_norm",
                "attention": "self_attn",
            },
        ),
        Family(
            name="bertwright-small",
            layers="layers",
            token_types=False,
            heads_fixed="it has no attention heads",
            parts={},
            missing=dict.fromkeys(ROLES, _NO_ATTENTION),
        ),
    )
}
