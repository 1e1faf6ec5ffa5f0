"""What a pooling takes from the training rows: weights of words, and SIF's direction.

Shapes: N features, D model width.
"""

from __future__ import annotations

import numpy as np
import torch

from bertwright.data.batching import MODEL_INPUTS, collate, plan_batches
from bertwright.data.tokenise import EncodedRows
from bertwright.models.modes import eval_mode
from bertwright.models.pooling import SifPooling, WordWeights
from bertwright.models.pooling.words import main_direction
from bertwright.models.task_model import TaskModel

__all__ = ["fit_pooling"]

BATCH_TOKENS = 2048
MOST_FEATURES = 2000
"""For a direction; they are the same for the same rows."""


def fit_pooling(model: TaskModel, rows: EncodedRows) -> None:
    """Fit the model's pooling to the training rows, if it is one that is fitted."""
    pooling = model.pooling
    if not isinstance(pooling, WordWeights):
        return
    tokenizer = model.tokenizer
    special = set() if tokenizer is None else {*tokenizer.all_special_ids}
    if tokenizer is not None:
        special.discard(tokenizer.unk_token_id)
    pooling.fit_weights(rows.tokens(np.arange(len(rows))), special)
    if isinstance(pooling, SifPooling):
        pooling.direction.zero_()
        vectors = _pooled(model, rows)
        pooling.direction.copy_(torch.from_numpy(main_direction(vectors)))


def _pooled(model: TaskModel, rows: EncodedRows) -> np.ndarray:
    """Return the pooled vectors of features drawn from the rows, dropout off, [N, D]."""
    drawn = np.arange(len(rows))
    if len(rows) > MOST_FEATURES:
        drawn = np.sort(np.random.default_rng(0).choice(len(rows), MOST_FEATURES, replace=False))
    some = rows.select(drawn)
    device = next(model.parameters()).device
    plan = plan_batches(some.lengths, batch_tokens=BATCH_TOKENS, seed=0, epoch=0, shuffle=False)
    found = []
    with eval_mode(model), torch.no_grad():
        for positions in plan:
            batch = collate(some, positions)
            given = {name: batch[name].to(device) for name in MODEL_INPUTS if name in batch}
            pooled = model(**given).pooled
            assert pooled is not None
            found.append(pooled.float().cpu().numpy())
    return np.concatenate(found)
