"""Several heads whose answers are averaged. Shapes: B batch, D width of the vector, C outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bertwright.errors import ConfigError
from bertwright.models.outputs import Outputs

__all__ = ["BagHead"]


class BagHead(nn.Module):
    """Heads on the same vector: the mean of their probabilities, or of their numbers.

    The variance of a mean of k answers with correlation r is r s² + (1 - r) s² / k (Breiman 1996).
    """

    def __init__(self, heads: Iterable[nn.Module], outputs: Outputs) -> None:
        """Put heads together.

        Raises:
            ConfigError: their outputs have no mean (vectors).
        """
        super().__init__()
        if outputs.kind not in ("classes", "labels", "numbers"):
            raise ConfigError(
                f"--head-bags: there is no mean of {outputs.kind}", hint="leave it out"
            )
        self.heads = nn.ModuleList(heads)
        self.outputs = outputs

    def forward(self, pooled: Tensor) -> Tensor:
        """Return [B, C] from vectors [B, D]; of classes and labels as logits."""
        given = torch.stack([head(pooled) for head in self.heads])
        if self.outputs.kind == "numbers":
            return given.mean(dim=0)
        if self.outputs.kind == "classes":
            return given.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(self.heads))
        yes = nn.functional.logsigmoid(given).logsumexp(dim=0)
        return yes - nn.functional.logsigmoid(-given).logsumexp(dim=0)
