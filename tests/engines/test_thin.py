"""Thin word embeddings and narrow states in every engine's graph: the same logits as torch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bertwright.engines.compile import compile_model
from bertwright.engines.opening import open_session
from bertwright.engines.torch_engine import TorchSession
from bertwright.models.build import copy_with_factors, copy_with_width
from bertwright.models.task_model import TaskModel
from engines_models import inputs_of, make_model

WIDTH = [d for d in range(32) if d % 3]


def thin_model(what):
    whole = make_model()
    thin = copy_with_factors(whole, 5)
    return whole, copy_with_width(thin, WIDTH) if what == "width" else thin


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("what", ["factors", "width"])
def test_logits_agree_with_torch(what, engine, tmp_path):
    whole, model = thin_model(what)
    model.save(tmp_path / "model")
    compile_model(tmp_path / "model", f"{engine}:fp32", tmp_path / "out", threads=1)
    session = open_session(tmp_path / "out", threads=1)
    reference = TorchSession(TaskModel.load(tmp_path / "model"), "fp32", 1)
    for batch in (inputs_of([1]), inputs_of([7]), inputs_of([7], width=16), inputs_of([60, 1, 7])):
        np.testing.assert_allclose(session(**batch), reference(**batch), atol=2e-4, rtol=1e-3)
    other = TorchSession(whole, "fp32", 1)
    batch = inputs_of([7])
    assert np.abs(session(**batch) - other(**batch)).max() > 0.01, "something was cut"
    if engine == "onnxruntime":
        graph = onnx.load_model(next((tmp_path / "out").rglob("*.onnx"))).graph
        fused = [node for node in graph.node if node.op_type == "Attention"]
        assert len(fused) == model.roles.num_layers
