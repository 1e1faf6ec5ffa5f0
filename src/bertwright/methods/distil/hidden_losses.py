"""How hidden states and attention of a student are compared with the teacher's.

Shape letters: B batch, L length, D model width, N heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "attention_kl",
    "attention_mse",
    "attention_scores",
    "cls_mask",
    "hidden_cosine",
    "hidden_mse",
]

PROBABILITY_MIN = 1e-12


def cls_mask(mask: Tensor, *, at_end: bool) -> Tensor:
    """Return [B, L] with 1 at the classification token alone, on whichever side the padding is.

    Args:
        mask: [B, L], 1 for real tokens. A row without any has no such token.
        at_end: it is the last real token (`Roles.cls_at_end`), not the first.
    """
    counted = mask.long().cumsum(dim=1)
    wanted = counted[:, -1:] if at_end else torch.ones_like(counted[:, -1:])
    return mask.long() * (counted == wanted).long()


def hidden_mse(hidden_s: Tensor, hidden_t: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared difference over the real tokens and the D features of each row.

    Args:
        hidden_s: [B, L, D], the student's (projected to the teacher's width); has gradients.
        hidden_t: [B, L, D], the teacher's.
        mask: [B, L], 1 for real tokens; padding counts neither above nor below the line.

    Returns:
        [B]; 0 for a row without real tokens.

    Source: Jiao et al. 2020 (TinyBERT), with padding left out.
    """
    squares_BL = (hidden_s.float() - hidden_t.detach().float()).square().mean(dim=2)
    return _masked_mean(squares_BL, mask)


def hidden_cosine(hidden_s: Tensor, hidden_t: Tensor, mask: Tensor) -> Tensor:
    """Return 1 - cos(h_s, h_t), averaged over the real tokens of each row.

    Arguments and result as in `hidden_mse`. Does not see lengths: h -> c h changes nothing.

    Source: Sanh et al. 2019 (DistilBERT); twice this is the PKD loss of a pair.
    """
    cosine_BL = torch.cosine_similarity(hidden_s.float(), hidden_t.detach().float(), dim=2)
    return _masked_mean(1 - cosine_BL, mask)


def attention_kl(attention_s: Tensor, attention_t: Tensor, mask: Tensor) -> Tensor:
    """Return KL(A_t || A_s) over keys, averaged over heads and real queries of each row.

    Args:
        attention_s: [B, N, L, L], probabilities (queries before keys); has gradients.
        attention_t: [B, N, L, L].
        mask: [B, L]; padding counts neither as query nor as key.

    Returns:
        [B], nats; 0 for a row without real tokens.

    Source: Wang et al. 2020 (MiniLM), there for the last layer.
    """
    a_t = attention_t.detach().float()
    log_ratio = (
        a_t.clamp_min(PROBABILITY_MIN).log() - attention_s.float().clamp_min(PROBABILITY_MIN).log()
    )
    terms = torch.where(mask[:, None, None, :].bool(), a_t * log_ratio, 0.0)
    return _masked_mean(terms.sum(dim=3).mean(dim=1), mask)


def attention_scores(query: Tensor, key: Tensor, mask: Tensor, num_heads: int) -> Tensor:
    """Return Q K^T / sqrt(D / N) of each head, [B, N, L, L], float32: attention before the softmax.

    `attention_mse` compares them. Its source is Jiao et al. 2020 (TinyBERT).

    Args:
        query: [B, L, D], the heads side by side.
        key: [B, L, D].
        mask: [B, L], 1 for real tokens; scores with padding are 0.
        num_heads: N; divides D.
    """
    heads_q, heads_k = (
        torch.where(mask[:, :, None].bool(), states.float(), 0.0)
        .unflatten(2, (num_heads, -1))
        .transpose(1, 2)
        for states in (query, key)
    )
    return heads_q @ heads_k.transpose(2, 3) / math.sqrt(heads_q.shape[3])


def attention_mse(attention_s: Tensor, attention_t: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared difference over heads and pairs of real tokens of each row.

    Arguments as in `attention_kl`. The denominator is N n² for a row of n real tokens.
    """
    squares = (attention_s.float() - attention_t.detach().float()).square().mean(dim=1)
    squares = torch.where(mask[:, None, :].bool(), squares, 0.0).sum(dim=2)
    counts = mask.sum(dim=1, keepdim=True).clamp_min(1)
    return _masked_mean(squares / counts, mask)


def _masked_mean(values_BL: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over real tokens [B]; what stands at padding is never touched, NaN or not."""
    kept = torch.where(mask.bool(), values_BL, 0.0).sum(dim=1)
    return kept / mask.sum(dim=1).clamp_min(1)
