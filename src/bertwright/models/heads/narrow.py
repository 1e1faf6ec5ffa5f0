"""Heads that read fewer features than they did.

Shapes: D features of the pooled vector, C outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from bertwright.errors import UnsupportedRoleError
from bertwright.models.heads.bag import BagHead
from bertwright.models.heads.classification import ClassificationHead
from bertwright.models.heads.stock import StockHead
from bertwright.models.heads.tokens import TokenHead
from bertwright.models.heads.vectors import VectorHead
from bertwright.surgery.widths import keep_inputs, keep_outputs

__all__ = ["narrow_head"]


def narrow_head(head: nn.Module, features: Sequence[int], width: int) -> nn.Module:
    """Return a copy of `head` that reads only these features.

    The dense layer of a family's own head is as wide as the encoder's states. Of its outputs those
    stay that weigh most, by the length of a row of it times that of the column that reads it.

    Args:
        head: left as it is.
        features: which of D it reads.
        width: of the encoder's states from now on.

    Raises:
        UnsupportedRoleError: this head keeps its width, with the reason.
    """
    copied = copy.deepcopy(head)
    _narrow(copied, features, width)
    return copied


def _narrow(head: nn.Module, features: Sequence[int], width: int) -> None:
    if isinstance(head, BagHead):
        for part in head.heads:
            _narrow(part, features, width)
    elif isinstance(head, StockHead):
        _narrow_stock(head, features, width)
    elif isinstance(head, ClassificationHead):
        _narrow_own(head, features)
    elif isinstance(head, TokenHead) and head.lstm is None:
        _narrow_own(head.each, features)
    elif isinstance(head, VectorHead):
        if head.dense is None:
            head.width = len(features)
        else:
            head.dense = keep_inputs(head.dense, features)
    else:
        raise UnsupportedRoleError(
            "a head that was fitted to vectors, or has an LSTM, keeps the width of what it reads",
            hint="take dimensions out of a model with another head",
        )


def _narrow_own(head: ClassificationHead, features: Sequence[int]) -> None:
    if len(head.hidden):
        first = head.hidden[0]
        assert isinstance(first, nn.Linear)
        head.hidden[0] = keep_inputs(first, features)
    else:
        head.out = keep_inputs(head.out, features)


def _narrow_stock(head: StockHead, features: Sequence[int], width: int) -> None:
    if isinstance(head.dense, nn.Linear):
        weights = head.dense.weight.norm(dim=1) * head.out.weight.norm(dim=0)
        strongest = weights.argsort(descending=True, stable=True)[:width]
        inner = sorted(strongest.tolist())
        head.dense = keep_outputs(keep_inputs(head.dense, features), inner)
        head.out = keep_inputs(head.out, inner)
    else:
        head.out = keep_inputs(head.out, features)
