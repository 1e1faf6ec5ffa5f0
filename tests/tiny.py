"""Tiny random models of all families, with tokenizers made on the spot: no network, no files."""

from __future__ import annotations

import string
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

__all__ = ["FAMILY_NAMES", "tiny_batch", "tiny_encoder", "tiny_tokenizer"]

FAMILY_NAMES = (
    "bert",
    "roberta",
    "xlm-roberta",
    "electra",
    "distilbert",
    "mobilebert",
    "albert",
    "mpnet",
    "deberta-v2",
    "modernbert",
    "xlnet",
    "bart",
)

_WORDS = (
    "the a an is was are were be not no and or but of in to for on with as by at from it this that "
    "good bad great poor fine film movie book food place time day man woman dog cat house car red "
    "blue green fast slow big small new old very really never always like love hate see go make "
    "return array value function tensor model data index type list number name file class error"
).split()
# Pad at 0 where the family likes it so, at 1 for those that hard-code it.
_SPECIALS = {
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "xlnet": ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"],
}
_STYLES = {
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "mpnet": "roberta",
    "bart": "roberta",
    "xlnet": "xlnet",
}
_WIDTH = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
_OWN: dict[str, dict[str, Any]] = {
    "roberta": {"max_position_embeddings": 130, "type_vocab_size": 1},
    "xlm-roberta": {"max_position_embeddings": 130, "type_vocab_size": 1},
    "mpnet": {"max_position_embeddings": 130},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "mobilebert": {
        "embedding_size": 16,
        "intra_bottleneck_size": 16,
        "num_feedforward_networks": 2,
    },
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["c2p", "p2c"],
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
        "pooler_hidden_size": 32,
        "type_vocab_size": 0,
    },
    "modernbert": {"local_attention": 6, "max_position_embeddings": 128},
}


def tiny_tokenizer(family: str = "bert") -> PreTrainedTokenizerBase:
    """Return a WordPiece tokenizer in the family's style: its special tokens, ids and padding."""
    style = _STYLES.get(family, "bert")
    specials = _SPECIALS[style]
    letters = string.ascii_lowercase + string.digits
    pieces = [*specials, *_WORDS, *letters, *(f"##{c}" for c in letters), *string.punctuation]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    unknown = "[UNK]" if style == "bert" else "<unk>"
    core = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    single, pair = {
        "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
        "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
        "xlnet": ("$A <sep> <cls>:2", "$A <sep> $B:1 <sep>:1 <cls>:2"),
    }[style]
    core.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(s, vocabulary[s]) for s in specials]
    )
    names = {
        "bert": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
        "roberta": {
            **{"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"},
            **{"bos": "<s>", "eos": "</s>"},
        },
        "xlnet": {"pad": "<pad>", "unk": "<unk>", "cls": "<cls>", "sep": "<sep>", "mask": "<mask>"},
    }[style]
    types = family not in ("distilbert", "roberta", "xlm-roberta", "mpnet", "bart", "modernbert")
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        padding_side="left" if style == "xlnet" else "right",
        model_input_names=inputs if types else [n for n in inputs if n != "token_type_ids"],
        model_max_length=128,
        **{f"{role}_token": token for role, token in names.items()},
    )


def tiny_encoder(
    family: str = "bert", *, seed: int = 0, **overrides: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a random encoder of the family (4 layers of width 32, 4 heads) and its tokenizer.

    Weights depend on `seed` alone; `overrides` go to the configuration. It comes in eval mode.
    """
    tokenizer = tiny_tokenizer(family)
    values: dict[str, Any] = {"num_hidden_layers": 4, **_WIDTH}
    renamed = {
        "distilbert": {"dim": 32, "n_heads": 4, "hidden_dim": 48, "n_layers": 4},
        "xlnet": {"d_model": 32, "n_head": 4, "d_inner": 48, "n_layer": 4},
        "bart": {
            **{"d_model": 32, "encoder_layers": 4, "decoder_layers": 1},
            **{"encoder_attention_heads": 4, "decoder_attention_heads": 4},
            **{"encoder_ffn_dim": 48, "decoder_ffn_dim": 48},
        },
    }
    values = renamed.get(family, values)
    if family != "xlnet":
        values["max_position_embeddings"] = 128
    values |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    scale = "init_std" if family == "bart" else "initializer_range"
    values |= {scale: 0.05, **_OWN.get(family, {})}
    if family == "modernbert":
        ids = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
        values |= {**ids, "bos_token_id": ids["cls_token_id"], "eos_token_id": ids["sep_token_id"]}
    config = AutoConfig.for_model(family, **(values | overrides))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config, dtype=torch.float32)
    if family == "bart":
        model = model.get_encoder()
    return model.eval(), tokenizer


def tiny_batch(
    tokenizer: PreTrainedTokenizerBase, *, padding_side: str = "right"
) -> dict[str, torch.Tensor]:
    """Return four texts of different lengths, padded together, as input ids and attention mask."""
    texts = [
        "the film was really good and the food was not bad",
        "a fast car",
        "return the index of this value in the list or -1",
        "no",
    ]
    batch = tokenizer(texts, padding=True, return_tensors="pt", padding_side=padding_side)
    return {name: batch[name] for name in ("input_ids", "attention_mask")}
