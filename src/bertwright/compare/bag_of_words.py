"""Weighted counts of words, and logistic regression on them.

Characters are counted where words have no spaces between them.
Shapes: N rows, F features, C classes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from bertwright.card import MethodCard
from bertwright.compare.contender import Contender, LabelledTexts, ReportProgress
from bertwright.config import require

__all__ = [
    "LinearClassifier",
    "TfidfContender",
    "are_unspaced",
    "fit_logistic",
    "units_of",
    "vocabulary_bytes",
]

_UNSPACED = re.compile(
    "[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_UNSPACED_SHARE = 0.3
_WORD = r"(?u)\b\w+\b"
_MANY_WEIGHTS = 1_000_000
_STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
_NEVER = -80.0
"""The bias of a class without a row to learn from."""
_MAX_ITERATIONS = 60
_TOLERANCE = 2e-5


def are_unspaced(texts: Sequence[str]) -> bool:
    """Return whether over 30% of the characters but spaces are Han or kana."""
    unspaced = sum(len(_UNSPACED.findall(text)) for text in texts)
    return unspaced > _UNSPACED_SHARE * sum(len(text) - text.count(" ") for text in texts)


def units_of(texts: Sequence[str], *, longest: tuple[int, int]) -> dict[str, Any]:
    """Return what scikit-learn's vectorizers need to be told to count in these texts.

    Args:
        texts: those of the training rows.
        longest: the longest n-gram of words, and of characters where words are unspaced.
    """
    if are_unspaced(texts):
        return {"analyzer": "char", "ngram_range": (1, longest[1])}
    return {"analyzer": "word", "token_pattern": _WORD, "ngram_range": (1, longest[0])}


def vocabulary_bytes(vectorizer: CountVectorizer) -> int:
    """Return the bytes of the n-grams in UTF-8, with an end each."""
    return sum(len(ngram.encode()) + 1 for ngram in vectorizer.vocabulary_)


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """Weights [C, F] and biases [C], float32."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: Any) -> np.ndarray:
        """Return float32 [N, C] of features [N, F], an array or a sparse matrix."""
        return np.asarray(features @ self.weight.T + self.bias, dtype=np.float32)

    @property
    def num_bytes(self) -> int:
        """Bytes of weights and biases."""
        return self.weight.nbytes + self.bias.nbytes


def fit_logistic(
    features: Any,
    labels: np.ndarray,
    dev_features: Any,
    dev_labels: np.ndarray,
    *,
    num_classes: int,
    strengths: Sequence[float],
    progress: ReportProgress | None = None,
) -> tuple[LinearClassifier, float]:
    """Return multinomial logistic regression, and the C of its penalty |W|²/(2C).

    One fit starts where the last one, of the next smaller C, ended.

    Args:
        features: [N, F], an array or a sparse matrix.
        labels: [N].
        dev_features: what C is chosen on, by accuracy; of equals the smallest.
        dev_labels: theirs.
        num_classes: a class without a row gets a bias that makes it all but impossible.
        strengths: the values of C, rising.
        progress: told about the work.
    """
    if len(np.unique(labels)) == 1:
        return _constant(int(labels[0]), features.shape[1], num_classes), strengths[0]
    model = LogisticRegression(warm_start=True, max_iter=_MAX_ITERATIONS, tol=_TOLERANCE)
    best, best_strength, best_right = None, strengths[0], -1
    for done, strength in enumerate(strengths, start=1):
        model.C = strength
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits do not matter
            model.fit(features, labels)
        linear = _as_linear(model, num_classes)
        right = int((linear.logits(dev_features).argmax(axis=1) == dev_labels).sum())
        if right > best_right:
            best, best_strength, best_right = linear, strength, right
        if progress is not None:
            progress("logistic regression", done / len(strengths))
    assert best is not None
    return best, best_strength


def _as_linear(model: LogisticRegression, num_classes: int) -> LinearClassifier:
    """Return the weights spread over all classes; two classes have one row at scikit-learn."""
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros_like(intercepts), intercepts])
    linear = _never(coefficients.shape[1], num_classes)
    linear.weight[model.classes_] = coefficients
    linear.bias[model.classes_] = intercepts
    return linear


