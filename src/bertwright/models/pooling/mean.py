"""The mean over the real tokens. Shapes: B batch, L length, D model width."""

from __future__ import annotations

from torch import Tensor

from bertwright.card import MethodCard
from bertwright.models.pooling.base import Pooling, States

__all__ = ["MeanPooling", "mean_of_tokens"]


def mean_of_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the real tokens' states: sum over t of m_t h_t, divided by sum of m_t.

    Args:
        hidden: token states, [B, L, D].
        mask: true or 1 for real tokens, [B, L].

    Returns:
        [B, D]; zeros for a row without a real token.
    """
    real = mask.bool().unsqueeze(-1)
    total = hidden.masked_fill(~real, 0.0).sum(dim=1)
    return total / real.sum(dim=1).clamp(min=1).to(hidden.dtype)


class MeanPooling(Pooling):
    """The mean of the tokens' states."""

    card = MethodCard(
        name="mean",
        kind="pool",
        summary="The mean of the states of all real tokens.",
        paper="Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks",
        year=2019,
        citation="Reimers, Gurevych 2019, arXiv:1908.10084",
        equation="v = sum_t m_t h_t / max(sum_t m_t, 1)",
        needs="Nothing.",
        cost="Nothing.",
        expected_effect="The strongest simple vector of an encoder that is not fine-tuned.",
        expected_source="STS average of raw BERT: 61.5, cls 39.0 (SBERT-WK, table 3).",
        when_to_use="For vectors, and for frozen encoders.",
        when_not_to_use="Where one word decides and the rest is noise: see max, attention.",
        siblings="tfidf and sif weigh the tokens; mean-max adds the maximum.",
        departures="None. Special tokens count, as in the paper.",
    )

    def read(self, states: States) -> Tensor:
        """Return [B, D]."""
        return mean_of_tokens(states.last, states.mask)
