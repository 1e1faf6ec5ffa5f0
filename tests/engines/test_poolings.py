"""Every pooling in every engine's graph: the same logits as torch, at lengths that trip graphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertwright.engines.compile import compile_model
from bertwright.engines.opening import open_session
from bertwright.engines.torch_engine import TorchSession
from bertwright.models.pooling import POOLINGS
from engines_models import inputs_of, make_model

LENGTHS = (1, 7, 128)
EACH = (
    *("cls", "pooler", "mean", "max", "mean-max", "conv1d:5", "dense:7", "tfidf", "sif"),
    *("cls-layer:2", "concat-last:3", "weighted-layers:3", "lstm:5", "gru:4", "attention"),
    *("wk", "parallel:2", "hierarchical:3"),
)


def test_every_pooling_is_tried():
    assert [spec.partition(":")[0] for spec in EACH] == list(POOLINGS)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("spec", EACH)
def test_logits_agree_with_torch(spec, engine, tmp_path):
    model = make_model(pooling=spec)
    for parameter in model.pooling.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for buffer in model.pooling.buffers():
        buffer.copy_(torch.rand(buffer.shape) + 0.1)
    model.save(tmp_path / "model")
    compile_model(tmp_path / "model", f"{engine}:fp32", tmp_path / "out", threads=1)
    session, reference = open_session(tmp_path / "out", threads=1), TorchSession(model, "fp32", 1)
    alone = [inputs_of([length]) for length in LENGTHS]
    padded = [inputs_of([length], width=length + 9) for length in (1, 7)]
    for batch in (*alone, *padded, inputs_of([128, 1, 7])):
        expected = reference(**batch)
        found = session(**batch)
        assert np.isfinite(expected).all() and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=2e-4, rtol=1e-3)
    assert reference(**inputs_of([128, 1, 7])).std(axis=0).max() > 1e-3
