"""Scores of answers found in a text, as SQuAD defines them, with and without "no answer".

The definitions are those of the evaluation script published with SQuAD 2.0, which also hold for
1.1 data (the 1.1 script differs on one point only: a gold answer of nothing but articles and
punctuation, which 2.0 leaves out). That script takes white space to part words. Chinese and
Japanese have none, so that token F1 would fall together with exact match: for such text say
`characters=True`, and each Han character and kana is a token. Hangul is written with spaces and
stays in words.

Legend: N rows (questions).

Source: Rajpurkar, Zhang, Lopyrev and Liang 2016; Rajpurkar, Jia and Liang 2018.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = [
    "NoAnswerThreshold",
    "answer_metrics",
    "answer_statistics",
    "best_no_answer_threshold",
    "exact_match",
    "normalise_answer",
    "token_f1",
]

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_CHARACTER = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff]"
)
_FULL_WIDTH = {chr(ord(sign) + 0xFEE0) for sign in string.punctuation}


class NoAnswerThreshold(NamedTuple):
    """Answer a question if its no-answer score is at most `threshold`; `score` is the mean then."""

    threshold: float
    score: float


def normalise_answer(text: str, *, characters: bool = False) -> str:
    """Return the form in which answers are compared.

    Lower case, then no punctuation, then no English articles, then single spaces.

    Args:
        text: an answer.
        characters: put spaces around each Han character and kana, and drop all Unicode
            punctuation; otherwise only ASCII punctuation goes, as in the published script.
    """
    kept = "".join(sign for sign in text.lower() if not _is_punctuation(sign, characters))
    kept = _ARTICLE.sub(" ", kept)
    if characters:
        kept = _CHARACTER.sub(r" \g<0> ", kept)
    return " ".join(kept.split())


def exact_match(prediction: str, golds: Sequence[str], *, characters: bool = False) -> float:
    """Return 1.0 if the prediction, normalised, is one of the gold answers, else 0.0.

    Args:
        prediction: the answer; empty means "no answer".
        golds: all right answers; none means that there is no answer.
        characters: see `normalise_answer`.
    """
    return float(normalise_answer(prediction, characters=characters) in _golds(golds, characters))


def token_f1(prediction: str, golds: Sequence[str], *, characters: bool = False) -> float:
    """Return the best F1 of the prediction's tokens against those of a gold answer.

    Tokens are a multiset. Where the prediction or the gold answer has none, the F1 is 1.0 if the
    other has none either, else 0.0.

    Args:
        prediction: the answer; empty means "no answer".
        golds: all right answers; none means that there is no answer.
        characters: see `normalise_answer`.
    """
    tokens = normalise_answer(prediction, characters=characters).split()
    return max(_f1(tokens, gold.split()) for gold in _golds(golds, characters))


def answer_statistics(
    predicted: Sequence[str], gold: Sequence[Sequence[str]], *, characters: bool = False
) -> np.ndarray:
    """Return exact match, token F1, has an answer, was answered of each row, [N, 4] float64.

    A row has an answer if a gold answer is left after normalising, and was answered if anything
    of the prediction is.

    Args:
        predicted: N answers; empty means "no answer".
        gold: N lists of right answers; an empty list means that there is no answer.
        characters: see `normalise_answer`.

    Raises:
        ValueError: different numbers of rows.
    """
    if len(predicted) != len(gold):
        raise ValueError(f"{len(predicted)} predictions for {len(gold)} questions")
    statistics = np.empty((len(gold), 4))
    for index, (prediction, texts) in enumerate(zip(predicted, gold, strict=True)):
        answer, golds = (
            normalise_answer(prediction, characters=characters),
            _golds(texts, characters),
        )
        statistics[index] = (
            answer in golds,
            max(_f1(answer.split(), right.split()) for right in golds),
            golds != [""],
            answer != "",
        )
    return statistics


def answer_metrics(statistics: np.ndarray, *, no_answers: bool = False) -> dict[str, float]:
    """Return `exact` and `f1`, and with `no_answers` the same by kind of question.

    The scores by kind are `has_answer_exact`, `has_answer_f1`, `no_answer_exact`, `no_answer_f1`
    (0.0 where there is no row of the kind), and `answered` is the share of rows that got an
    answer. Which scores there are depends on `no_answers` alone, never on the rows drawn.

    Args:
        statistics: [N, 4] from `answer_statistics`.
        no_answers: whether the data has questions without an answer (SQuAD 2.0).

    Raises:
        ValueError: there are no rows.
    """
    if not len(statistics):
        raise ValueError("there are no rows to score")
    exact, f1, has_answer, answered = statistics.T
    metrics = {"exact": exact.mean(), "f1": f1.mean()}
    if no_answers:
        for kind, rows in (("has_answer", has_answer), ("no_answer", 1 - has_answer)):
            num_rows = max(rows.sum(), 1)
            metrics[f"{kind}_exact"] = exact @ rows / num_rows
            metrics[f"{kind}_f1"] = f1 @ rows / num_rows
        metrics["answered"] = answered.mean()
    return {name: float(value) for name, value in metrics.items()}


def best_no_answer_threshold(
    scores: np.ndarray, score_if_answered: np.ndarray, no_answer: np.ndarray
) -> NoAnswerThreshold:
    """Return the threshold that gives the best mean score, in O(N log N).

    A row whose no-answer score is above the threshold is left unanswered and scores 1 if it has
    no answer, else 0. Thresholds are the rows' own no-answer scores, and one below them all; of
    equally good ones the lowest is taken. The published script starts its search at 0 and moves
    through rows of equal score one by one, so it can report a score that no threshold reaches;
    here rows of equal score are answered together.

    Args:
        scores: [N] finite, the null score minus the best span's score: high is "no answer".
        score_if_answered: [N] in 0..1, exact match or F1 of each row if its best span is given.
        no_answer: [N] bool, whether the row has no answer.

    Raises:
        ValueError: no rows, arrays of different lengths, or a score that is not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    gains = np.asarray(score_if_answered, dtype=np.float64)
    blanks = np.asarray(no_answer, dtype=np.float64)
    if not len(scores) == len(gains) == len(blanks):
        raise ValueError(f"different lengths: {len(scores)}, {len(gains)}, {len(blanks)}")
    if not len(scores):
        raise ValueError("there are no rows to score")
    if not np.isfinite(scores).all():
        raise ValueError("a no-answer score is not finite")
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    totals = blanks.sum() + np.concatenate([[0.0], np.cumsum((gains - blanks)[order])])
    below_all = ascending[0] - max(1.0, abs(ascending[0]))
    thresholds = np.concatenate([[below_all], ascending])
    reachable = np.flatnonzero(np.append(thresholds[1:] != thresholds[:-1], True))
    best = reachable[np.argmax(totals[reachable])]
    return NoAnswerThreshold(float(thresholds[best]), float(totals[best] / len(scores)))


def _is_punctuation(sign: str, everywhere: bool) -> bool:
    if sign in string.punctuation:
        return True
    return everywhere and (sign in _FULL_WIDTH or unicodedata.category(sign).startswith("P"))


def _golds(golds: Sequence[str], characters: bool) -> list[str]:
    texts = [normalise_answer(gold, characters=characters) for gold in golds]
    return [text for text in texts if text] or [""]


def _f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    shared = (Counter(predicted) & Counter(gold)).total()
    return 2 * shared / (len(predicted) + len(gold))
