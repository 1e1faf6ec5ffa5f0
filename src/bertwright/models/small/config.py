"""The shape of an encoder without attention."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

__all__ = ["KINDS", "SmallConfig"]

KINDS = ("static", "cnn", "lstm")


class SmallConfig(PreTrainedConfig):
    """What an encoder without attention is made of; saved as its config.json."""

    model_type = "bertwright-small"

    def __init__(
        self,
        *,
        kind: str = "static",
        vocab_size: int = 1,
        hidden_size: int = 1,
        num_hidden_layers: int = 0,
        kernel_size: int = 3,
        ngram_longest: int = 1,
        ngram_buckets: int = 0,
        max_position_embeddings: int = 0,
        hidden_dropout_prob: float = 0.1,
        pad_token_id: int | None = 0,
        **others: Any,
    ) -> None:
        """Take the values.

        Args:
            kind: static (no layers), cnn or lstm.
            vocab_size: pieces.
            hidden_size: D.
            num_hidden_layers: of a cnn or an lstm.
            kernel_size: tokens that a cnn's layer sees; odd.
            ngram_longest: n; runs of 2 to n pieces have vectors too.
            ngram_buckets: how many vectors these share.
            max_position_embeddings: places that have a vector, the longest input; 0: none has.
            hidden_dropout_prob: in training.
            pad_token_id: of the tokenizer.
            others: as of any configuration.
        """
        self.kind = kind
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = 1
        self.type_vocab_size = 1
        self.kernel_size = kernel_size
        self.ngram_longest = ngram_longest
        self.ngram_buckets = ngram_buckets
        self.max_position_embeddings = max_position_embeddings
        self.position_biased_input = max_position_embeddings > 0
        self.hidden_dropout_prob = hidden_dropout_prob
        super().__init__(**others)
        self.pad_token_id = pad_token_id


AutoConfig.register(SmallConfig.model_type, SmallConfig)
