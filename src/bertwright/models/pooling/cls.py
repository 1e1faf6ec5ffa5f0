"""One token for the whole text: the first real one, or the last where a family puts it there.

Shapes: B batch, L length, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pool_first", "pool_last"]


def _take(hidden_BLD: Tensor, position_B: Tensor, mask_BL: Tensor) -> Tensor:
    index_B1D = position_B[:, None, None].expand(-1, 1, hidden_BLD.shape[-1])
    taken_BD = hidden_BLD.gather(1, index_B1D).squeeze(1)
    return taken_BD.masked_fill(~mask_BL.any(dim=1, keepdim=True), 0.0)


def pool_first(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the state of each row's first real token, whichever side the padding is on.

    Args:
        hidden: token states, [B, L, D].
        attention_mask: true or 1 for real tokens, [B, L].

    Returns:
        [B, D]; zeros for a row without a real token.
    """
    mask = attention_mask.bool()
    return _take(hidden, mask.int().argmax(dim=1), mask)


def pool_last(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the state of each row's last real token, [B, D]; arguments as `pool_first`.

    XLNet puts its classification token at the end.
    """
    mask = attention_mask.bool()
    position = torch.arange(mask.shape[1], device=mask.device)
    return _take(hidden, (mask * position).argmax(dim=1), mask)
