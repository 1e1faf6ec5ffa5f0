"""The head of embeddings: vectors of length 1.

Shapes: B batch, L length, D model width, E width of the vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bertwright.errors import ConfigError
from bertwright.models.heads.classification import HeadConfig

__all__ = ["VectorHead"]


class VectorHead(nn.Module):
    """A pooled vector, or each token's state, brought to length 1; after a linear layer if asked.

    The linear head is that of `head_hidden` outputs; stock is none, as sentence-transformers has
    it: D = E.
    """

    score_low: Tensor
    """The least score of the training pairs; see `Embed`."""
    score_high: Tensor
    """The highest."""

    def __init__(self, width: int, head: HeadConfig) -> None:
        """Build it for vectors of `width` D.

        Raises:
            ConfigError: `head` asks for hidden layers, an LSTM or a CRF.
        """
        super().__init__()
        if head.head == "mlp" or head.head_lstm or head.head_crf:
            raise ConfigError(
                "vectors have no hidden layers, LSTM or CRF above the encoder",
                hint="leave out --head, or --head linear --head-hidden WIDTH",
            )
        self.width = head.head_hidden if head.head == "linear" else width
        """E."""
        self.dense = nn.Linear(width, self.width) if head.head == "linear" else None
        self.register_buffer("score_low", torch.full((), torch.nan))
        self.register_buffer("score_high", torch.full((), torch.nan))

    def forward(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return unit vectors [..., E] from vectors [..., D]; zeros from zeros."""
        if self.dense is not None:
            states = self.dense(states)
        return F.normalize(states, dim=-1)
