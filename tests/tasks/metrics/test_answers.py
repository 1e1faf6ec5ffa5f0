"""Referees: the published SQuAD definitions, written out step by step, and brute force."""

from __future__ import annotations

import re
import string
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.tasks.metrics.answers import (
    answer_metrics,
    answer_statistics,
    best_no_answer_threshold,
    exact_match,
    normalise_answer,
    token_f1,
)

WORDS = ["the", "The", "a", "an", "cat", "Cat,", "theatre", "a-b", "3.5", "--", "U.S.", "'", " \t"]
answers = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join),
    st.text(alphabet="aAtThHeEnN .,-_'\u3000\u00a0é中", max_size=10),
)


def referee_normal(text: str) -> str:
    text = text.lower()
    for sign in string.punctuation:
        text = text.replace(sign, "")
    text = re.sub(r"\b(?:a|an|the)\b", " ", text)
    return re.sub(r"\s+", " ", text).strip()


def referee_f1(prediction: str, gold: str) -> float:
    predicted_tokens, gold_tokens = referee_normal(prediction).split(), referee_normal(gold).split()
    if len(predicted_tokens) == 0 or len(gold_tokens) == 0:
        return 1.0 if predicted_tokens == gold_tokens else 0.0
    left, num_same = Counter(gold_tokens), 0
    for token in predicted_tokens:
        if left[token] > 0:
            left[token] -= 1
            num_same += 1
    if num_same == 0:
        return 0.0
    precision, recall = num_same / len(predicted_tokens), num_same / len(gold_tokens)
    return 2 * precision * recall / (precision + recall)


def referee_scores(prediction: str, golds: list[str]) -> tuple[float, float]:
    golds = [gold for gold in golds if referee_normal(gold)]
    if not golds:
        golds = [""]
    exact = max(float(referee_normal(prediction) == referee_normal(gold)) for gold in golds)
    return exact, max(referee_f1(prediction, gold) for gold in golds)


@given(answers)
@settings(max_examples=200, deadline=None)
def test_normal_form_is_the_published_one(text: str) -> None:
    # Python's split() and \s differ on \x1c to \x1f only, which the drawn texts do not have.
    assert normalise_answer(text) == referee_normal(text)


@given(answers, st.lists(answers, max_size=3))
@settings(max_examples=300, deadline=None)
def test_scores_are_the_published_ones(prediction: str, golds: list[str]) -> None:
    exact, f1 = referee_scores(prediction, golds)
    assert exact_match(prediction, golds) == exact
    assert token_f1(prediction, golds) == pytest.approx(f1, abs=1e-12)
    (row,) = answer_statistics([prediction], [golds])
    has_answer = any(referee_normal(gold) for gold in golds)
    wanted = [exact, f1, float(has_answer), float(referee_normal(prediction) != "")]
    assert row == pytest.approx(wanted, abs=1e-12)


def test_normal_form_by_hand() -> None:
    assert normalise_answer("  The U.S.  President, an   Actor! ") == "us president actor"
    assert normalise_answer("A theatre and Ann") == "theatre and ann"
    assert normalise_answer("the-a an") == "thea"
    assert normalise_answer("«the» cat") == "« » cat"
    assert normalise_answer("") == normalise_answer("The.") == ""


def test_scores_by_hand() -> None:
    golds = ["the big red dog", "Dog"]
    assert exact_match("a DOG.", golds) == 1.0
    assert exact_match("red dog", golds) == 0.0
    # red dog: 2 of 2 predicted, 2 of 3 gold: 4/5, against 1 of 2 and 1 of 1: 2/3
    assert token_f1("red dog", golds) == pytest.approx(4 / 5)
    # a repeated token counts as often as both have it: 1 of 3 and 1 of 1
    assert token_f1("dog dog dog", ["dog"]) == pytest.approx(2 / 4)


