"""Latent Dirichlet allocation: what a text is about, as shares of topics.

Shapes: N texts, K topics, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.decomposition import LatentDirichletAllocation
from sklearn.feature_extraction.text import CountVectorizer

from bertwright.card import MethodCard
from bertwright.compare.bag_of_words import (
    LinearClassifier,
    fit_logistic,
    units_of,
    vocabulary_bytes,
)
from bertwright.compare.contender import Contender, LabelledTexts, ReportProgress
from bertwright.config import require

__all__ = ["LdaContender", "TopicModel", "learn_topics"]

_STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
_ROWS_A_TOPIC = 5
_COMMON_SHARE = 0.5
_BATCH_ROWS = 256


class TopicModel:
    """Topics of counted words; new texts do not change them."""

    def __init__(self, vectorizer: CountVectorizer, topics: LatentDirichletAllocation) -> None:
        self.vectorizer = vectorizer
        self.topics = topics

    @property
    def phi(self) -> np.ndarray:
        """The words' probabilities in each topic, [K, V]."""
        counts = self.topics.components_
        return counts / counts.sum(axis=1, keepdims=True)

    def shares(self, texts: Sequence[str]) -> np.ndarray:
        """Return the topics' shares of each text, float32 [N, K]; equal without a known word."""
        shares = self.topics.transform(self.vectorizer.transform(texts))
        return np.asarray(shares, dtype=np.float32)


def learn_topics(
    texts: Sequence[str],
    *,
    num_topics: int,
    passes: int,
    seed: int,
    progress: ReportProgress | None = None,
) -> TopicModel:
    """Return topics of the texts, learned online from batches of 256 texts.

    Words (characters where words have no spaces) of more than half of the texts are dropped, and
    those of one text, unless nothing is left.

    Args:
        texts: what the topics are learned from.
        num_topics: K; at most one for five texts, and one for a word.
        passes: over the texts.
        seed: fixes the beginning and the order.
        progress: told about the work.
    """
    vectorizer = _vectorizer(texts)
    counts: Any = vectorizer.transform(texts)
    num_topics = max(1, min(num_topics, len(texts) // _ROWS_A_TOPIC, counts.shape[1]))
    topics = LatentDirichletAllocation(
        n_components=num_topics,
        learning_method="online",
        batch_size=_BATCH_ROWS,
        total_samples=len(texts),
        random_state=seed % 2**32,
    )
    rng = np.random.default_rng(seed)
    for done in range(1, passes + 1):
        topics.partial_fit(counts[rng.permutation(len(texts))])
        if progress is not None:
            progress("topics", done / passes)
    return TopicModel(vectorizer, topics)


def _vectorizer(texts: Sequence[str]) -> CountVectorizer:
    options: dict[str, Any] = units_of(texts, longest=(1, 2))
    try:
        return CountVectorizer(min_df=2, max_df=_COMMON_SHARE, **options).fit(texts)
    except ValueError:  # no word is in two texts but not in half of them
        return CountVectorizer(**options).fit(texts)


class _LdaClassifier:
    def __init__(self, model: TopicModel, linear: LinearClassifier) -> None:
        self.model = model
        self.linear = linear

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [N, C]."""
        return self.linear.logits(self.model.shares(texts))

    @property
    def num_bytes(self) -> int:
        """Bytes of weights, topics (float32) and words."""
        words = vocabulary_bytes(self.model.vectorizer)
        return self.linear.num_bytes + 4 * self.model.topics.components_.size + words


@dataclass(frozen=True, kw_only=True)
class LdaContender(Contender):
    """Logistic regression on the topics of latent Dirichlet allocation."""

    card: ClassVar[MethodCard] = MethodCard(
        name="lda",
        kind="compare",
        summary="Shares of topics by latent Dirichlet allocation, then logistic regression.",
        paper="Latent Dirichlet Allocation; Online Learning for Latent Dirichlet Allocation",
        year=2003,
        citation="Blei, Ng, Jordan 2003, JMLR 3; Hoffman, Blei, Bach 2010, NeurIPS",
        equation="theta ~ Dir(1/K), z_i ~ theta, w_i ~ phi[z_i], phi_k ~ Dir(1/K)\n"
        "P(c|text) = softmax(W E[theta|text] + b)_c",
        needs="Texts for the topics; labels and dev rows for the logistic regression.",
        cost="Passes of variational inference, also for each new text; K V numbers.",
        expected_effect="Below words counted themselves: K numbers stand for a whole text.",
        expected_source="Blei et al. 2003, section 7.2, has it near word features at best.",
        when_to_use="To see topics, or how far topics alone go; on longer texts.",
        when_not_to_use="On sentences: few words say little of their topics; where order matters.",
        siblings="tfidf keeps every word.",
        departures="Point estimates of phi; words of over half of the texts or of one are dropped.",
    )
    topics: int = 100
    """K; at most one for five training texts."""
    passes: int = 10
    """Over the training texts."""

    def __post_init__(self) -> None:
        require(self.topics >= 1, "topics", self.topics, "at least 1")
        require(self.passes >= 1, "passes", self.passes, "at least 1")

    def fit(
        self,
        train: LabelledTexts,
        dev: LabelledTexts,
        *,
        num_classes: int,
        seed: int,
        progress: ReportProgress | None = None,
    ) -> _LdaClassifier:
        """Learn topics without the labels, then the classes from the topics."""
        model = learn_topics(
            train.texts, num_topics=self.topics, passes=self.passes, seed=seed, progress=progress
        )
        linear, _ = fit_logistic(
            model.shares(train.texts),
            train.labels,
            model.shares(dev.texts),
            dev.labels,
            num_classes=num_classes,
            strengths=_STRENGTHS,
            progress=progress,
        )
        return _LdaClassifier(model, linear)
