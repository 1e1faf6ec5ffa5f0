"""Scores of entities: spans of words, written as IOB2 tags and compared as whole spans.

A span is right if its type, its first and its last word all are (Tjong Kim Sang and De Meulder
2003, the CoNLL-2003 shared task). Tags that a model writes need not be well-formed IOB2; they are
read as the seqeval package (1.2) reads them, in its default way or in its strict one.

Legend: N rows (sentences), W words of a row, K entity types.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = [
    "Span",
    "TypeScore",
    "entity_metrics",
    "entity_statistics",
    "iob2_problem",
    "span_statistics",
    "spans_of",
    "tags_of",
    "type_scores",
]


class Span(NamedTuple):
    """One entity: its type, its first word, and the word after its last; words count from 0."""

    type: str
    start: int
    end: int


class TypeScore(NamedTuple):
    """Scores of one entity type; `support` is how many spans the gold data has."""

    precision: float
    recall: float
    f1: float
    support: int


def spans_of(tags: Sequence[str], *, strict: bool = False) -> list[Span]:
    """Return the spans that the tags of one row say, in order.

    By default a span begins at every B, and at an I that cannot go on (after O, at the start, or
    after another type). With `strict` it begins at B only, and an I that cannot go on is dropped.
    Either way a span goes on over each I of its own type. A tag without a type ("B", "B-") has
    the type "_", as in seqeval.

    Args:
        tags: [W], each beginning with B, I or O.
        strict: read as seqeval's `mode="strict", scheme=IOB2`, not as its default.

    Raises:
        ValueError: a tag begins with none of B, I and O.
    """
    spans: list[Span] = []
    open_type, start = None, 0
    for index, tag in enumerate([*tags, "O"]):
        prefix, type_ = _read(tag, strict)
        if prefix == "I" and type_ == open_type:
            continue
        if open_type is not None:
            spans.append(Span(open_type, start, index))
        begins = prefix == "B" or (prefix == "I" and not strict)
        open_type, start = (type_ if begins else None), index
    return spans


def iob2_problem(tags: Sequence[str]) -> tuple[int, str] | None:
    """Return where the tags of one row stop being valid IOB2, and why; None if they are valid.

    Args:
        tags: [W] strings.

    Returns:
        The index of the first bad tag with one of: a prefix that is not `B-` or `I-` (and the tag
        is not `O`), an empty type, or an `I-` that follows no `B-` or `I-` of its type.
    """
    previous = "O"
    for index, tag in enumerate(tags):
        reason = _problem(tag, previous)
        if reason:
            return index, reason
        previous = tag
    return None


def tags_of(spans: Sequence[tuple[str, int, int]], length: int) -> list[str]:
    """Return the IOB2 tags of one row, [length], from its spans in any order.

    Args:
        spans: (type, first word, word after the last), as `Span`.
        length: number of words.

    Raises:
        ValueError: a span is empty, lies outside the row, overlaps another, or has no type.
    """
    tags = ["O"] * length
    for type_, start, end in spans:
        if not type_:
            raise ValueError(f"the span of words {start} to {end} has no type")
        if not 0 <= start < end <= length:
            raise ValueError(f"{type_} from {start} to {end} is no span of {length} words")
        if any(tag != "O" for tag in tags[start:end]):
            raise ValueError(f"{type_} from {start} to {end} overlaps another span")
        tags[start:end] = [f"B-{type_}"] + [f"I-{type_}"] * (end - start - 1)
    return tags


def entity_statistics(
    predicted: Sequence[Sequence[str]],
    gold: Sequence[Sequence[str]],
    types: Sequence[str],
    *,
    strict: bool = False,
) -> np.ndarray:
    """Return how many spans of each type a row has right, predicted and gold, [N, 3K] float64.

    Args:
        predicted: N rows of IOB2 tags.
        gold: N rows of as many tags each.
        types: the K entity types.
        strict: see `spans_of`; applies to both.

    Returns:
        Columns 0..K-1 right, K..2K-1 predicted, 2K..3K-1 gold, each in the order of `types`.

    Raises:
        ValueError: different numbers of rows or tags, a tag that is none, or an unknown type.
    """
    for index, (of_predicted, of_gold) in enumerate(zip(predicted, gold, strict=False)):
        if len(of_predicted) != len(of_gold):
            raise ValueError(
                f"row {index}: {len(of_predicted)} tags predicted, {len(of_gold)} gold"
            )
    return span_statistics(
        [spans_of(tags, strict=strict) for tags in predicted],
        [spans_of(tags, strict=strict) for tags in gold],
        types,
    )


def span_statistics(
    predicted: Sequence[Sequence[tuple[str, int, int]]],
    gold: Sequence[Sequence[tuple[str, int, int]]],
    types: Sequence[str],
) -> np.ndarray:
    """Return the statistics of `entity_statistics` from spans; a repeated span counts once.

    Args:
        predicted: N rows of spans.
        gold: N rows of spans.
        types: the K entity types.

    Raises:
        ValueError: different numbers of rows, or a span of an unknown type.
    """
    if len(predicted) != len(gold):
        raise ValueError(f"{len(predicted)} rows predicted, {len(gold)} gold")
    columns = {type_: column for column, type_ in enumerate(types)}
    statistics = np.zeros((len(gold), 3, len(types)))
    for index, rows in enumerate(zip(predicted, gold, strict=True)):
        of_predicted, of_gold = (set(map(tuple, spans)) for spans in rows)
        for place, spans in enumerate((of_predicted & of_gold, of_predicted, of_gold)):
            for type_, _, _ in spans:
                if type_ not in columns:
                    raise ValueError(f"row {index}: unknown entity type {type_!r}")
                statistics[index, place, columns[type_]] += 1
    return statistics.reshape(len(gold), 3 * len(types))


def entity_metrics(statistics: np.ndarray) -> dict[str, float]:
    """Return `precision`, `recall`, `f1` over all spans, and `macro_f1` over types.

    `macro_f1` is the mean over the types that occur among these rows, gold or predicted. Without
    any span all four are 0.0.

    Args:
        statistics: [N, 3K] from `entity_statistics` or `span_statistics`.

    Raises:
        ValueError: there are no rows.
    """
    if not len(statistics):
        raise ValueError("there are no rows to score")
    totals = statistics.sum(axis=0).reshape(3, statistics.shape[1] // 3)
    precision, recall, f1 = _scores(totals.sum(axis=1))
    occurs = totals[1] + totals[2] > 0
    return {
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "macro_f1": float(_scores(totals)[2][occurs].mean()) if occurs.any() else 0.0,
    }


def type_scores(totals: np.ndarray, types: Sequence[str]) -> dict[str, TypeScore]:
    """Return the scores of each type; all are 0 for a type that does not occur.

    Args:
        totals: [3K], the sum over rows of the statistics of `entity_statistics`.
        types: the K entity types, in the same order.

    Raises:
        ValueError: there are not three totals a type.
    """
    totals = np.asarray(totals, dtype=np.float64)
    if totals.shape != (3 * len(types),):
        raise ValueError(f"want {3 * len(types)} totals for {len(types)} types: {totals.shape}")
    counts = totals.reshape(3, len(types))
    rows = zip(types, *(scores.tolist() for scores in (*_scores(counts), counts[2])), strict=True)
    return {type_: TypeScore(p, r, f1, int(support)) for type_, p, r, f1, support in rows}


def _read(tag: str, strict: bool) -> tuple[str, str]:
    """Return a tag's prefix and type; the two ways differ only on types with odd hyphens."""
    prefix, rest = tag[:1], tag[1:]
    if prefix not in ("B", "I", "O"):
        raise ValueError(f"{tag!r} is no IOB2 tag: it begins with none of B, I and O")
    return prefix, (rest.strip("-") if strict else rest.split("-", maxsplit=1)[-1]) or "_"


def _problem(tag: str, previous: str) -> str | None:
    if tag == "O":
        return None
    if tag not in ("B", "I") and not tag.startswith(("B-", "I-")):
        return f"{tag!r} is neither O nor begins with B- or I-"
    if not tag[2:].strip():
        return f"{tag!r} has an empty type"
    if tag[0] == "I" and previous[2:] != tag[2:]:
        return f"{tag!r} follows neither B-{tag[2:]} nor I-{tag[2:]}"
    return None


def _scores(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision, recall and F1, each [...], from right, predicted and gold [3, ...]."""
    right, predicted, gold = counts
    return (
        right / np.maximum(predicted, 1),
        right / np.maximum(gold, 1),
        2 * right / np.maximum(predicted + gold, 1),
    )
