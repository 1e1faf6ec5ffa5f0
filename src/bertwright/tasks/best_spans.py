"""The spans of a context that logits of first and last tokens speak for, the best first.

Shapes: L tokens of a window, K spans.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["MergedSpans", "Span", "best_spans", "merge_windows"]


class Span(NamedTuple):
    """Characters `start` to `end` (not included) of a context, and their score."""

    score: float
    start: int
    end: int


class MergedSpans(NamedTuple):
    """The answers to one question, the best first, and how they compare with giving none.

    Attributes:
        spans: K distinct spans.
        probabilities: of the spans, [K]; with `null_probability` they sum to 1.
        null_score: of giving no answer.
        null_probability: of giving no answer.
        null_minus_best: the null score minus the best span's. High is "no answer".
    """

    spans: list[Span]
    probabilities: np.ndarray
    null_score: float
    null_probability: float
    null_minus_best: float


def best_spans(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    offset_start: np.ndarray,
    offset_end: np.ndarray,
    *,
    n_best: int = 20,
    max_answer_tokens: int = 30,
) -> list[Span]:
    """Return the spans of one window with the highest sum of start and end logit, best first.

    All pairs of context tokens are looked at, where transformers' `utils_qa` combines the
    `n_best` starts with the `n_best` ends only. Of equal scores the earlier start, then the
    earlier end comes first. Spans whose score is minus infinity or not a number are left out.
    Spans of different tokens may have the same characters, where several tokens share one.

    Args:
        start_logits: [L].
        end_logits: [L].
        offset_start: [L] first character of each token, -1 for tokens that no span may touch.
        offset_end: [L] the character after its last.
        n_best: most spans to return.
        max_answer_tokens: most tokens of a span.

    Raises:
        ValueError: the arrays differ in shape, or a number is below 1.
    """
    firsts, lasts = np.asarray(offset_start), np.asarray(offset_end)
    starts = np.asarray(start_logits, dtype=np.float64)
    ends = np.asarray(end_logits, dtype=np.float64)
    shapes = {starts.shape, ends.shape, firsts.shape, lasts.shape}
    if len(shapes) != 1 or starts.ndim != 1:
        raise ValueError(f"logits and offsets have the shapes {sorted(shapes)}")
    if n_best < 1 or max_answer_tokens < 1:
        raise ValueError(f"n_best {n_best}, max_answer_tokens {max_answer_tokens}: at least 1")
    tokens = np.flatnonzero(firsts >= 0)
    if not len(tokens):
        return []
    inner = slice(tokens[0], tokens[-1] + 1)
    firsts, lasts = firsts[inner], lasts[inner]
    starts = np.where(firsts >= 0, starts[inner], -np.inf)
    ends = np.where(firsts >= 0, ends[inner], -np.inf)
    width = min(max_answer_tokens, len(starts))
    padded = np.append(ends, np.full(width - 1, -np.inf))
    reachable = np.lib.stride_tricks.sliding_window_view(padded, width)
    scores = (starts[:, None] + reachable).ravel()
    best = _largest(scores, n_best)
    begin, more = np.divmod(best, width)
    found = zip(scores[best], firsts[begin], lasts[begin + more], strict=True)
    return [Span(float(score), int(start), int(end)) for score, start, end in found]


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the largest values, largest first, of equal ones the first first."""
    places = np.flatnonzero(values > -np.inf)
    if len(places) > count:
        least = np.partition(values[places], len(places) - count)[len(places) - count]
        places = places[values[places] >= least]
    return places[np.argsort(-values[places], kind="stable")][:count]


def merge_windows(
    spans: Iterable[Iterable[tuple[float, int, int]]],
    null_scores: Sequence[float] | np.ndarray,
    *,
    n_best: int = 20,
) -> MergedSpans:
    """Return the best spans of a question from those of its windows.

    A span that several windows propose (they overlap) counts once, with its best score. The null
    score is the least of all windows: each of them has to find that the answer is not there. The
    baseline published with BERT for SQuAD 2.0 and transformers' `utils_qa` take it the same way.
    Probabilities are the softmax of the scores of the spans returned and the null score. Of equal
    scores the earlier start, then the earlier end comes first.

    Where no window has a span, `null_minus_best` is 0.0: nothing is answered whatever the
    threshold, and a finite number keeps such rows out of the way when one is tuned.

    Args:
        spans: of each window, as `best_spans` returns them.
        null_scores: of each window, the start logit plus the end logit of its null token.
        n_best: most spans to return.

    Raises:
        ValueError: there is no window, or n_best is below 1.
    """
    if not len(null_scores) or n_best < 1:
        raise ValueError(f"{len(null_scores)} windows and n_best {n_best}: at least 1 of each")
    scores: dict[tuple[int, int], float] = {}
    for window in spans:
        for score, start, end in window:
            scores[start, end] = max(score, scores.get((start, end), -np.inf))
    ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:n_best]
    best = [Span(score, start, end) for (start, end), score in ordered]
    null = float(min(null_scores))
    values = np.array([null, *(span.score for span in best)])
    weights = np.exp(values - values.max())
    weights /= weights.sum()
    return MergedSpans(
        spans=best,
        probabilities=weights[1:],
        null_score=null,
        null_probability=float(weights[0]),
        null_minus_best=null - best[0].score if best else 0.0,
    )
