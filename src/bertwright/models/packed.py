"""Word embeddings in 4 bits a number, as a module that every engine can trace.

Shapes: V pieces, D features, G groups of a row, B batch, L length.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from bertwright.errors import UnsupportedRoleError
from bertwright.models.task_model import TaskModel

__all__ = ["PackedEmbedding", "pack_words", "packed_paths"]

GROUP = 32
"""Most numbers that share a scale."""
LARGEST = 7
"""Steps on either side of 0: -7 to 7, stored as 1 to 15."""
SHRUNK = tuple(1 - 0.03 * step for step in range(12))
"""Shares of a group's largest number that are tried as its end."""


class PackedEmbedding(nn.Module):
    """A table whose numbers are 4-bit integers, two a byte, with a 16-bit scale a group.

    Only what is looked up is unpacked. The first half of a row's features is in the low half of its
    bytes. 4 + 16 / 32 bits a number.
    """

    packed: Tensor
    """uint8 [V, D / 2]."""
    scales: Tensor
    """float16 [V, G]."""
    group_of: Tensor
    """int64 [D]: the group of each feature."""

    def __init__(self, table: Tensor) -> None:
        """Round a table [V, D]; D is even."""
        super().__init__()
        steps, scales = _rounded(table.detach().float())
        stored = (steps + LARGEST + 1).to(torch.uint8)
        low, high = stored.chunk(2, dim=1)
        self.register_buffer("packed", low + 16 * high)
        self.register_buffer("scales", scales)
        width, num_groups = table.shape[1], scales.shape[1]
        self.register_buffer("group_of", torch.arange(width) // (width // num_groups))

    def forward(self, ids: Tensor) -> Tensor:
        """Return float32 [..., D] of ids [...]."""
        pairs = embedding(ids, self.packed).float()
        high = (pairs / 16).floor()
        steps = torch.cat([pairs - 16 * high, high], dim=-1) - (LARGEST + 1)
        # by an index and not by shapes, which fusions of ONNX Runtime's graphs do not follow
        return steps * embedding(ids, self.scales).float().index_select(-1, self.group_of)


def _rounded(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return steps in -7..7 [V, D] and scales [V, G]: of those tried the least squared error."""
    groups = table.unflatten(1, (-1, math.gcd(table.shape[1], GROUP)))
    largest = groups.abs().amax(dim=-1, keepdim=True)
    best = torch.full_like(largest, torch.inf)
    scales = torch.zeros_like(largest)
    for share in SHRUNK:
        tried = (share * largest / LARGEST).clamp(min=2**-24).half().float()
        error = (groups - tried * _steps(groups, tried)).square().sum(dim=-1, keepdim=True)
        better = error < best
        scales, best = torch.where(better, tried, scales), torch.where(better, error, best)
    return _steps(groups, scales).flatten(1), scales.squeeze(-1).half()


def _steps(groups: Tensor, scales: Tensor) -> Tensor:
    return (groups / scales).round().clamp(-LARGEST, LARGEST)


def pack_words(model: TaskModel) -> TaskModel:
    """Return a copy whose word embeddings are packed; it is for tracing, and cannot be saved.

    Raises:
        UnsupportedRoleError: they are no plain table, or have an odd number of features.
    """
    words: Any = model.encoder.get_input_embeddings()
    if type(words) is not nn.Embedding or words.embedding_dim % 2:
        raise UnsupportedRoleError(
            f"{model.roles.family}: the word embeddings are no plain table of an even width, so "
            "they cannot be packed in 4 bits",
            hint="leave --table-bits out",
        )
    copied = copy.deepcopy(model)
    copied.encoder.set_input_embeddings(PackedEmbedding(words.weight))
    return copied.eval()


def packed_paths(model: nn.Module) -> list[str]:
    """Return the paths of packed tables in a model."""
    return [path for path, one in model.named_modules() if isinstance(one, PackedEmbedding)]
