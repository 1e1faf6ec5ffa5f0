"""What a pooling takes from the training rows: weights of words, and SIF's direction.

Shapes: n features, D model width.
"""

from __future__ import annotations

import numpy as np

from bertwright.data.tokenise import EncodedRows
from bertwright.models.pooling import WordWeights
from bertwright.models.pooling.words import weightless_ids
from bertwright.models.task_model import TaskModel
from bertwright.tasks.forward import forward_batches

__all__ = ["fit_pooling"]


def fit_pooling(model: TaskModel, rows: EncodedRows) -> None:
    """Fit the model's pooling to the training rows, if it is one that is fitted.

    Where a frozen model's readings of the rows are stored, it was fitted before they were made.
    """
    pooling = model.pooling
    if isinstance(pooling, WordWeights) and rows.reads is None:
        pooling.fit(
            rows.tokens(np.arange(len(rows))),
            weightless_ids(model.tokenizer),
            lambda drawn: _pooled(model, rows.select(drawn)),
        )


def _pooled(model: TaskModel, rows: EncodedRows) -> np.ndarray:
    """Return the pooled vectors of features, dropout off, [n, D]."""
    found: list[np.ndarray] = [np.zeros(0)] * len(rows)
    for positions, _, output in forward_batches(model, rows):
        assert output.pooled is not None
        for position, vector in zip(positions.tolist(), output.pooled.float().cpu(), strict=True):
            found[position] = vector.numpy()
    return np.stack(found)
