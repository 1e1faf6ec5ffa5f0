"""Embeddings: one vector a text, near to those of texts that belong with it.

Shapes: F features (texts), R rows, E width of the vectors, Q queries, K candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bertwright.config import require
from bertwright.data.encode import Inputs, RowEncoder
from bertwright.data.gather import RowOutputs
from bertwright.data.schema import RowSchema
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import DataError
from bertwright.models.heads import VectorHead
from bertwright.models.outputs import Outputs
from bertwright.models.task_model import TaskModel
from bertwright.tasks.base import Task
from bertwright.tasks.embed_rows import ANCHOR, EMBED_SCHEMA, POSITIVE, TextsEncoder
from bertwright.tasks.metrics import number_metrics, number_statistics
from bertwright.tasks.metrics.ranking import (
    RANKING_METRICS,
    ranking_metrics,
    ranking_statistics,
)

__all__ = ["Embed", "contrastive_losses", "label_losses", "score_losses"]

QUERIES_AT_ONCE = 256
BELOW_ALL = -2.0
"""In the place of a cosine: no candidate is ranked lower."""


@dataclass(frozen=True, kw_only=True)
class Embed(Task):
    """A unit vector a text. What the rows hold says how it is trained and judged.

    Pairs with scores: squared error of the cosine; Spearman. Pairs, or triplets with a negative:
    the second text has to be found among those of the batch; reciprocal rank among all second
    texts. Texts with labels: those of the same label are to be near; the same. Texts alone, for
    training only: each has to be found by its own second view under dropout (SimCSE).
    """

    name: ClassVar[str] = "embed"
    metric_names: ClassVar[tuple[str, ...]] = ("spearman", "pearson", *RANKING_METRICS)
    schema: ClassVar[RowSchema] = EMBED_SCHEMA
    encoder: ClassVar[RowEncoder] = TextsEncoder()
    names_outputs: ClassVar[bool] = False

    scale: float = 20.0
    """What cosines are multiplied by before the softmax: the inverse of the temperature."""
    by: Literal["auto", "similarity", "ranking"] = "auto"
    """How it is judged: by the scores of pairs, by the ranks of what belongs together, or as the
    rows allow."""

    def __post_init__(self) -> None:
        require(0 < self.scale < math.inf, "scale", self.scale, "above 0")

    @property
    def primary(self) -> str:
        """Spearman's correlation with the scores, or the mean reciprocal rank."""
        return "mrr" if self.by == "ranking" else "spearman"

    @property
    def training_encoder(self) -> RowEncoder:
        """Texts alone are given twice."""
        return TextsEncoder(twice=True)

    @property
    def taught_encoder(self) -> RowEncoder:
        """Texts alone are given once: the teacher's vectors are all that they are to be near to."""
        return self.encoder

    def judging(self, encoded: EncodedRows) -> Self:
        """Return it by scores where the rows have some, else by ranks.

        Raises:
            DataError: the rows have nothing to be judged by.
        """
        scored = "scores" in encoded.targets
        by = self.by if self.by != "auto" else "similarity" if scored else "ranking"
        if by == "similarity" and not scored:
            raise DataError("the rows have no scores to judge by", path=encoded.rows.source)
        if by == "ranking" and not ("groups" in encoded.targets or _have_seconds(encoded)):
            raise DataError(
                "the rows have no scores, second texts or labels to judge by",
                path=encoded.rows.source,
                hint="texts alone are for training; give --eval-data with one of these",
            )
        return replace(self, by=by)

    @property
    def answers_numbers(self) -> bool:
        """An answer to a pair is its similarity."""
        return self.by == "similarity"

    def outputs(self, labels: Sequence[str]) -> Outputs:
        """Return a vector a text."""
        return Outputs(0, kind="vectors")

    def prepare(self, model: TaskModel, train_rows: EncodedRows) -> None:
        """Take the least and the highest score of the training rows, unless the model has them.

        Raises:
            DataError: all scores are the same: nothing says how similar they mean.
        """
        super().prepare(model, train_rows)
        head = _head(model)
        if "scores" in train_rows.targets and torch.isnan(head.score_low):
            scores = np.asarray(train_rows.field("scores", np.arange(len(train_rows))))
            low, high = float(scores.min()), float(scores.max())
            if low == high:
                raise DataError(
                    f"all pairs have the score {low:g}",
                    path=train_rows.rows.source,
                    hint="without scores, pairs are texts that belong together",
                )
            head.score_low.fill_(low)
            head.score_high.fill_(high)

    def per_example_loss(
        self, logits: Tensor, batch: Mapping[str, Any], model: TaskModel
    ) -> Tensor:
        """Return the loss of each text's row [F], fp32.

        Args:
            logits: unit vectors [F,E] of whole rows, a row's texts one after the other.
            batch: has `places` and `text_ids` [F], and `scores` or `groups` [F] if there are any.
            model: its head has the range of the scores. Where it was trained without any, they are
                taken from 0 to 1 in the batch. Texts alone, each once, have no loss of their own.
        """
        vectors, places = logits.float(), batch["places"]
        if "groups" in batch:
            return label_losses(vectors, batch["groups"], self.scale)
        if not bool((places == POSITIVE).any()):
            return vectors.new_zeros(len(vectors))
        row_of = torch.cumsum((places == ANCHOR).long(), dim=0) - 1
        if "scores" not in batch:
            losses = contrastive_losses(vectors, places, batch["text_ids"], self.scale)
            return losses[row_of]
        scores, head = batch["scores"][places == ANCHOR].float(), _head(model)
        low, high = head.score_low, head.score_high
        if bool(torch.isnan(low)):
            low, high = scores.min(), scores.max()
        wanted = (scores - low) / (high - low).clamp(min=1e-12)
        first, second = vectors[places == ANCHOR], vectors[places == POSITIVE]
        return score_losses(first, second, wanted)[row_of]

    def judge(
        self, logits: RowOutputs, encoded: EncodedRows, decoding: Mapping[str, Any]
    ) -> np.ndarray:
        """Return [R,2] cosine and score of each pair, or [R,8] of `ranking_statistics`.

        Raises:
            DataError: the rows have nothing to be judged by.
        """
        by = self.judging(encoded).by
        fields = {
            name: np.asarray(encoded.field(name, np.arange(len(encoded))))
            for name in encoded.targets
        }
        vectors, places = np.asarray(logits, dtype=np.float64), fields["places"]
        if by == "similarity":
            first, second = vectors[places == ANCHOR], vectors[places == POSITIVE]
            cosines = (first * second).sum(axis=1)
            return number_statistics(cosines, fields["scores"][places == ANCHOR])
        if "groups" in fields:
            parts = _same_label(vectors, fields["groups"])
        else:
            parts = _find_positives(vectors, places, fields["text_ids"])
        return np.concatenate([ranking_statistics(*part) for part in parts])

    def metrics(self, statistics: np.ndarray) -> dict[str, float]:
        """Return Spearman and Pearson, or the metrics of rankings."""
        if statistics.shape[1] != 2:
            return ranking_metrics(statistics)
        found = number_metrics(statistics)
        return {name: found[name] for name in ("spearman", "pearson")}

    def row_scores(self, statistics: np.ndarray) -> np.ndarray | None:
        """Return the reciprocal rank of each row; a correlation is no mean over rows."""
        return None if statistics.shape[1] == 2 else statistics[:, 0]

    def decode(
        self,
        logits: RowOutputs,
        inputs: Inputs,
        labels: Sequence[str],
        decoding: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        """Return `{"vector"}` a row of one text, `{"similarity"}` a row of two: their cosine."""
        answers: list[dict[str, Any]] = []
        for positions in inputs.features_of_rows():
            vectors = np.asarray(logits[positions], dtype=np.float64)
            if len(vectors) == 1:
                answers.append({"vector": vectors[0].tolist()})
            else:
                answers.append({"similarity": float(vectors[0] @ vectors[1])})
        return answers

    def describe(self, answer: Mapping[str, Any]) -> tuple[str, float | None]:
        """Return the similarity, or how wide the vector is."""
        if "similarity" in answer:
            return f"{answer['similarity']:.3f}", None
        return f"vector of {len(answer['vector'])}", None

    def describe_truth(self, encoded: EncodedRows) -> list[str]:
        """Return the score, the second text or the label of each row."""
        rows = encoded.inputs().rows
        if "score" in rows:
            return [f"{score:.3g}" for score in rows["score"]]
        if "text_b" in rows:
            return list(rows["text_b"])
        if encoded.labels is None:
            return ["" for _ in rows["text"]]
        return [encoded.labels.name_of(int(index)) for index in rows["label"]]


def _head(model: TaskModel) -> VectorHead:
    assert isinstance(model.head, VectorHead)
    return model.head


def _have_seconds(encoded: EncodedRows) -> bool:
    """Say whether rows have second texts."""
    if "places" not in encoded.targets:
        return False
    return bool((np.asarray(encoded.field("places", np.arange(len(encoded)))) == POSITIVE).any())


def score_losses(first: Tensor, second: Tensor, wanted: Tensor) -> Tensor:
    """Return the squared difference of cosine and wanted similarity of each pair, [R].

    Args:
        first: unit vectors [R,E].
        second: unit vectors [R,E].
        wanted: [R], 0 to 1.

    Source: Reimers and Gurevych 2019 (regression objective).
    """
    return ((first * second).sum(dim=1) - wanted).square()


def contrastive_losses(vectors: Tensor, places: Tensor, text_ids: Tensor, scale: float) -> Tensor:
    """Return for each row -log of the share that its second text has in the batch, [R].

    The others are the second texts and negatives of all rows. Left out of them are copies of the
    row's own texts, and of the second texts of rows with the same first text: they are no
    negatives.

    Args:
        vectors: unit vectors [F,E], a row's texts one after the other.
        places: [F], 0 for the first text of a row, 1 for its second, 2 for its negative.
        text_ids: [F], the same for the same text.
        scale: of the cosines.

    Source: Henderson et al. 2017, arXiv:1705.00652 (in-batch negatives); van den Oord et al. 2018.
    """
    anchors = (places == ANCHOR).nonzero()[:, 0]
    candidates = (places != ANCHOR).nonzero()[:, 0]
    own = candidates[None] == anchors[:, None] + 1
    ids, ids_a, ids_p = text_ids[candidates], text_ids[anchors], text_ids[anchors + 1]
    same_first = (ids_a[None] == ids_a[:, None]).to(vectors.dtype)
    second_of = (ids_p[:, None] == ids[None]).to(vectors.dtype)
    belongs = (ids_a[:, None] == ids[None]) | (same_first @ second_of > 0)
    logits = scale * vectors[anchors] @ vectors[candidates].T
    logits = logits.masked_fill(belongs & ~own, -torch.inf)
    return F.cross_entropy(logits, own.long().argmax(dim=1), reduction="none")


def label_losses(vectors: Tensor, groups: Tensor, scale: float) -> Tensor:
    """Return for each text the mean of -log p(other) over the others of its label, [F].

    p is the softmax of the scaled cosines with all other texts of the batch. A text whose label
    stands alone in the batch has the loss 0.

    Args:
        vectors: unit vectors [F,E].
        groups: label ids [F].
        scale: of the cosines.

    Source: Khosla et al. 2020, arXiv:2004.11362, L_out.
    """
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    logits = (scale * vectors @ vectors.T).masked_fill(itself, -torch.inf)
    log_p = torch.log_softmax(logits, dim=1).masked_fill(itself, 0.0)
    same = (groups[None] == groups[:, None]) & ~itself
    counts = same.sum(dim=1)
    losses = -(log_p * same).sum(dim=1) / counts.clamp(min=1)
    return torch.where(counts > 0, losses, 0.0)


def _find_positives(
    vectors: np.ndarray, places: np.ndarray, text_ids: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (cosines, relevance) [Q,K] of some rows' first texts with all other texts, each once.

    Relevant is each second text that stands with the same first text in any
    row. A copy of the first text that is not comes last: to find it is neither right nor wrong.
    """
    anchors = np.flatnonzero(places == ANCHOR)
    others = np.flatnonzero(places != ANCHOR)
    ids, where = np.unique(text_ids[others], return_index=True)
    pool = vectors[others[where]]
    second = np.searchsorted(ids, text_ids[anchors + 1])
    belonging: dict[int, list[int]] = {}
    for first, place in zip(text_ids[anchors].tolist(), second.tolist(), strict=True):
        belonging.setdefault(first, []).append(place)
    for start in range(0, len(anchors), QUERIES_AT_ONCE):
        chunk = anchors[start : start + QUERIES_AT_ONCE]
        relevance = np.zeros((len(chunk), len(pool)))
        for row, first in enumerate(text_ids[chunk].tolist()):
            relevance[row, belonging[first]] = 1
        itself = (text_ids[chunk][:, None] == ids[None]) & (relevance == 0)
        yield np.where(itself, BELOW_ALL, vectors[chunk] @ pool.T), relevance


def _same_label(vectors: np.ndarray, groups: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (cosines, relevance) [Q,F-1] of some texts with all others.

    Relevant are those of the same label.
    """
    everyone = np.arange(len(vectors))
    for start in range(0, len(vectors), QUERIES_AT_ONCE):
        chunk = everyone[start : start + QUERIES_AT_ONCE]
        others = everyone[None] != chunk[:, None]
        shape = (len(chunk), len(vectors) - 1)
        relevance = groups[None] == groups[chunk][:, None]
        cosines = vectors[chunk] @ vectors.T
        yield cosines[others].reshape(shape), relevance[others].reshape(shape).astype(float)
