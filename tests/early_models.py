"""Models with early exits that are sure of some rows, and how engines open them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bertwright.data.tokenise import EncodedRows
from bertwright.engines.compile import compile_model
from bertwright.engines.opening import open_session
from bertwright.engines.parity import random_parity_batches
from bertwright.engines.stages import EarlySession
from bertwright.models.build import copy_with_widths
from bertwright.models.exits import Exits, read_for_exit
from bertwright.models.task_model import TaskModel
from engines_models import make_model

ENGINES = ("onnxruntime", "openvino")
LAYERS = (1, 3)


def make_early(
    family: str = "bert",
    *,
    layers: tuple[int, ...] = LAYERS,
    uneven: bool = False,
    **options: object,
) -> tuple[TaskModel, dict[str, np.ndarray]]:
    """Return a model whose exits are sure of some rows of the batch that comes with it."""
    model = make_model(family, **options).eval()
    if uneven:
        model = copy_with_widths(model, heads={0: [0, 2], 1: [1], 2: [0, 1, 3]})
    batch = dict(random_parity_batches(model, seed=7).padded[-1])
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    with torch.no_grad():
        states = model(**tensors, output_hidden_states=True).hidden_states
    count, random = model.outputs.count, torch.Generator().manual_seed(3)
    weight = torch.randn(len(layers), count, 2 * states[0].shape[-1], generator=random)
    bias = torch.zeros(len(layers), count)
    for place, layer in enumerate(layers):
        read = read_for_exit(states[layer], tensors["attention_mask"])
        weight[place] *= 3 / (read - read.mean(0)).matmul(weight[place].T).std()
        bias[place] = -weight[place] @ read.mean(0)
    model.exits = Exits(layers, weight, bias, threshold=0.9)
    return model.eval(), batch


def opened(
    model: TaskModel,
    engine: str,
    folder: Path,
    *,
    precision: str = "fp32",
    rows: EncodedRows | None = None,
    **options: Any,
) -> EarlySession:
    """Save, compile and open a model; `rows` calibrate, and find the threshold.

    What int8 costs is not the question: labels of random models are close calls.
    """
    model.save(folder / "model")
    compile_model(
        folder / "model",
        f"{engine}:{precision}",
        folder / "out",
        calibration=None if rows is None else rows.select(range(24)),
        dev=rows,
        threads=1,
        tolerance_points=20,
        **options,
    )
    session = open_session(folder / "out", threads=1)
    assert isinstance(session, EarlySession)
    return session
