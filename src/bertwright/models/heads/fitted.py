"""Heads that are fitted to vectors and not trained by gradients: neighbours and trees.

Shapes: B batch, D width of the vector, C outputs, M remembered vectors, T trees, N nodes a tree.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bertwright.models.outputs import Outputs

__all__ = ["FittedHead", "NeighbourHead", "TreesHead", "find_fitted_head"]

TREE_LEVELS = 3
"""Questions on the way to a leaf, at most."""


def find_fitted_head(model: nn.Module) -> FittedHead | None:
    """Return a head of the model that passes no gradient to what is below it, if there is one."""
    return next((part for part in model.modules() if isinstance(part, FittedHead)), None)


class FittedHead(nn.Module):
    """A head without parameters, whose buffers have the sizes of what was fitted."""

    name: ClassVar[str]
    """As in `HeadConfig.head`."""
    temperature: Tensor
    """[], divides the logits of classes."""

    def __init__(self, outputs: Outputs) -> None:
        """Build it empty."""
        super().__init__()
        self.outputs = outputs
        self.register_buffer("temperature", torch.ones(()))

    def set(self, **values: Tensor) -> None:
        """Put in what was fitted, by the names of the buffers."""
        for name, value in values.items():
            own = self.get_buffer(name)
            setattr(self, name, value.to(own.dtype).to(own.device))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name, own in list(self.named_buffers(recurse=False)):
            stored = state_dict.get(prefix + name)
            if stored is not None and stored.ndim == own.ndim:
                setattr(self, name, own.new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class NeighbourHead(FittedHead):
    """The nearest of the vectors that it remembers, by cosine, say what they have been told.

    Of classes: logits are log((votes + 1 / C) / (k + 1)), so that a class without a vote has a
    chance. Of numbers: the mean of the neighbours' numbers.
    """

    name = "nearest"
    vectors: Tensor
    """[M, D], of length 1."""
    targets: Tensor
    """[M, C]: 1 for the class of each, or its numbers."""
    votes: Tensor
    """[k]: what the first, second, ... neighbour counts; their sum is k."""

    def __init__(self, width: int, outputs: Outputs) -> None:
        """Build it empty, for vectors of `width` D."""
        super().__init__(outputs)
        self.register_buffer("vectors", torch.zeros(1, width))
        self.register_buffer("targets", torch.zeros(1, outputs.count))
        self.register_buffer("votes", torch.ones(1))

    def forward(self, pooled: Tensor) -> Tensor:
        """Return [B, C] from vectors [B, D]."""
        alike = nn.functional.normalize(pooled.float(), dim=-1) @ self.vectors.T
        count = self.votes.shape[0]
        nearest = alike.topk(count, dim=1).indices
        found = (self.targets[nearest] * self.votes[:, None]).sum(dim=1)
        if self.outputs.kind == "numbers":
            return found / count
        shares = (found + 1.0 / self.outputs.count) / (count + 1.0)
        return shares.log() / self.temperature


class TreesHead(FittedHead):
    """Boosted trees of at most three levels: the sum of their leaves, added to a start."""

    name = "trees"
    feature: Tensor
    """Which coordinate a node asks for, int64 [T, N]."""
    threshold: Tensor
    """Up to which value it goes left, [T, N]."""
    left: Tensor
    """The node after that, int64 [T, N]; a leaf leads to itself."""
    right: Tensor
    """The node else, int64 [T, N]."""
    value: Tensor
    """Of a leaf, [T, N]."""
    adds_to: Tensor
    """Which output a tree is of, int64 [T]."""
    start: Tensor
    """[C]."""

    def __init__(self, outputs: Outputs) -> None:
        """Build it empty."""
        super().__init__(outputs)
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.zeros(1, 1, dtype=torch.int64))
        for name in ("threshold", "value"):
            self.register_buffer(name, torch.zeros(1, 1))
        self.register_buffer("adds_to", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("start", torch.zeros(outputs.count))

    def forward(self, pooled: Tensor) -> Tensor:
        """Return [B, C] from vectors [B, D]."""
        trees, nodes = self.feature.shape
        roots = torch.arange(trees, device=pooled.device) * nodes
        place = roots.expand(pooled.shape[0], trees)
        for _ in range(TREE_LEVELS):
            asked = pooled.float().gather(1, self.feature.flatten()[place])
            goes_left = asked <= self.threshold.flatten()[place]
            below = torch.where(goes_left, self.left.flatten()[place], self.right.flatten()[place])
            place = roots + below
        leaves = self.value.flatten()[place]
        sums = leaves @ nn.functional.one_hot(self.adds_to, self.outputs.count).to(leaves.dtype)
        return (self.start + sums) / self.temperature
