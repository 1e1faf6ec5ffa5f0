"""Hierarchical softmax over a Huffman tree of the classes.

Shapes: N rows, D width, C classes, S nodes on all paths of a batch.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

__all__ = ["HierarchicalSoftmax", "huffman_paths"]

Path = tuple[tuple[int, int], ...]


def huffman_paths(counts: Sequence[int] | np.ndarray) -> list[Path]:
    """Return the way from the root to each class: pairs of inner node and turn.

    Nodes are numbered from the root down, level by level, 0 to C - 2. The turn is +1 to the rarer
    side and -1 to the other. Of equal counts those joined first are first: the tree depends on the
    counts alone. One class has the empty path.

    Args:
        counts: how often each class occurs, [C], 0 included.

    Raises:
        ValueError: no classes, or a negative count.
    """
    if len(counts) == 0 or min(counts) < 0:
        raise ValueError("counts of at least one class, none negative, are needed")
    children = _join(counts)
    num_classes = len(counts)
    paths: list[Path] = [()] * num_classes
    level: list[tuple[int, Path]] = [(2 * num_classes - 2, ())]
    num_nodes = 0
    while level:
        below: list[tuple[int, Path]] = []
        for node, path in level:
            if node < num_classes:
                paths[node] = path
                continue
            rarer, other = children[node - num_classes]
            below += [(rarer, (*path, (num_nodes, 1))), (other, (*path, (num_nodes, -1)))]
            num_nodes += 1
        level = below
    return paths


def _join(counts: Sequence[int] | np.ndarray) -> list[tuple[int, int]]:
    """Return the two that each join takes together; join i makes the node C + i."""
    heap = [(int(count), node) for node, count in enumerate(counts)]
    heapq.heapify(heap)
    children: list[tuple[int, int]] = []
    while len(heap) > 1:
        (rarer_count, rarer), (other_count, other) = heapq.heappop(heap), heapq.heappop(heap)
        children.append((rarer, other))
        joined = len(counts) + len(children) - 1
        heapq.heappush(heap, (rarer_count + other_count, joined))
    return children


class HierarchicalSoftmax(nn.Module):
    """P(c|h) = product over the nodes j on the path of c of sigma(s_j theta_j · h)."""

    starts: Tensor
    lengths: Tensor
    nodes: Tensor
    turns: Tensor

    def __init__(
        self, counts: Sequence[int] | np.ndarray, width: int, *, sparse: bool = False
    ) -> None:
        """Build the tree; theta begins at 0, which gives each turn the probability 1/2.

        Args:
            counts: of the classes, [C].
            width: D.
            sparse: whether the gradient of theta holds only the rows of nodes that were met.
        """
        super().__init__()
        paths = huffman_paths(counts)
        self.theta = nn.Embedding(max(1, len(paths) - 1), width, sparse=sparse)
        nn.init.zeros_(self.theta.weight)
        lengths = torch.tensor([len(path) for path in paths])
        flat = torch.tensor([step for path in paths for step in path]).reshape(-1, 2).long()
        self.register_buffer("lengths", lengths, persistent=False)
        self.register_buffer("starts", lengths.cumsum(0) - lengths, persistent=False)
        self.register_buffer("nodes", flat[:, 0].contiguous(), persistent=False)
        self.register_buffer("turns", flat[:, 1].float(), persistent=False)
        self._levels, self._order = _levels_of(paths)

    def loss(self, h: Tensor, labels: Tensor) -> Tensor:
        """Return -ln P(label|h) of each row, [N], from the nodes on the labels' paths alone.

        Args:
            h: [N, D].
            labels: int64 [N].
        """
        lengths = self.lengths[labels]
        rows = torch.repeat_interleave(torch.arange(len(labels)), lengths)  # [S]
        within = torch.arange(len(rows)) - (lengths.cumsum(0) - lengths)[rows]
        steps = self.starts[labels][rows] + within
        dots = (self.theta(self.nodes[steps]) * h[rows]).sum(dim=1)
        losses = -logsigmoid(self.turns[steps] * dots)
        return torch.zeros(len(labels), dtype=h.dtype).index_add(0, rows, losses)

    def forward(self, h: Tensor) -> Tensor:
        """Return ln P(c|h) of all classes, [N, C], from h [N, D]."""
        dots = h @ self.theta.weight.T
        above = h.new_zeros(len(h), 1)
        leaves: list[Tensor] = []
        for first_node, inner, outer in self._levels:
            leaves.append(above[:, outer])
            turns = dots[:, first_node : first_node + len(inner)]
            both = torch.stack([logsigmoid(turns), logsigmoid(-turns)], dim=2)
            above = (above[:, inner, None] + both).flatten(1)
        return torch.cat(leaves, dim=1)[:, self._order]


def _levels_of(paths: Sequence[Path]) -> tuple[list[tuple[int, list[int], list[int]]], list[int]]:
    """Return, for each level, its first node and the places of its inner nodes and its leaves.

    A level's places are the sides of the inner nodes above it, in order, the rarer first. And for
    each class its place among the leaves of all levels.
    """
    class_at = {path: label for label, path in enumerate(paths)}
    inside = {path[:depth] for path in paths for depth in range(len(path))}
    node_after = {path[:depth]: path[depth][0] for path in paths for depth in range(len(path))}
    level: list[Path] = [()]
    levels: list[tuple[int, list[int], list[int]]] = []
    labels: list[int] = []
    num_nodes = 0
    while level:
        inner = [place for place, path in enumerate(level) if path in inside]
        outer = [place for place, path in enumerate(level) if path not in inside]
        levels.append((num_nodes, inner, outer))
        labels += [class_at[level[place]] for place in outer]
        num_nodes += len(inner)
        level = [
            (*level[place], (node_after[level[place]], turn)) for place in inner for turn in (1, -1)
        ]
    return levels, np.argsort(labels).tolist()