def test_no_answer_is_right_only_if_empty() -> None:
    for empty in ("", "  ", "the", "..."):
        assert exact_match(empty, []) == token_f1(empty, []) == 1.0
        assert exact_match(empty, ["cat"]) == token_f1(empty, ["cat"]) == 0.0
    assert exact_match("cat", []) == token_f1("cat", []) == 0.0
    assert exact_match("cat", ["the"]) == token_f1("cat", ["the"]) == 0.0
    assert exact_match("", ["the", "cat"]) == 0.0


def test_chinese_needs_characters() -> None:
    # 北京 in 北京市: one token by white space; 2 of 2 and 2 of 3 characters
    assert token_f1("北京", ["北京市"]) == 0.0
    assert token_f1("北京", ["北京市"], characters=True) == pytest.approx(4 / 5)
    assert normalise_answer("《北京 市》,BERT模型。") == "《北京 市》bert模型。"
    assert normalise_answer("《北京 市》,BERT模型。", characters=True) == "北 京 市 bert 模 型"
    assert exact_match("「北京市」！", ["北京市"], characters=True) == 1.0
    assert exact_match("「北京市」！", ["北京市"]) == 0.0


def test_characters_of_other_texts() -> None:
    assert normalise_answer("Ａ＋ 1,000円", characters=True) == "ａ 1000 円"
    assert normalise_answer("カタカナ・ひらがな々", characters=True) == "カ タ カ ナ ひ ら が な 々"
    assert normalise_answer("서울 특별시", characters=True) == "서울 특별시"
    assert normalise_answer("\U00020000\U00020001", characters=True) == "\U00020000 \U00020001"
    # an article is a word of its own, not a letter before a character
    assert normalise_answer("A座 the end", characters=True) == "a 座 end"


@given(st.lists(st.sampled_from(["the cat", "a", "Dog, red", "3.5", "U.S."]), max_size=4))
@settings(max_examples=30, deadline=None)
def test_characters_change_nothing_in_english(words: list[str]) -> None:
    text = " ".join(words)
    assert normalise_answer(text, characters=True) == normalise_answer(text)


def test_metrics_by_hand() -> None:
    predicted = ["red dog", "", "cat", "", "cat"]
    gold = [["big red dog"], [], [], ["cat"], ["a cat", "mouse"]]
    statistics = answer_statistics(predicted, gold)
    assert statistics.dtype == np.float64 and statistics.shape == (5, 4)
    assert answer_metrics(statistics) == pytest.approx({"exact": 2 / 5, "f1": (0.8 + 2) / 5})
    assert answer_metrics(statistics, no_answers=True) == pytest.approx(
        {
            "exact": 2 / 5,
            "f1": (0.8 + 2) / 5,
            "has_answer_exact": 1 / 3,
            "has_answer_f1": (0.8 + 1) / 3,
            "no_answer_exact": 1 / 2,
            "no_answer_f1": 1 / 2,
            "answered": 3 / 5,
        }
    )


def test_scores_by_kind_do_not_depend_on_the_rows_drawn() -> None:
    statistics = answer_statistics(["cat", ""], [["cat"], []])
    names = answer_metrics(statistics, no_answers=True).keys()
    only_first = answer_metrics(statistics[[0, 0]], no_answers=True)
    assert only_first.keys() == names
    assert only_first["no_answer_exact"] == only_first["no_answer_f1"] == 0.0
    assert answer_metrics(statistics[[1]], no_answers=True)["has_answer_f1"] == 0.0
    assert all(type(value) is float for value in only_first.values())


@given(
    st.lists(st.tuples(answers, st.lists(answers, max_size=2)), min_size=1, max_size=8),
    st.integers(0, 2**32),
)
@settings(max_examples=50, deadline=None)
def test_drawn_rows_score_as_if_judged_anew(pairs: list[tuple[str, list[str]]], seed: int) -> None:
    predicted, gold = (list(side) for side in zip(*pairs, strict=True))
    rows = np.random.default_rng(seed).integers(0, len(gold), size=len(gold) + 3)
    anew = answer_statistics([predicted[i] for i in rows], [gold[i] for i in rows])
    drawn = answer_statistics(predicted, gold)[rows]
    assert answer_metrics(drawn, no_answers=True) == answer_metrics(anew, no_answers=True)


