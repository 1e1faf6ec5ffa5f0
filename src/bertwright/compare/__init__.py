"""Contenders on one labelled data set: score against training time and throughput."""

from __future__ import annotations

from bertwright.compare.bag_of_words import TfidfContender
from bertwright.compare.contender import Classifier, Contender, LabelledTexts
from bertwright.compare.encoders import (
    FinetuneContender,
    FrozenContender,
    StudentContender,
    WordsContender,
)
from bertwright.compare.lm_contenders import BiLstmLmContender, CausalLmContender
from bertwright.compare.ngrams import NgramsContender
from bertwright.compare.topics import LdaContender
from bertwright.registry import Choices

__all__ = ["CONTENDERS", "Classifier", "Contender", "LabelledTexts"]

_KINDS: tuple[type[Contender], ...] = (
    *(TfidfContender, LdaContender, WordsContender, NgramsContender),
    *(BiLstmLmContender, CausalLmContender),
    *(FrozenContender, FinetuneContender, StudentContender),
)
CONTENDERS: Choices[type[Contender]] = Choices(
    "contender", {kind.card.name: kind for kind in _KINDS}
)
