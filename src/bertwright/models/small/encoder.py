"""Vectors of pieces, runs of pieces and places; above them nothing, convolutions or LSTMs.

Shapes: B batch, L length, D width, V vocabulary, n pieces of a run, G vectors of runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from bertwright.models.heads.bilstm import BiLSTM
from bertwright.models.small.config import SmallConfig

__all__ = ["ConvolutionLayer", "LSTMLayer", "SmallEmbeddings", "SmallEncoder", "hash_runs"]

_INIT_STD = 0.02


def hash_runs(input_ids: Tensor, numbers: Tensor, num_buckets: int) -> Tensor:
    """Return a bucket for the run of n pieces that ends at each place, [B, L], int64.

    A piece has a random number for each place in the run; the bucket is their sum, modulo G. So
    equal runs have equal buckets wherever they are, and two others share one by a chance of 1 / G.
    What would stand before the text counts 0.

    Args:
        input_ids: [B, L]; rows begin at place 0.
        numbers: [n, V], each at least 0 and below G: of the last piece of a run, of the one
            before it, ... Sums stay within 32 bits, which is what some engines count in.
        num_buckets: G.

    Source: Zobrist 1970; Carter and Wegman 1979.
    """
    found = numbers[0][input_ids]
    for back in range(1, len(numbers)):
        found = found + F.pad(numbers[back][input_ids], (back, 0))[:, : input_ids.shape[1]]
    return found % num_buckets


class SmallEmbeddings(nn.Module):
    """The sum of the vectors of a piece, of the runs that end at it, and of its place."""

    run_numbers: Tensor
    """See `hash_runs`, [n, V]."""

    def __init__(self, config: SmallConfig) -> None:
        """Build the tables; those of runs and places begin at 0."""
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.num_buckets = config.ngram_buckets
        self.longest = config.ngram_longest if config.ngram_buckets else 1
        self.run_embeddings: nn.Embedding | None = None
        if self.longest > 1:
            self.run_embeddings = nn.Embedding(self.num_buckets, width)
            shape = (self.longest, config.vocab_size)
            self.register_buffer("run_numbers", torch.randint(self.num_buckets, shape))
        places = config.max_position_embeddings
        self.position_embeddings = nn.Embedding(places, width) if places else None
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def keep_numbers(self, kept: Sequence[int]) -> None:
        """Leave the numbers of these pieces, in their order, as the table of pieces does."""
        if self.run_embeddings is not None:
            self.run_numbers = self.run_numbers[:, list(kept)].clone()

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return [B, L, D] from ids [B, L]."""
        hidden = self.word_embeddings(input_ids)
        if self.run_embeddings is not None:
            for length in range(2, self.longest + 1):
                buckets = hash_runs(input_ids, self.run_numbers[:length], self.num_buckets)
                hidden = hidden + self.run_embeddings(buckets)
        if self.position_embeddings is not None:
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            hidden = hidden + self.position_embeddings(places)
        return self.dropout(hidden)


class ConvolutionLayer(nn.Module):
    """h + dropout(relu(convolution(norm(h)))); padding is silent."""

    def __init__(self, config: SmallConfig) -> None:
        """Build it for states of the configuration's width."""
        super().__init__()
        width, kernel = config.hidden_size, config.kernel_size
        self.norm = nn.LayerNorm(width)
        self.convolution = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return [B, L, D] from [B, L, D] and the mask [B, L]."""
        quiet = self.norm(hidden) * mask[..., None]
        found = self.convolution(quiet.transpose(1, 2)).transpose(1, 2)
        return hidden + self.dropout(torch.relu(found))


class LSTMLayer(nn.Module):
    """h + dropout(W [LSTM ahead; LSTM back](norm(h))), each direction half as wide."""

    def __init__(self, config: SmallConfig) -> None:
        """Build it for states of the configuration's width."""
        super().__init__()
        width = config.hidden_size
        self.norm = nn.LayerNorm(width)
        self.lstm = BiLSTM(width, width // 2)
        self.out = nn.Linear(2 * (width // 2), width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return [B, L, D] from [B, L, D] and the mask [B, L]; padded on the right."""
        return hidden + self.dropout(self.out(self.lstm(self.norm(hidden), mask)))


_LAYERS = {"cnn": ConvolutionLayer, "lstm": LSTMLayer}


class SmallEncoder(PreTrainedModel):
    """An encoder without attention, of the form that `transformers` gives encoders."""

    config_class = SmallConfig
    base_model_prefix = "small"
    main_input_name = "input_ids"

    def __init__(self, config: SmallConfig) -> None:
        """Build it with random weights."""
        super().__init__(config)
        self.embeddings = SmallEmbeddings(config)
        layer = _LAYERS.get(config.kind)
        count = config.num_hidden_layers if layer else 0
        self.layers = nn.ModuleList([layer(config) for _ in range(count)] if layer else [])
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        if isinstance(module, SmallEmbeddings):
            for name, table in module.named_children():
                if isinstance(table, nn.Embedding):
                    is_word = name == "word_embeddings"
                    nn.init.normal_(table.weight, std=_INIT_STD if is_word else 0.0)

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of pieces."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another table of pieces."""
        setattr(self.embeddings, "word_embeddings", value)  # noqa: B010

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **others: Any
    ) -> BaseModelOutput:
        """Return the states of the tokens, `last_hidden_state` [B, L, D].

        Args:
            input_ids: [B, L], padded on the right.
            attention_mask: [B, L], 1 for real tokens; without it all are.
            others: what encoders of other families take (`return_dict`); not used.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        hidden = self.embeddings(input_ids)
        mask = attention_mask.to(hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return BaseModelOutput(last_hidden_state=hidden)
