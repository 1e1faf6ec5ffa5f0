"""Layers of uneven width in every engine's graph: the same logits as torch, and still fused."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from bertwright.engines.compile import compile_model
from bertwright.engines.opening import open_session
from bertwright.engines.torch_engine import TorchSession
from bertwright.models.build import copy_with_widths
from bertwright.models.task_model import TaskModel
from engines_models import inputs_of, make_model

FAMILIES = ["bert", "roberta", "distilbert", "electra", "deberta-v2", "bart"]


def narrow_model(family="bert"):
    """Return a model whose layers have 4, 1 and 3 heads and some of their neurons."""
    model = make_model(family)
    depth = model.roles.num_layers
    heads = {1: [2], depth - 1: [0, 1, 3]}
    return copy_with_widths(model, heads=heads, neurons={0: range(7), depth - 1: range(5, 30)})


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_agree_with_torch(family, engine, tmp_path):
    model = narrow_model(family)
    model.save(tmp_path / "model")
    compile_model(tmp_path / "model", f"{engine}:fp32", tmp_path / "out", threads=1)
    session = open_session(tmp_path / "out", threads=1)
    reference = TorchSession(TaskModel.load(tmp_path / "model"), "fp32", 1)
    for batch in (inputs_of([1]), inputs_of([7]), inputs_of([7], width=16), inputs_of([60, 1, 7])):
        np.testing.assert_allclose(session(**batch), reference(**batch), atol=2e-4, rtol=1e-3)


def test_attention_of_pruned_heads_is_fused_layer_by_layer(tmp_path):
    model = narrow_model()
    model.save(tmp_path / "model")
    compile_model(tmp_path / "model", "onnxruntime:fp32", tmp_path / "out", threads=1)
    graph = onnx.load_model(next((tmp_path / "out").rglob("*.onnx"))).graph
    fused = [node for node in graph.node if node.op_type == "Attention"]
    counts = [a.i for node in fused for a in node.attribute if a.name == "num_heads"]
    assert counts == [4, 1, *[4] * (model.roles.num_layers - 3), 3]
    facts = json.loads(next((tmp_path / "out").rglob("artifact.json")).read_text())
    assert "Attention" in json.dumps(facts)
