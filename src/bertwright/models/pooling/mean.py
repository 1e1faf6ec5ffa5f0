"""The mean over the real tokens. Shapes: B batch, L length, D model width."""

from __future__ import annotations

from torch import Tensor

__all__ = ["pool_mean"]


def pool_mean(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean of the real tokens' states: sum over t of m_t h_t, divided by sum of m_t.

    Args:
        hidden: token states, [B, L, D].
        attention_mask: true or 1 for real tokens, [B, L].

    Returns:
        [B, D]; zeros for a row without a real token.
    """
    mask = attention_mask.bool().unsqueeze(-1)
    total = hidden.masked_fill(~mask, 0.0).sum(dim=1)
    return total / mask.sum(dim=1).clamp(min=1).to(hidden.dtype)
