"""What stands in a comparison: a contender learns from labelled texts and gives a classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from bertwright.card import MethodCard
from bertwright.errors import DataError

__all__ = ["Classifier", "Contender", "LabelledTexts", "ReportProgress"]

ReportProgress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class LabelledTexts:
    """Texts, each of one class.

    Raises:
        DataError: no texts, or not one label a text.
    """

    texts: Sequence[str]
    labels: np.ndarray
    """int64 [N], from 0."""

    def __post_init__(self) -> None:
        if len(self.texts) == 0:
            raise DataError("there are no texts")
        if self.labels.shape != (len(self.texts),):
            raise DataError(f"{len(self.texts)} texts have labels of shape {self.labels.shape}")

    def __len__(self) -> int:
        return len(self.texts)


class Classifier(Protocol):
    """What a contender has learned."""

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return log-probabilities up to a constant a row, float32 [N, C], in the texts' order."""
        ...

    @property
    def num_bytes(self) -> int:
        """Bytes that would have to be saved: weights and vocabulary."""
        ...


class Contender(ABC):
    """A way from labelled texts to a classifier; its options are the fields of a dataclass.

    Subclasses are frozen dataclasses whose fields all have defaults.
    """

    card: ClassVar[MethodCard]
    needs_tokenizer: ClassVar[bool] = False
    """Whether it has a field `tokenizer` that the caller must fill (`dataclasses.replace`)."""

    @abstractmethod
    def fit(
        self,
        train: LabelledTexts,
        dev: LabelledTexts,
        *,
        num_classes: int,
        seed: int,
        progress: ReportProgress | None = None,
    ) -> Classifier:
        """Learn to tell the classes apart.

        Args:
            train: what is learned from; classes may be missing in it.
            dev: what epochs and strengths of penalties are chosen on; never the test rows.
            num_classes: C, at least 1.
            seed: the same seed gives the same classifier on the same machine and threads.
            progress: told about the work.
        """
