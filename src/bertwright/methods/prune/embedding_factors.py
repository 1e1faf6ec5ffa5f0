"""Word embeddings as a small table and a projection, exact where the texts need it most.

Shapes: V pieces, D width of the embeddings, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import UsageError
from bertwright.methods.prune.vocabulary import refuse_unknown_pieces
from bertwright.models.build import copy_with_factors
from bertwright.models.factorised import word_table
from bertwright.models.quantized import refuse_quantized
from bertwright.models.task_model import TaskModel
from bertwright.registry import register_method
from bertwright.surgery.factors import rank_for
from bertwright.tasks.objective import Objective

__all__ = ["EmbeddingFactors", "EmbeddingFactorsConfig", "count_pieces"]

_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True, kw_only=True)
class EmbeddingFactorsConfig:
    """Options of factorised word embeddings."""

    rank: int | None = None
    """Columns of the small table. Without it, as many as --energy needs."""
    energy: float = 0.9
    """Share of the table's energy (its squared length, pieces by their weight) that is kept."""
    by: Literal["texts", "equal"] = "texts"
    """What a piece weighs: how often it is in the training texts, or all the same."""
    smoothing: float = 1.0
    """Added to every piece's count, so that those which are not in the texts weigh something."""

    def __post_init__(self) -> None:
        require(self.rank is None or self.rank >= 1, "rank", self.rank, "at least 1")
        require(0 < self.energy <= 1, "energy", self.energy, "above 0, at most 1")
        require(self.smoothing >= 0, "smoothing", self.smoothing, "at least 0")


CARD = MethodCard(
    name="embedding_factors",
    kind="prune",
    summary="Write the word embeddings as the product of two thin matrices, by weighted SVD.",
    paper="GroupReduce: Block-Wise Low-Rank Approximation for Neural Language Model Shrinking",
    year=2018,
    citation="Chen, Si, Li, Chelba, Hsieh 2018, arXiv:1806.06950",
    equation=(
        "E [V, D] ~ A [V, R] P [R, D], least sum over pieces v of w_v ||E_v - A_v P||^2\n"
        "P: the first R right singular vectors of diag(sqrt(w)) E; A = E P^T\n"
        "w_v = count of v in the texts + smoothing (equal: 1); error = sum of dropped s_k^2\n"
        "energy: the least R with s_1^2 + .. + s_R^2 >= energy (s_1^2 + .. + s_D^2)"
    ),
    needs="Texts of the kind that the model will meet, or none (equal). Role: embeddings.",
    cost=(
        "A product [D, V] [V, D] and its eigenvectors. V R + R D weights stay of V D: fewer below "
        "R = V D / (V + D). A product [R, D] more for each token."
    ),
    expected_effect=(
        "ALBERT, trained with a table of 128 columns from the start, loses about half a point "
        "against one of 768. A table that was trained whole has its energy in more columns, so a "
        "small rank wants training afterwards."
    ),
    expected_source="Lan et al. 2019, arXiv:1909.11942, table of embedding sizes, from memory.",
    when_to_use="Small students, of which the word embeddings are the largest part.",
    when_not_to_use=(
        "Before trimming: trim first, fewer pieces need fewer columns. Where speed counts and not "
        "size: looking up a table costs nothing, and the projection is work."
    ),
    siblings=(
        "vocabulary_trimming takes rows out of the same table and changes no score; int8 makes "
        "its numbers smaller. All three go together."
    ),
    departures=(
        "One pair of factors for the whole vocabulary, and no groups of pieces with ranks of "
        "their own; training goes on afterwards."
    ),
)


def count_pieces(rows: EncodedRows, num_pieces: int) -> Tensor:
    """Return how often each piece occurs in tokenised rows, [V], as 64-bit floats."""
    counts = np.zeros(num_pieces, np.int64)
    for begin in range(0, len(rows), _ROWS_AT_A_TIME):
        part = rows.tokens(np.arange(begin, min(begin + _ROWS_AT_A_TIME, len(rows))))
        counts += np.bincount(np.concatenate(part), minlength=num_pieces)
    return torch.from_numpy(counts).double()


@register_method(config=EmbeddingFactorsConfig, card=CARD)
class EmbeddingFactors:
    """Makes models with thinner embeddings; runs before training, so it is not a hook."""

    def __init__(self, config: EmbeddingFactorsConfig) -> None:
        self.config = config

    def apply(self, model: TaskModel, rows: EncodedRows, task: Objective) -> TaskModel:
        """Return a copy of the model whose word embeddings are two factors.

        Args:
            model: left as it is.
            rows: whose pieces weigh most; labels are not needed, nor is `task`.
            task: as other pruning takes it.

        Raises:
            UnsupportedRoleError: the family keeps its table, with the reason.
            UsageError: the factors would not be smaller, or the model has been quantized.
        """
        refuse_quantized(model, "its word embeddings cannot be factorised")
        refuse_unknown_pieces(model, rows)
        table = word_table(model.encoder)
        weights = self._weights(rows, len(table))
        rank = self.config.rank or rank_for(table, self.config.energy, weights)
        _refuse_larger(rank, *table.shape)
        return copy_with_factors(model, rank, weights)

    def _weights(self, rows: EncodedRows, num_pieces: int) -> Tensor | None:
        if self.config.by == "equal":
            return None
        return count_pieces(rows, num_pieces) + self.config.smoothing


def _refuse_larger(rank: int, num_pieces: int, width: int) -> None:
    largest = (num_pieces * width - 1) // (num_pieces + width)
    if rank > largest:
        raise UsageError(
            f"factors of rank {rank} are no smaller than the table of {num_pieces} x {width}",
            hint=f"choose a rank of at most {largest}, or less energy"
            if largest
            else "the table is too small for factors",
        )
