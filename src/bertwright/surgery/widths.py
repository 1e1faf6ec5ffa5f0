"""Narrower linear maps, tables and norms, and the features that belong to heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["head_features", "keep_columns", "keep_entries", "keep_inputs", "keep_outputs"]


def head_features(heads: Sequence[int], head_size: int) -> list[int]:
    """Return the features that belong to these heads: head h has those from h * head_size."""
    return [head * head_size + place for head in heads for place in range(head_size)]


def keep_outputs(linear: nn.Linear, rows: Sequence[int]) -> nn.Linear:
    """Return a linear map with these outputs of `linear`; weight [len(rows), in]."""
    chosen = torch.as_tensor(list(rows), device=linear.weight.device)
    bias = None if linear.bias is None else linear.bias.detach()[chosen]
    return _linear(linear.weight.detach()[chosen], bias)


def keep_inputs(linear: nn.Linear, columns: Sequence[int]) -> nn.Linear:
    """Return a linear map that reads only these inputs of `linear`; the bias stays whole."""
    chosen = torch.as_tensor(list(columns), device=linear.weight.device)
    bias = None if linear.bias is None else linear.bias.detach().clone()
    return _linear(linear.weight.detach()[:, chosen], bias)


def keep_columns(table: nn.Embedding, columns: Sequence[int]) -> nn.Embedding:
    """Return an embedding with these columns of `table`; weight [rows, len(columns)]."""
    chosen = torch.as_tensor(list(columns), device=table.weight.device)
    weight = table.weight.detach()[:, chosen].contiguous()
    return nn.Embedding(*weight.shape, padding_idx=table.padding_idx, _weight=weight)


def keep_entries(norm: nn.LayerNorm, entries: Sequence[int]) -> nn.LayerNorm:
    """Return a norm of these entries alone: mean and variance are theirs, not those of all."""
    chosen = torch.as_tensor(list(entries), device=norm.weight.device)
    bias = norm.bias is not None
    made = nn.LayerNorm(len(chosen), eps=norm.eps, bias=bias, device="meta")
    made.weight = nn.Parameter(norm.weight.detach()[chosen])
    if bias:
        made.bias = nn.Parameter(norm.bias.detach()[chosen])
    return made


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    rows, columns = weight.shape
    made = nn.Linear(columns, rows, bias=bias is not None, device="meta", dtype=weight.dtype)
    made.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        made.bias = nn.Parameter(bias)
    return made
