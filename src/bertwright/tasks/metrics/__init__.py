"""Scores of every kind of task, each computed from statistics that belong to one row.

`..._statistics(predicted, gold, ...)` returns [N, S] float64: what row i adds to the scores.
`..._metrics(statistics)` returns the scores. The scores of any draw of rows, with or without
repeats, are `..._metrics(statistics[rows])`, so a bootstrap never looks at the data again.

All scores are finite Python floats: shares in 0..1, correlations in -1..1, errors from 0. A share
of nothing (no entity, no row of that kind) and a correlation that is not defined are 0.0; no rows
at all is a ValueError.

Legend: N rows, S statistics of a row, C classes, K entity types, Q queries.
"""

from __future__ import annotations

from bertwright.tasks.metrics.answers import (
    NoAnswerThreshold,
    answer_metrics,
    answer_statistics,
    best_no_answer_threshold,
    exact_match,
    normalise_answer,
    token_f1,
)
from bertwright.tasks.metrics.classes import (
    class_metrics,
    class_statistics,
    multilabel_metrics,
    multilabel_statistics,
)
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
from bertwright.tasks.metrics.numbers import number_metrics, number_statistics
from bertwright.tasks.metrics.ranking import (
    RANKING_METRICS,
    ranking_metrics,
    ranking_statistics,
)

__all__ = [
    "RANKING_METRICS",
    "NoAnswerThreshold",
    "Span",
    "TypeScore",
    "answer_metrics",
    "answer_statistics",
    "best_no_answer_threshold",
    "class_metrics",
    "class_statistics",
    "entity_metrics",
    "entity_statistics",
    "exact_match",
    "iob2_problem",
    "multilabel_metrics",
    "multilabel_statistics",
    "normalise_answer",
    "number_metrics",
    "number_statistics",
    "ranking_metrics",
    "ranking_statistics",
    "span_statistics",
    "spans_of",
    "tags_of",
    "token_f1",
    "type_scores",
]
