"""Which weights int8 kernels can take here, and that an artifact of another processor says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bertwright.data.tokenise import EncodedRows
from bertwright.engines.artifact import ARTIFACT_FILE
from bertwright.engines.compile import compile_model
from bertwright.engines.exact_sums import exact_weight_bits
from bertwright.engines.opening import open_session
from bertwright.models.ranges import largest_step
from bertwright.models.task_model import TaskModel


@pytest.mark.parametrize(
    ("features", "bits"),
    [
        ({"architecture": "x86_64", "avx2": True}, 7),
        ({"architecture": "x86_64", "avx512_vnni": False, "amx_int8": False}, 7),
        ({"architecture": "x86_64", "avx512_vnni": True}, 8),
        ({"architecture": "x86_64", "avx_vnni": True}, 8),
        ({"architecture": "x86_64", "amx_int8": True}, 8),
        ({"architecture": "aarch64"}, 8),
        ({}, 8),
    ],
)
def test_what_the_processor_can_add(
    features: dict[str, object], bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert exact_weight_bits.__wrapped__() == bits


def test_a_pair_of_products_fits_into_16_bits_with_7_and_not_with_8() -> None:
    assert 2 * 255 * largest_step(7) < 2**15 <= 2 * 255 * largest_step(8)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_weights_of_7_bits_are_half_as_large_and_an_artifact_with_8_warns(
    engine: str,
    saved: Callable[..., Path],
    encode: Callable[..., EncodedRows],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    module = {"onnxruntime": "onnx_engine", "openvino": "openvino_engine"}[engine]
    monkeypatch.setattr("bertwright.engines.opening.exact_weight_bits", lambda: 7)
    rows = encode(TaskModel.load(saved()), 16)
    largest, said = {}, {}
    for bits in (8, 7):
        monkeypatch.setattr(f"bertwright.engines.{module}.exact_weight_bits", lambda b=bits: b)
        options = {"calibration": rows, "tolerance_points": 100.0, "threads": 1}
        out = tmp_path / str(bits)
        artifact = compile_model(saved(), f"{engine}:int8", out, **options)
        assert artifact.facts["weight_bits"] == bits
        capfd.readouterr()
        open_session(out, threads=1).close()
        said[bits] = capfd.readouterr().err
        largest[bits] = largest_weight(engine, out)
    assert largest == {8: 127, 7: 64}
    assert "has none" in said[8]
    assert str(tmp_path / "8") in said[8] and "bertwright export" in said[8]
    assert said[7] == ""
    facts = json.loads((tmp_path / "8" / ARTIFACT_FILE).read_text())
    del facts["facts"]["weight_bits"]  # as it was before this was written down
    (tmp_path / "8" / ARTIFACT_FILE).write_text(json.dumps(facts))
    open_session(tmp_path / "8", threads=1).close()
    assert "warning" in capfd.readouterr().err


def largest_weight(engine: str, folder: Path) -> int:
    """Return the largest step of a matrix that products read."""
    if engine == "onnxruntime":
        import onnx

        graph = onnx.load_model(folder / "model.onnx").graph
        read = {node.input[1] for node in graph.node if node.op_type in ("MatMulInteger",)}
        found = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name in read]
    else:
        import openvino

        graph = openvino.Core().read_model(folder / "model.xml")
        found = []
        for node in graph.get_ordered_ops():
            source = node
            if node.get_type_name() != "MatMul":
                continue
            source = node.input_value(1).get_node()
            while source.get_type_name() in ("FakeQuantize", "Multiply", "Convert", "Subtract"):
                source = source.input_value(0).get_node()
            if source.get_type_name() == "Constant" and source.get_element_type().size == 1:
                found.append(source.data)
    assert found
    return max(int(abs(one.astype(int)).max()) for one in found)
