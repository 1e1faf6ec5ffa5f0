"""What a pooling takes from the training rows: weights of words, and SIF's direction.

Shapes: n features, D model width.
"""

from __future__ import annotations

import numpy as np
import torch

from bertwright.data.batching import MODEL_INPUTS, collate, plan_batches
from bertwright.data.tokenise import EncodedRows
from bertwright.models.modes import eval_mode
from bertwright.models.pooling import WordWeights
from bertwright.models.pooling.words import weightless_ids
from bertwright.models.task_model import TaskModel

__all__ = ["fit_pooling"]

BATCH_TOKENS = 2048


def fit_pooling(model: TaskModel, rows: EncodedRows) -> None:
    """Fit the model's pooling to the training rows, if it is one that is fitted."""
    pooling = model.pooling
    if isinstance(pooling, WordWeights):
        pooling.fit(
            rows.tokens(np.arange(len(rows))),
            weightless_ids(model.tokenizer),
            lambda drawn: _pooled(model, rows.select(drawn)),
        )


def _pooled(model: TaskModel, rows: EncodedRows) -> np.ndarray:
    """Return the pooled vectors of features, dropout off, [n, D]."""
    device = next(model.parameters()).device
    found: list[np.ndarray] = [np.zeros(0)] * len(rows)
    plan = plan_batches(rows.lengths, batch_tokens=BATCH_TOKENS, seed=0, epoch=0, shuffle=False)
    with eval_mode(model), torch.no_grad():
        for positions in plan:
            batch = collate(rows, positions)
            given = {name: batch[name].to(device) for name in MODEL_INPUTS if name in batch}
            pooled = model(**given).pooled
            assert pooled is not None
            for position, vector in zip(positions.tolist(), pooled.float().cpu(), strict=True):
                found[position] = vector.numpy()
    return np.stack(found)
