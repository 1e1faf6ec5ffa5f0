from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bertwright.card import MethodCard
from bertwright.compare import CONTENDERS, Contender, LabelledTexts
from bertwright.config import config_from_strings
from bertwright.errors import DataError, UnknownChoiceError


def test_every_contender_has_a_card_and_can_be_built_without_options():
    written = {"tfidf", "lda", "ngrams", "bilstm-lm", "causal-lm"}
    assert written <= set(CONTENDERS)
    for name in written:
        kind = CONTENDERS[name]
        assert issubclass(kind, Contender) and dataclasses.is_dataclass(kind)
        assert isinstance(kind.card, MethodCard)
        assert (kind.card.name, kind.card.kind) == (name, "compare")
        assert max(map(len, kind.card.equation.splitlines())) <= 100
        assert len(kind.card.summary.splitlines()) == 1
        assert config_from_strings(kind, {}, source=name) == kind()
    with pytest.raises(UnknownChoiceError, match="tfidf"):
        CONTENDERS["tfidff"]


def test_options_are_read_from_text():
    lm = config_from_strings(CONTENDERS["causal-lm"], {"lm_minutes": "0.5"}, source="x")
    assert getattr(lm, "lm_minutes", None) == 0.5


@pytest.mark.parametrize(("texts", "labels"), [([], []), (["a"], [0, 1]), (["a"], [[0]])])
def test_texts_without_one_label_each_are_refused(texts, labels):
    with pytest.raises(DataError):
        LabelledTexts(texts=texts, labels=np.array(labels, dtype=np.int64))
