"""Narrower linear maps: outputs or inputs taken out, and the features that belong to heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["head_features", "keep_inputs", "keep_outputs"]


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


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    rows, columns = weight.shape
    made = nn.Linear(columns, rows, bias=bias is not None, device="meta", dtype=weight.dtype)
    made.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        made.bias = nn.Parameter(bias)
    return made
