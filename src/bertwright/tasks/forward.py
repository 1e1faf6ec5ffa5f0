"""A model's outputs on features, batch by batch, as they are asked for outside of training.

Shapes: N features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertwright.data.batching import MODEL_INPUTS
from bertwright.data.tokenise import EncodedRows
from bertwright.models.modes import eval_mode
from bertwright.models.task_model import TaskModel, TaskOutput

__all__ = ["forward_batches"]


def forward_batches(
    model: TaskModel,
    encoded: EncodedRows,
    *,
    batch_tokens: int = 2048,
    bf16: bool = False,
    **wanted: bool,
) -> Iterator[tuple[np.ndarray, dict[str, Any], TaskOutput]]:
    """Yield (positions, the collated batch, the model's output), longest features first.

    Dropout is off, there are no gradients, and the model's mode is left as it was.

    Args:
        model: stays on its device; the batch is brought there.
        encoded: N features, each of which comes once.
        batch_tokens: most tokens in a batch, padding counted.
        bf16: of the matrix products.
        wanted: further arguments of the model's forward (`output_hidden_states`).
    """
    device = next(model.parameters()).device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    with eval_mode(model), torch.no_grad():
        for positions in encoded.plan(batch_tokens=batch_tokens, shuffle=False):
            batch = {
                key: value.to(device) if isinstance(value, Tensor) else value
                for key, value in encoded.collate(positions).items()
            }
            with autocast:
                output = model(**{k: batch[k] for k in MODEL_INPUTS if k in batch}, **wanted)
            yield positions, batch, output
