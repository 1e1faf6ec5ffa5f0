"""Reranking: which candidates answer a query best, by a cross-encoder.

Shapes: F features (pairs of a query and a candidate), R rows, B batch, D candidates of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bertwright.data.encode import Inputs, RowEncoder
from bertwright.data.gather import RowOutputs
from bertwright.data.schema import RowSchema
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import DataError
from bertwright.models.outputs import Outputs
from bertwright.models.task_model import TaskModel
from bertwright.tasks.base import Task
from bertwright.tasks.metrics import RANKING_METRICS, ranking_metrics, ranking_statistics
from bertwright.tasks.multilabel import sigmoid
from bertwright.tasks.rerank_rows import RERANK_SCHEMA, RerankEncoder

__all__ = ["Rerank", "list_losses"]


def list_losses(scores: Tensor, relevance: Tensor, rows: Tensor) -> Tensor:
    """Return the loss in nats of the row that each feature is of, [B]; computed in fp32.

    It is the cross-entropy of the softmax over the scores of a row's candidates against their
    shares of its relevance; 0 for a row of which no candidate here is relevant.

    Args:
        scores: [B], any float type.
        relevance: [B], not below 0.
        rows: [B], int64 from 0: features of the same number are candidates of one row, in any
            order and at any place.

    Source: Cao et al. 2007 (ListNet, top one), with shares in place of a softmax over relevance.
    """
    scores, relevance = scores.float(), relevance.float()
    zeros = torch.zeros(int(rows.max()) + 1, device=scores.device)
    highest = zeros.scatter_reduce(0, rows, scores.detach(), "amax", include_self=False)
    shifted = scores - highest[rows]
    log_sums = zeros.index_add(0, rows, shifted.exp()).log()
    totals = zeros.index_add(0, rows, relevance)
    shares = relevance / torch.where(totals > 0, totals, 1.0)[rows]
    return zeros.index_add(0, rows, shares * (log_sums[rows] - shifted))[rows]


@dataclass(frozen=True, kw_only=True)
class Rerank(Task):
    """One output a pair of query and candidate; candidates are ranked by it."""

    name: ClassVar[str] = "rerank"
    metric_names: ClassVar[tuple[str, ...]] = RANKING_METRICS
    schema: ClassVar[RowSchema] = RERANK_SCHEMA
    inputs: ClassVar[tuple[str, ...]] = ("query", "candidates")
    shown: ClassVar[tuple[str, ...]] = ("query",)
    encoder: ClassVar[RowEncoder] = RerankEncoder()
    loss: Literal["list", "binary"] = "list"
    """list: candidates of a row compete (cross-entropy against their shares of its relevance).
    binary: each is relevant or not, by itself."""

    def outputs(self, labels: Sequence[str]) -> Outputs:
        """Return one number a pair: the log odds that the candidate is relevant.

        With the list loss only differences within a row are learned.
        """
        return Outputs(1, kind="numbers")

    def per_example_loss(
        self, logits: Tensor, batch: Mapping[str, Any], model: TaskModel
    ) -> Tensor:
        """Return the loss of each feature [B], in nats.

        `binary`: the binary cross-entropy of the pair. `list`: the loss of the pair's row (see
        `list_losses`), the same for each pair of it; so a mean over features weighs each row by
        its number of candidates.

        Args:
            logits: [B,1], any float type.
            batch: has `labels` [B], the relevance, and `rows` [B] (NumPy), the row of each
                feature. All candidates of a row are in the batch, in any order.
            model: not asked.
        """
        scores, relevance = logits[:, 0].float(), batch["labels"]
        if self.loss == "binary":
            wanted = (relevance > 0).to(scores.dtype)
            return F.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
        _, rows = np.unique(batch["rows"], return_inverse=True)
        return list_losses(scores, relevance, torch.from_numpy(rows).to(scores.device))

    def judge(
        self, logits: RowOutputs, encoded: EncodedRows, decoding: Mapping[str, Any]
    ) -> np.ndarray:
        """Return the reciprocal rank of each row, and what else `RANKING_METRICS` names, [R,8].

        Args:
            logits: [F,1].
            encoded: F features with their relevance.
            decoding: not asked.

        Raises:
            DataError: the rows have no relevance.
        """
        if "labels" not in encoded.targets:
            raise DataError("the rows have no relevance to judge by")
        relevance = np.asarray(encoded.field("labels", np.arange(len(encoded))))
        features = encoded.inputs().features_of_rows()
        return ranking_statistics(
            [logits[positions, 0] for positions in features],
            [relevance[positions] for positions in features],
        )

    def metrics(self, statistics: np.ndarray) -> dict[str, float]:
        """Return MRR, nDCG, recall and hit rates; see `ranking_metrics`."""
        return ranking_metrics(statistics)

    def row_scores(self, statistics: np.ndarray) -> np.ndarray:
        """Return the reciprocal rank of each row, [R]."""
        return statistics[:, 0]

    def decode(
        self,
        logits: RowOutputs,
        inputs: Inputs,
        labels: Sequence[str],
        decoding: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        """Return `{"best", "ranking"}` a row: the best candidate's text, and all, best first.

        Each of the ranking has `text`, `index` (its place among the row's candidates) and `score`,
        the sigmoid of its logit; equal ones stay in their order.

        Args:
            logits: [F,1].
            inputs: the rows with `candidates`, all of which have a feature, in their order.
            labels: not asked.
            decoding: not asked.
        """
        scores = sigmoid(np.asarray(logits)[:, 0])
        answers = []
        for positions, candidates in zip(
            inputs.features_of_rows(), inputs.rows["candidates"], strict=True
        ):
            order = np.argsort(-logits[positions, 0], kind="stable").tolist()
            ranking = [
                {"text": candidates[i], "index": i, "score": float(scores[positions[i]])}
                for i in order
            ]
            answers.append({"best": ranking[0]["text"], "ranking": ranking})
        return answers

    def describe(self, answer: Mapping[str, Any]) -> tuple[str, float | None]:
        """Return the best candidate and its score."""
        return answer["best"], answer["ranking"][0]["score"]

    def describe_truth(self, encoded: EncodedRows) -> list[str]:
        """Return the most relevant candidate of each row, the first where there are several."""
        rows = encoded.inputs().rows
        pairs = zip(rows["candidates"], rows["relevance"], strict=True)
        return [texts[int(np.argmax(relevance))] for texts, relevance in pairs]
