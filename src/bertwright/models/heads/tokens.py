"""Heads that give one vector of outputs a token.

Shapes: B batch, L length, D model width, C outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from bertwright.models.heads.bilstm import BiLSTM
from bertwright.models.heads.classification import ClassificationHead, HeadConfig
from bertwright.models.heads.crf import LinearChainCRF

__all__ = ["TokenHead"]

_DROPOUT = 0.1


class TokenHead(nn.Module):
    """Dropout and a linear layer on each token's state, after a BiLSTM or hidden layers if asked.

    The stock head is the plain linear one, as in `transformers`' token classifiers. With a CRF the
    outputs are its emissions; `crf` holds the scores of passing from tag to tag.
    """

    mean_counted: Tensor
    """How many tokens of a row are counted in the loss, on average; see `per_row`."""

    def __init__(
        self, config: PreTrainedConfig, num_outputs: int, head: HeadConfig, names: Sequence[str]
    ) -> None:
        super().__init__()
        width = int(config.hidden_size)
        rate = head.head_dropout
        if rate is None:
            rate = float(getattr(config, "hidden_dropout_prob", _DROPOUT))
        self.lstm = BiLSTM(width, head.head_lstm) if head.head_lstm else None
        if head.head_lstm:
            width = 2 * head.head_lstm
        self.each = ClassificationHead(width, num_outputs, replace(head, head_dropout=rate))
        self.crf = LinearChainCRF(num_outputs, names) if head.head_crf else None
        self.register_buffer("mean_counted", torch.zeros(()))

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Return outputs [B, L, C] from states [B, L, D] of right-padded rows."""
        if self.lstm is not None:
            hidden = self.lstm(hidden, attention_mask)
        return self.each(hidden)

    def per_row(self, total: Tensor) -> Tensor:
        """Return losses of rows [B] from sums over their tokens: each token weighs the same.

        The unit is the loss of one token: sums are divided by the mean number of tokens counted in
        a training row.
        """
        return total / self.mean_counted.clamp(min=1)