@st.composite
def threshold_rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw no-answer scores with ties, F1 in eighths (sums are exact), and kinds of question."""
    size = draw(st.integers(1, 12))
    column = {"min_size": size, "max_size": size}
    spread = draw(st.sampled_from([1.0, 0.37, 1e9]))
    scores = draw(st.lists(st.integers(-4, 4), **column))
    no_answer = np.array(draw(st.lists(st.booleans(), **column)))
    eighths = np.array(draw(st.lists(st.integers(0, 8), **column)))
    return np.array(scores) * spread, np.where(no_answer, eighths == 0, eighths / 8), no_answer


def mean_at(
    threshold: float, scores: np.ndarray, if_answered: np.ndarray, no_answer: np.ndarray
) -> float:
    return float(np.mean(np.where(scores > threshold, no_answer, if_answered)))


def is_best(
    found: tuple[float, float], scores: np.ndarray, if_answered: np.ndarray, no_answer: np.ndarray
) -> None:
    lowest = scores.min()
    every = [lowest - max(1.0, abs(lowest)), *sorted(scores), scores.max() + 1]
    means = [mean_at(threshold, scores, if_answered, no_answer) for threshold in every]
    threshold, score = found
    assert mean_at(threshold, scores, if_answered, no_answer) == pytest.approx(score, abs=1e-12)
    assert score == pytest.approx(max(means), abs=1e-12)
    assert threshold == every[int(np.argmax(means))]


@given(threshold_rows())
@settings(max_examples=300, deadline=None)
def test_best_threshold_agrees_with_brute_force(
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    is_best(best_no_answer_threshold(*rows), *rows)


def test_best_threshold_by_hand() -> None:
    scores = np.array([-2.0, -1.0, 0.5, 3.0])
    exact = np.array([1.0, 1.0, 0.0, 0.0])
    no_answer = np.array([False, False, True, True])
    assert best_no_answer_threshold(scores, exact, no_answer) == (-1.0, 1.0)
    assert best_no_answer_threshold(scores, exact, ~no_answer).score == 0.5
    # nothing is worth an answer: below all of them, also where all are below 0
    assert best_no_answer_threshold(scores - 9, exact * 0, no_answer) == (-22.0, 0.5)


def test_a_wrong_search_is_noticed() -> None:
    """Rows of equal score one by one, and a start at 0: both as in the published script."""
    tied = np.zeros(2), np.array([1.0, 0.0]), np.array([False, True])
    is_best(best_no_answer_threshold(*tied), *tied)
    with pytest.raises(AssertionError):
        is_best((0.0, 1.0), *tied)
    negative = np.array([-1.0]), np.array([0.0]), np.array([True])
    is_best(best_no_answer_threshold(*negative), *negative)
    with pytest.raises(AssertionError):
        is_best((0.0, 1.0), *negative)


def test_a_wrong_definition_is_noticed() -> None:
    def without_articles_left_out(text: str) -> str:
        return " ".join("".join(s for s in text.lower() if s not in string.punctuation).split())

    assert normalise_answer("the cat") == referee_normal("the cat")
    assert without_articles_left_out("the cat") != referee_normal("the cat")


def test_useless_input_is_refused() -> None:
    with pytest.raises(ValueError, match="1 predictions for 2 questions"):
        answer_statistics(["cat"], [["cat"], []])
    with pytest.raises(ValueError, match="no rows"):
        answer_metrics(np.zeros((0, 4)))
    with pytest.raises(ValueError, match="no rows"):
        best_no_answer_threshold(np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool))
    with pytest.raises(ValueError, match="different lengths"):
        best_no_answer_threshold(np.zeros(2), np.zeros(1), np.zeros(2, dtype=bool))
    with pytest.raises(ValueError, match="not finite"):
        best_no_answer_threshold(np.array([0, np.nan]), np.zeros(2), np.zeros(2, dtype=bool))
