"""Referee: seqeval, default and strict, on well-formed, random and adversarial tags."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, Entities

from bertwright.tasks.metrics.entities import (
    Span,
    TypeScore,
    entity_metrics,
    entity_statistics,
    iob2_problem,
    span_statistics,
    spans_of,
    tags_of,
    type_scores,
)

USUAL = ["O", "B-X", "I-X", "B-Y", "I-Y"]
ODD = ["B", "I", "B-", "I-", "BX", "IX", "B--X", "I--X", "B-X-", "I-X-", "B-X-Y", "I-X-Y", "O-X"]

usual_tags = st.lists(st.sampled_from(USUAL), max_size=8)
any_tags = st.lists(st.sampled_from(USUAL + ODD), max_size=8)


@st.composite
def tag_rows(draw: st.DrawFn) -> tuple[list[list[str]], list[list[str]]]:
    """Draw rows of tags and other tags for the same words; some rows are right."""
    tags = draw(st.sampled_from([usual_tags, any_tags]))
    gold = draw(st.lists(tags, min_size=1, max_size=6))
    predicted = [
        row if draw(st.booleans()) else [draw(st.sampled_from(USUAL)) for _ in row] for row in gold
    ]
    return predicted, gold


@st.composite
def span_rows(draw: st.DrawFn) -> tuple[list[Span], int]:
    """Draw spans in order that do not overlap, and a number of words that holds them."""
    spans, word = [], 0
    for _ in range(draw(st.integers(0, 5))):
        start = word + draw(st.integers(0, 2))
        word = start + draw(st.integers(1, 3))
        spans.append(Span(draw(st.sampled_from(["PER", "LOC", "x-y", "_"])), start, word))
    return spans, word + draw(st.integers(0, 2))


def seqeval_spans(tags: list[str], strict: bool) -> list[tuple[str, int, int]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if strict:
            (entities,) = Entities([tags], IOB2).entities
            return [(entity.tag, entity.start, entity.end) for entity in entities]
        return [(type_, start, last + 1) for type_, start, last in get_entities(list(tags))]


def types_in(*rows: list[list[str]], strict: bool) -> list[str]:
    tags = itertools.chain(*rows)
    return sorted({span.type for row in tags for span in spans_of(row, strict=strict)})


def referee(predicted: list[list[str]], gold: list[list[str]], strict: bool) -> dict[str, float]:
    how = {"mode": "strict", "scheme": IOB2} if strict else {}
    occurs = bool(types_in(predicted, gold, strict=strict))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "precision": precision_score(gold, predicted, **how),
            "recall": recall_score(gold, predicted, **how),
            "f1": f1_score(gold, predicted, **how),
            "macro_f1": f1_score(gold, predicted, average="macro", **how) if occurs else 0.0,
        }


def same(found: dict[str, float], wanted: dict[str, float]) -> None:
    assert all(type(value) is float for value in found.values())
    assert found == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("strict", [False, True])
def test_every_short_sequence_is_read_as_seqeval_reads_it(strict: bool) -> None:
    for length in range(5):
        for tags in itertools.product(USUAL, repeat=length):
            assert spans_of(tags, strict=strict) == seqeval_spans(list(tags), strict), tags
    for tags in itertools.product(USUAL + ODD, repeat=2):
        assert spans_of(tags, strict=strict) == seqeval_spans(list(tags), strict), tags


@pytest.mark.parametrize("strict", [False, True])
@given(tags=any_tags)
@settings(max_examples=200, deadline=None)
def test_odd_sequences_are_read_as_seqeval_reads_them(strict: bool, tags: list[str]) -> None:
    assert spans_of(tags, strict=strict) == seqeval_spans(tags, strict)


@pytest.mark.parametrize("strict", [False, True])
@given(rows=tag_rows())
@settings(max_examples=120, deadline=None)
def test_scores_agree_with_seqeval(
    strict: bool, rows: tuple[list[list[str]], list[list[str]]]
) -> None:
    types = ["never", *types_in(*rows, strict=strict)]
    statistics = entity_statistics(*rows, types, strict=strict)
    assert statistics.shape == (len(rows[0]), 3 * len(types)) and statistics.dtype == np.float64
    same(entity_metrics(statistics), referee(*rows, strict))


@pytest.mark.parametrize("strict", [False, True])
@given(rows=tag_rows())
@settings(max_examples=60, deadline=None)
def test_scores_by_type_agree_with_seqeval(
    strict: bool, rows: tuple[list[list[str]], list[list[str]]]
) -> None:
    predicted, gold = rows
    types = types_in(predicted, gold, strict=strict)
    statistics = entity_statistics(predicted, gold, [*types, "never"], strict=strict)
    found = type_scores(statistics.sum(axis=0), [*types, "never"])
    assert found.pop("never") == TypeScore(0.0, 0.0, 0.0, 0)
    if not types:
        return
    how = {"mode": "strict", "scheme": IOB2} if strict else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = classification_report(gold, predicted, output_dict=True, **how)
    for type_, score in found.items():
        row = report[type_]
        wanted = (row["precision"], row["recall"], row["f1-score"], row["support"])
        assert score == pytest.approx(wanted, abs=1e-12)


@given(tag_rows(), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_drawn_rows_score_as_if_judged_anew(
    rows: tuple[list[list[str]], list[list[str]]], seed: int
) -> None:
    predicted, gold = rows
    types = types_in(predicted, gold, strict=False)
    drawn = np.random.default_rng(seed).integers(0, len(gold), size=len(gold) + 3)
    anew = entity_statistics([predicted[i] for i in drawn], [gold[i] for i in drawn], types)
    statistics = entity_statistics(predicted, gold, types)
    assert entity_metrics(statistics[drawn]) == entity_metrics(anew)


@given(span_rows())
@settings(max_examples=100, deadline=None)
def test_tags_of_spans_are_valid_and_read_back(row: tuple[list[Span], int]) -> None:
    spans, length = row
    tags = tags_of(spans[::-1], length)
    assert len(tags) == length
    assert iob2_problem(tags) is None
    assert spans_of(tags) == spans_of(tags, strict=True) == spans


@given(any_tags)
@settings(max_examples=200, deadline=None)
def test_valid_tags_read_alike_in_both_ways_and_write_back(tags: list[str]) -> None:
    if iob2_problem(tags) is None:
        assert tags_of(spans_of(tags), len(tags)) == tags
        if not any("--" in tag or tag.endswith("-") for tag in tags):
            assert spans_of(tags) == spans_of(tags, strict=True)


@given(usual_tags)
@settings(max_examples=200, deadline=None)
def test_the_first_problem_is_where_the_two_ways_part(tags: list[str]) -> None:
    problem = iob2_problem(tags)
    if problem is None:
        assert spans_of(tags) == spans_of(tags, strict=True)
    else:
        index, _ = problem
        assert iob2_problem(tags[:index]) is None
        assert spans_of(tags[: index + 1]) != spans_of(tags[: index + 1], strict=True)


def test_reading_by_hand() -> None:
    after_o = ["O", "I-PER", "I-PER"]
    assert spans_of(after_o) == [Span("PER", 1, 3)]
    assert spans_of(after_o, strict=True) == []
    other_type = ["B-PER", "I-LOC", "I-LOC"]
    assert spans_of(other_type) == [("PER", 0, 1), ("LOC", 1, 3)]
    assert spans_of(other_type, strict=True) == [("PER", 0, 1)]
    assert spans_of(["B-PER", "B-PER", "I-PER"]) == [("PER", 0, 1), ("PER", 1, 3)]
    assert spans_of([]) == []


def test_problems_by_hand() -> None:
    assert iob2_problem([]) is None
    assert iob2_problem(["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]) is None
    assert iob2_problem(["O", "I-PER"]) == (1, "'I-PER' follows neither B-PER nor I-PER")
    assert iob2_problem(["B-LOC", "I-PER"]) == (1, "'I-PER' follows neither B-PER nor I-PER")
    assert iob2_problem(["B-", "I-PER"]) == (0, "'B-' has an empty type")
    assert iob2_problem(["O", "B"]) == (1, "'B' has an empty type")
    assert iob2_problem(["S-PER"]) == (0, "'S-PER' is neither O nor begins with B- or I-")
    for tag in ("", "o", "PER", "BPER", "O-PER", "b-PER"):
        problem = iob2_problem(["O", tag])
        assert problem is not None and problem[0] == 1 and "neither O" in problem[1]


def test_scores_by_hand() -> None:
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O"]]
    predicted = [["B-PER", "I-PER", "O", "B-PER"], ["B-LOC", "I-LOC"]]
    statistics = entity_statistics(predicted, gold, ["LOC", "PER"])
    assert statistics.tolist() == [[0, 1, 0, 2, 1, 1], [0, 0, 1, 0, 1, 0]]
    # PER: right 1 of 2 predicted and 1 gold; LOC: right 0 of 1 predicted and 2 gold
    assert entity_metrics(statistics) == pytest.approx(
        {"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3, "macro_f1": (2 / 3 + 0) / 2}
    )
    scores = type_scores(statistics.sum(axis=0), ["LOC", "PER"])
    assert scores["PER"] == pytest.approx((1 / 2, 1.0, 2 / 3, 1))
    assert scores["LOC"] == (0.0, 0.0, 0.0, 2)
    assert type(scores["LOC"].support) is int


def test_spans_and_tags_have_the_same_statistics() -> None:
    gold = [[("PER", 0, 2), ("LOC", 3, 4)]]
    predicted = [[("LOC", 3, 4), ("LOC", 3, 4), ("PER", 0, 1)]]
    found = span_statistics(predicted, gold, ["LOC", "PER"])
    tags = [tags_of(row, 4) for row in ([("LOC", 3, 4), ("PER", 0, 1)], gold[0])]
    assert (found == entity_statistics([tags[0]], [tags[1]], ["LOC", "PER"])).all()


def test_no_entities_score_zero() -> None:
    for types in ([], ["PER"]):
        found = entity_metrics(entity_statistics([["O", "O"]], [["O", "O"]], types))
        assert found == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "macro_f1": 0.0}
    assert entity_statistics([], [], ["PER"]).shape == (0, 3)


def test_a_wrong_definition_is_noticed() -> None:
    gold, predicted = [["B-X", "I-X", "O", "B-Y"]], [["I-X", "I-X", "O", "B-X"]]
    lenient = entity_metrics(entity_statistics(predicted, gold, ["X", "Y"]))
    strict = entity_metrics(entity_statistics(predicted, gold, ["X", "Y"], strict=True))
    same(lenient, referee(predicted, gold, strict=False))
    same(strict, referee(predicted, gold, strict=True))
    with pytest.raises(AssertionError):
        same(strict, referee(predicted, gold, strict=False))
    with pytest.raises(AssertionError):
        same(lenient | {"macro_f1": lenient["f1"]}, referee(predicted, gold, strict=False))


def test_useless_input_is_refused() -> None:
    for tag in ("", "S-PER", "per"):
        with pytest.raises(ValueError, match="no IOB2 tag"):
            spans_of(["O", tag])
    for spans, reason in (
        ([("PER", 1, 1)], "no span of 3 words"),
        ([("PER", 2, 4)], "no span of 3 words"),
        ([("PER", -1, 1)], "no span of 3 words"),
        ([("PER", 0, 2), ("LOC", 1, 3)], "overlaps"),
        ([("", 0, 2)], "no type"),
    ):
        with pytest.raises(ValueError, match=reason):
            tags_of(spans, 3)
    with pytest.raises(ValueError, match="row 1: 2 tags predicted, 1 gold"):
        entity_statistics([[], ["O", "O"]], [[], ["O"]], [])
    with pytest.raises(ValueError, match="2 rows predicted, 1 gold"):
        entity_statistics([[], []], [[]], [])
    with pytest.raises(ValueError, match="row 0: unknown entity type 'PER'"):
        entity_statistics([["B-PER"]], [["O"]], ["LOC"])
    with pytest.raises(ValueError, match="no rows"):
        entity_metrics(np.zeros((0, 6)))
    with pytest.raises(ValueError, match="want 6 totals"):
        type_scores(np.zeros(3), ["LOC", "PER"])
