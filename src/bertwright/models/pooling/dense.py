"""A dense layer above the mean. Shapes: B batch, D model width, W width of the vector."""

from __future__ import annotations

from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.models.pooling.base import EncoderShape, Pooling, States
from bertwright.models.pooling.mean import mean_of_tokens

__all__ = ["DensePooling"]


class DensePooling(Pooling):
    """The mean, a learned linear layer to width `number`, and tanh."""

    card = MethodCard(
        name="dense",
        kind="pool",
        summary="A learned dense layer with tanh above the mean; dense:128 makes 128 numbers.",
        paper="Making Monolingual Sentence Embeddings Multilingual (the Dense module)",
        year=2020,
        citation="Reimers, Gurevych 2020, arXiv:2004.09813",
        equation="v = tanh(W mean + b), W in R^(number x D)",
        needs="Training: at the start the layer is random.",
        cost="D times number parameters.",
        expected_effect="Vectors of the wanted width; what that costs is not known here.",
        expected_source="The paper has no figure that isolates it.",
        when_to_use="For vectors of a wanted width, trained.",
        when_not_to_use="Frozen: a random layer only loses.",
        siblings="mean is what goes into it; pooler does the same above cls.",
        departures="None.",
    )
    number_is = "width"
    random_at_first = True

    def __init__(self, shape: EncoderShape, number: int | None = None) -> None:
        super().__init__(shape, number)
        self.width = shape.width if number is None else self.in_range(number, 1)
        self.dense = nn.Linear(shape.width, self.width)

    def read(self, states: States) -> Tensor:
        """Return the mean of the tokens, [B, D]."""
        return mean_of_tokens(states.last, states.mask)

    def learned(self, read: Tensor, mask: Tensor) -> Tensor:
        """Return [B, W]."""
        return self.dense(read).tanh()
