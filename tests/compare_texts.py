"""Made-up texts for the contenders."""

from __future__ import annotations

import numpy as np

from bertwright.compare.contender import LabelledTexts

__all__ = ["WORDS", "keyed_texts", "ordered_texts"]

WORDS = "red blue green film movie book food place time day man woman dog cat house car".split()


def keyed_texts(num: int, num_classes: int, seed: int) -> LabelledTexts:
    """Each text has one word of its class among words that say nothing."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % num_classes
    texts = []
    for label in labels:
        words = rng.choice(WORDS[num_classes:], size=rng.integers(2, 7)).tolist()
        words.insert(int(rng.integers(len(words) + 1)), WORDS[label])
        texts.append(" ".join(words))
    return LabelledTexts(texts=texts, labels=labels.astype(np.int64))


def ordered_texts(num: int, seed: int) -> LabelledTexts:
    """Class 0 has `good` right before `film`, class 1 after it: single words do not tell."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 2
    texts = []
    for label in labels:
        words = rng.choice(WORDS[6:], size=rng.integers(2, 5)).tolist()
        place = int(rng.integers(len(words) + 1))
        words[place:place] = ["good", "film"] if label == 0 else ["film", "good"]
        texts.append(" ".join(words))
    return LabelledTexts(texts=texts, labels=labels.astype(np.int64))
