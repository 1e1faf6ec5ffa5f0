"""One token for the whole text: the classification token. Shapes: B batch, D model width."""

from __future__ import annotations

from torch import Tensor

from bertwright.card import MethodCard
from bertwright.models.pooling.base import Pooling, States

__all__ = ["ClsPooling"]


class ClsPooling(Pooling):
    """The state of the classification token: the first one, or the last where a family has it."""

    card = MethodCard(
        name="cls",
        kind="pool",
        summary="The state that the encoder returns for the classification token.",
        paper="BERT: Pre-training of Deep Bidirectional Transformers",
        year=2019,
        citation="Devlin, Chang, Lee, Toutanova 2019, arXiv:1810.04805",
        equation="v = H_K[cls]",
        needs="Nothing.",
        cost="Nothing; an engine can leave out what only other tokens of the last layer need.",
        expected_effect="The usual choice for fine-tuning; without it a poor sentence vector.",
        expected_source="STS average of raw BERT: 39.0, the mean 61.5 (SBERT-WK, table 3).",
        when_to_use="For fine-tuned classifiers and regressors.",
        when_not_to_use="For vectors of an encoder that was not trained on this token.",
        siblings="pooler adds the pre-trained layer; cls-layer takes another depth.",
        departures="None. Found by the mask, so left padding gives the same.",
    )

    reads_cls_alone = True

    def read(self, states: States) -> Tensor:
        """Return [B, D]."""
        return self.cls(states)