def _constant(label: int, num_features: int, num_classes: int) -> LinearClassifier:
    linear = _never(num_features, num_classes)
    linear.bias[label] = 0.0
    return linear


def _never(num_features: int, num_classes: int) -> LinearClassifier:
    weight = np.zeros((num_classes, num_features), dtype=np.float32)
    return LinearClassifier(weight, np.full(num_classes, _NEVER, dtype=np.float32))


class _TfidfClassifier:
    def __init__(self, vectorizer: TfidfVectorizer, linear: LinearClassifier) -> None:
        self.vectorizer = vectorizer
        self.linear = linear

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [N, C]."""
        return self.linear.logits(self.vectorizer.transform(texts))

    @property
    def num_bytes(self) -> int:
        """Bytes of weights, idf (float32) and n-grams."""
        return (
            self.linear.num_bytes
            + 4 * len(self.vectorizer.idf_)
            + vocabulary_bytes(self.vectorizer)
        )


@dataclass(frozen=True, kw_only=True)
class TfidfContender(Contender):
    """Logistic regression on TF-IDF of n-grams."""

    card: ClassVar[MethodCard] = MethodCard(
        name="tfidf",
        kind="compare",
        summary="TF-IDF of words and pairs of words, then logistic regression.",
        paper="A statistical interpretation of term specificity and its application in retrieval",
        year=1972,
        citation="Spärck Jones 1972; as implemented in scikit-learn (Pedregosa et al. 2011)",
        equation="x_w = (1 + ln tf_w) (1 + ln((1 + N) / (1 + df_w))), x / |x|_2\n"
        "P(c|x) = softmax(W x + b)_c, minimising sum_n -ln P(c_n|x_n) + |W|_2^2 / (2 C)",
        needs="Labelled texts; dev rows for C in 1, 3, 10, 30, 100.",
        cost="Seconds on a CPU; C weights an n-gram.",
        expected_effect="The figure that every encoder has to beat: often close on topics and "
        "intents, well below on sentiment.",
        expected_source="Common experience; bertwright compare measures it on yours.",
        when_to_use="Always, as the simplest alternative.",
        when_not_to_use="As the only contender: word order beyond pairs is lost on it.",
        siblings="ngrams learns short vectors of the same n-grams; lda takes topics for words.",
        departures="Characters, up to three in a row, in place of words where over 30% of the "
        "characters are Han or kana; n-grams of one row are dropped where weights are many.",
    )
    words: int = 2
    """The longest n-gram of words."""
    characters: int = 3
    """The longest n-gram of characters, where words have no spaces between them."""
    min_rows: int | None = None
    """N-grams of fewer rows are dropped; none: 1, or 2 where that gives over a million weights."""

    def __post_init__(self) -> None:
        require(self.words >= 1, "words", self.words, "at least 1")
        require(self.characters >= 1, "characters", self.characters, "at least 1")
        require(self.min_rows is None or self.min_rows >= 1, "min_rows", self.min_rows, "1 or more")

    def fit(
        self,
        train: LabelledTexts,
        dev: LabelledTexts,
        *,
        num_classes: int,
        seed: int,
        progress: ReportProgress | None = None,
    ) -> _TfidfClassifier:
        """Count, weigh and fit; nothing here is random."""
        vectorizer = self._vectorizer(train.texts, num_classes)
        linear, _ = fit_logistic(
            vectorizer.transform(train.texts),
            train.labels,
            vectorizer.transform(dev.texts),
            dev.labels,
            num_classes=num_classes,
            strengths=_STRENGTHS,
            progress=progress,
        )
        return _TfidfClassifier(vectorizer, linear)

    def _vectorizer(self, texts: Sequence[str], num_classes: int) -> TfidfVectorizer:
        units = units_of(texts, longest=(self.words, self.characters))
        options: dict[str, Any] = {**units, "sublinear_tf": True, "dtype": np.float32}
        vectorizer = TfidfVectorizer(min_df=self.min_rows or 1, **options).fit(texts)
        too_many = len(vectorizer.vocabulary_) * num_classes > _MANY_WEIGHTS
        if self.min_rows is None and too_many:
            vectorizer = TfidfVectorizer(min_df=2, **options).fit(texts)
        return vectorizer
