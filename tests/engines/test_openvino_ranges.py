"""A model that was trained with rounding computes the same in OpenVINO's int8 kernels."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch

from bertwright.engines.compile import compile_model
from bertwright.engines.exact_sums import exact_weight_bits
from bertwright.engines.opening import open_session
from bertwright.engines.openvino_engine import OpenVinoCompiler, open_artifact
from bertwright.errors import UsageError
from bertwright.methods.quantize.qat import FakeQuantization, rounding
from bertwright.models.task_model import TaskModel
from engines_models import inputs_of, make_model, needs_vnni

FAMILIES = ["bert", "distilbert"] + [
    pytest.param(family, marks=pytest.mark.slow) for family in ("roberta", "xlm-roberta", "electra")
]
LENGTHS = [12, 7, 3, 1, 9, 20, 15, 2, 11, 18, 6, 5]


def with_ranges(family: str = "bert", pooling: str = "cls") -> TaskModel:
    """Return a tiny model that saw one batch with rounding."""
    model = make_model(family, pooling=pooling)
    fake = FakeQuantization(model)
    fake.let_move()
    torch.manual_seed(0)
    with torch.no_grad():
        model.train()(**as_tensors(inputs_of(LENGTHS, vocab_size=150)))
    model.eval()
    model.ranges = fake.ranges()
    fake.remove()
    return model


def as_tensors(inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def logits_of(model: TaskModel, inputs: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return model(**as_tensors(inputs)).logits.numpy()


def far_apart(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two sets of logits differ by more than the order of sums explains.

    They are equal but in rows where a number stood so near the middle of two steps that the last
    bit of a sum decided; of such rows there may be a third.
    """
    rows = np.abs(found - expected).max(axis=1)
    return bool((rows > 1e-4).mean() > 1 / 3 or rows.max() > 0.2)


def matrix_products(folder: Path) -> list[str]:
    """Return the precision of each matrix product with weights, as the compiled graph says it."""
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(folder / "model.xml"), "CPU", options)
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts: Any = node.get_rt_info()
        if facts["layerType"].astype(str) == "FullyConnected":
            found.append(facts["runtimePrecision"].astype(str))
    return found


@pytest.mark.parametrize("bits", [pytest.param(8, marks=needs_vnni), 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_computes_what_training_saw(
    family: str, bits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertwright.engines.openvino_engine.exact_weight_bits", lambda: bits)
    model = with_ranges(family)
    facts = OpenVinoCompiler(model, "int8").write(tmp_path, calibration=[], kept=())
    assert facts["weight_bits"] == bits
    session = open_artifact(tmp_path, {**facts, "precision": "int8"}, threads=1, streams=1)
    inputs = inputs_of(LENGTHS, vocab_size=150)
    exact = logits_of(model, inputs)
    with rounding(model, weight_bits=bits):
        rounded = logits_of(model, inputs)
    with rounding(model, weight_bits=15 - bits):
        otherwise = logits_of(model, inputs)
    found = session(**inputs)
    assert np.isfinite(found).all() and found.std() > 0.05
    assert not far_apart(found, rounded)
    assert far_apart(found, exact), "rounding must show"
    assert far_apart(found, otherwise), "and so must the number of bits"
    num_products = len(model.ranges.inputs)
    assert len(facts["quantized"]) == num_products + len(model.ranges.tables) > 25
    if platform.machine() == "x86_64":
        products = matrix_products(tmp_path)
        assert len(products) == num_products and set(products) <= {"u8", "i8"}


def test_a_saved_model_compiles_without_calibration_and_its_own_ranges_matter(
    tmp_path: Path,
) -> None:
    model = with_ranges(pooling="mean")
    inputs = inputs_of(LENGTHS, vocab_size=150)
    with rounding(model, weight_bits=exact_weight_bits()):
        rounded = logits_of(model, inputs)
    model.save(tmp_path / "model")
    options = {"tolerance_points": 100.0, "threads": 1}
    artifact = compile_model(tmp_path / "model", "openvino:int8", tmp_path / "a", **options)
    assert artifact.kept_in_high_precision == () and len(artifact.quantized) > 25
    assert not far_apart(open_session(tmp_path / "a", threads=1)(**inputs), rounded)
    ranges = model.ranges
    wider = {path: (1.05 * low, 1.05 * high) for path, (low, high) in ranges.inputs.items()}
    model.ranges = replace(ranges, inputs=wider)
    model.save(tmp_path / "model")
    other = compile_model(tmp_path / "model", "openvino:int8", tmp_path / "o", **options)
    assert other.model_hash != artifact.model_hash
    assert far_apart(open_session(tmp_path / "o", threads=1)(**inputs), rounded)


def test_parts_are_spared_and_then_stored_in_16_bits(tmp_path: Path) -> None:
    model = with_ranges()
    compiler = OpenVinoCompiler(model, "int8")

    def write(*kept: str) -> tuple[list[str], int]:
        facts = compiler.write(tmp_path, calibration=[], kept=kept)
        return facts["quantized"], (tmp_path / "model.bin").stat().st_size

    plain, size = write()
    tables = sum(model.get_submodule(path).weight.numel() for path in model.ranges.tables)
    without_tables, larger = write("embeddings")
    assert len(plain) - len(without_tables) == 3
    assert 0.8 * tables < larger - size < tables, "a byte more a number, less the rows' scales"
    without_layer, _ = write("layer 2")
    assert not any("layer.2." in name for name in without_layer)
    assert any("layer.1." in name for name in without_layer)
    if platform.machine() == "x86_64":
        assert matrix_products(tmp_path).count("f32") == 6
    assert write() == (plain, size), "the graph itself is left as it was"


def test_a_layer_that_is_not_in_the_graph_is_named(tmp_path: Path) -> None:
    model = with_ranges()
    ranges = model.ranges
    model.ranges = replace(ranges, inputs={**ranges.inputs, "encoder.nowhere": (-1.0, 1.0)})
    with pytest.raises(UsageError, match=r"encoder\.nowhere"):
        OpenVinoCompiler(model, "int8").write(tmp_path, calibration=[], kept=())
