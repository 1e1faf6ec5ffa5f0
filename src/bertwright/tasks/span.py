"""Extractive question answering: the span of a context that answers a question, or none.

Shapes: F features (windows of a context), R rows, B batch, L length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bertwright.data.encode import Inputs, RowEncoder
from bertwright.data.gather import RowOutputs
from bertwright.data.schema import RowSchema
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import DataError
from bertwright.models.outputs import PADDING_LOGIT, Outputs
from bertwright.models.task_model import TaskModel
from bertwright.tasks.base import Task
from bertwright.tasks.best_spans import MergedSpans, best_spans, merge_windows
from bertwright.tasks.metrics import (
    answer_metrics,
    answer_statistics,
    best_no_answer_threshold,
    token_f1,
)
from bertwright.tasks.span_rows import SPAN_SCHEMA
from bertwright.tasks.span_windows import SpanEncoder

__all__ = ["Span"]

NUM_ANSWERS = 5
NONE = "(no answer)"


@dataclass(frozen=True, kw_only=True)
class Span(Task):
    """Two outputs a token: is the answer's first token, is its last."""

    name: ClassVar[str] = "span"
    metric_names: ClassVar[tuple[str, ...]] = ("f1", "exact")
    schema: ClassVar[RowSchema] = SPAN_SCHEMA
    inputs: ClassVar[tuple[str, ...]] = ("question", "context")
    shown: ClassVar[tuple[str, ...]] = ("question",)
    encoder: ClassVar[RowEncoder] = SpanEncoder()
    tunes_on_rows: ClassVar[bool] = True

    def outputs(self, labels: Sequence[str]) -> Outputs:
        """Return a start and an end logit for each token."""
        return Outputs(2, kind="places", level="token")

    def per_example_loss(
        self, logits: Tensor, batch: Mapping[str, Any], model: TaskModel
    ) -> Tensor:
        """Return the mean of the cross-entropies of start and end of each feature [B], in nats.

        Args:
            logits: [B,L,2], any float type.
            batch: has `start_positions` and `end_positions` [B], and `attention_mask` [B,L].
            model: not asked.
        """
        real = batch["attention_mask"].bool()[..., None]
        start, end = logits.float().masked_fill(~real, PADDING_LOGIT).unbind(dim=-1)
        losses = (
            F.cross_entropy(places, batch[name], reduction="none")
            for places, name in ((start, "start_positions"), (end, "end_positions"))
        )
        return sum(losses) / 2  # type: ignore[return-value]

    def tune(
        self, model: TaskModel, logits: RowOutputs | None, encoded: EncodedRows | None
    ) -> dict[str, Any]:
        """Return how far the null score may exceed the best span's before nothing is answered.

        It is tuned for F1 where there are questions without an answer; else all get one.
        """
        if logits is None or encoded is None:
            return {}
        inputs = encoded.inputs()
        golds = inputs.rows["answer_text"]
        if all(golds):
            return {}
        merged = list(_merged(logits, inputs))
        found = [
            token_f1(_text(spans, context), gold) if gold else 0.0
            for spans, context, gold in zip(merged, inputs.rows["context"], golds, strict=True)
        ]
        best = best_no_answer_threshold(
            np.array([spans.null_minus_best for spans in merged]),
            np.array(found),
            np.array([not gold for gold in golds]),
        )
        return {"null_threshold": best.threshold}

    def judge(
        self, logits: RowOutputs, encoded: EncodedRows, decoding: Mapping[str, Any]
    ) -> np.ndarray:
        """Return exact match, token F1 and what `answer_statistics` adds, of each row [R,4]."""
        if not encoded.targets:
            raise DataError("the rows have no answers to judge by")
        inputs = encoded.inputs()
        answers = self.decode(logits, inputs, (), decoding)
        return answer_statistics(
            [answer["answer"] for answer in answers], inputs.rows["answer_text"]
        )

    def metrics(self, statistics: np.ndarray) -> dict[str, float]:
        """Return exact match and F1 as SQuAD defines them; see `answer_metrics`."""
        return answer_metrics(statistics)

    def row_scores(self, statistics: np.ndarray) -> np.ndarray:
        """Return the F1 of each row, [R]."""
        return statistics[:, 1]

    def decode(
        self,
        logits: RowOutputs,
        inputs: Inputs,
        labels: Sequence[str],
        decoding: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        """Return `{"answer", "start", "end", "score", "no_answer_score", "answers"}` a row.

        `start` and `end` are character offsets in the context (end exclusive); where there is no
        answer, `answer` is "" and both are None. `score` is the answer's probability, `answers`
        are the five best spans.
        """
        threshold = decoding.get("null_threshold")
        contexts = inputs.rows["context"]
        return [
            _answer(spans, context, threshold)
            for spans, context in zip(_merged(logits, inputs), contexts, strict=True)
        ]

    def describe(self, answer: Mapping[str, Any]) -> tuple[str, float | None]:
        """Return the answer and its probability."""
        return answer["answer"] or NONE, answer["score"]

    def describe_truth(self, encoded: EncodedRows) -> list[str]:
        """Return the first gold answer of each row."""
        return [gold[0] if gold else NONE for gold in encoded.inputs().rows["answer_text"]]


def _merged(outputs: Sequence[np.ndarray], inputs: Inputs) -> Iterator[MergedSpans]:
    """Yield the best spans of each row, over its windows."""
    fields = inputs.fields
    for positions in inputs.features_of_rows():
        spans, nulls = [], []
        for position in positions.tolist():
            start, end = outputs[position].T
            offsets = (
                np.asarray(fields[name][position]) for name in ("offset_start", "offset_end")
            )
            spans.append(best_spans(start, end, *offsets))
            null = int(fields["null_position"][position])
            nulls.append(float(start[null] + end[null]))
        yield merge_windows(spans, nulls)


def _text(merged: MergedSpans, context: str) -> str:
    return context[merged.spans[0].start : merged.spans[0].end] if merged.spans else ""


def _answer(merged: MergedSpans, context: str, threshold: float | None) -> dict[str, Any]:
    answers = [
        {
            **{"text": context[span.start : span.end], "start": span.start, "end": span.end},
            "score": float(probability),
        }
        for span, probability in zip(merged.spans, merged.probabilities, strict=True)
    ][:NUM_ANSWERS]
    none = not answers or (threshold is not None and merged.null_minus_best > threshold)
    best = {"text": "", "start": None, "end": None, "score": float(merged.null_probability)}
    best = best if none else answers[0]
    return {
        **{"answer": best["text"], "start": best["start"], "end": best["end"]},
        **{"score": best["score"], "no_answer_score": float(merged.null_probability)},
        "answers": answers,
    }
