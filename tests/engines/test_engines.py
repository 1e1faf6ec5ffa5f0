"""Every family under every engine: the same logits as torch, at the shapes that trip graphs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertwright.data.tokenise import EncodedRows
from bertwright.engines import base
from bertwright.engines.base import EngineSpec, available_engines, load_engine
from bertwright.engines.compile import compile_model
from bertwright.engines.opening import open_session
from bertwright.engines.parity import random_parity_batches
from bertwright.engines.torch_engine import TorchSession
from bertwright.errors import MissingDependencyError, UnknownChoiceError
from bertwright.models.task_model import TaskModel
from tiny import FAMILY_NAMES

GRAPH_ENGINES = ("onnxruntime", "openvino")


@pytest.mark.parametrize("engine", GRAPH_ENGINES)
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_logits_agree_with_torch(
    family: str, engine: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    artifact = compile_model(saved(family), f"{engine}:fp32", tmp_path / "out", threads=1)
    model = TaskModel.load(saved(family))
    reference = TorchSession(model, "fp32", 1)
    session = open_session(tmp_path / "out", threads=1)
    assert session.precision == "fp32"
    batches = random_parity_batches(model, seed=7)
    checked = 0
    for part in (batches.padded, batches.unpadded, batches.length_1):
        for batch in part:
            expected = reference(**batch)
            found = session(**batch)
            assert found.shape == expected.shape and found.dtype == np.float32
            np.testing.assert_allclose(found, expected, atol=2e-4, rtol=1e-4)
            checked += len(expected)
    assert checked > 40
    spread = reference(**batches.padded[0]).std(axis=0).max()
    assert spread > 0.02, "logits that never differ would agree by accident"
    assert artifact.parity["max_abs"] < 1e-3
    first, padded = batches.padded[0], dict(batches.padded[0])
    padded["attention_mask"] = np.ones_like(first["attention_mask"])
    assert np.abs(session(**padded) - session(**first)).max() > 1e-3, "the mask must matter"


@pytest.mark.parametrize("spec", ["openvino:fp32", "onnxruntime:fp32"])
def test_mean_pooling(spec: str, saved: Callable[..., Path], tmp_path: Path) -> None:
    path = saved("bert", "mean")
    artifact = compile_model(path, spec, tmp_path / "out", threads=1)
    assert artifact.parity["max_abs"] < 1e-4


def test_token_types_matter(saved: Callable[..., Path], tmp_path: Path) -> None:
    reference = TorchSession(TaskModel.load(saved()), "fp32", 1)
    ids = np.array([[2, 20, 3, 21, 22, 3]])
    mask, types = np.ones_like(ids), np.array([[0, 0, 0, 1, 1, 1]])
    for spec in ("onnxruntime:fp32", "openvino:fp32"):
        compile_model(saved(), spec, tmp_path / spec, threads=1)
        session = open_session(tmp_path / spec, threads=1)
        np.testing.assert_allclose(
            session(ids, mask, types), reference(ids, mask, types), atol=1e-4
        )
        assert np.abs(session(ids, mask, types) - session(ids, mask)).max() > 1e-3


@pytest.mark.parametrize("engine", ["torch", *GRAPH_ENGINES])
def test_left_padding_is_refused(engine: str, saved: Callable[..., Path], tmp_path: Path) -> None:
    compile_model(saved(), f"{engine}:fp32", tmp_path / "out", threads=1)
    session = open_session(tmp_path / "out", threads=1)
    with pytest.raises(ValueError, match="right"):
        session(np.array([[0, 2, 3]]), np.array([[0, 1, 1]]))


@pytest.mark.parametrize("engine", GRAPH_ENGINES)
def test_run_many_keeps_the_order(engine: str, saved: Callable[..., Path], tmp_path: Path) -> None:
    compile_model(saved(), f"{engine}:fp32", tmp_path / "out", threads=1)
    batches = list(random_parity_batches(TaskModel.load(saved())).padded) * 5
    one = open_session(tmp_path / "out", threads=1)
    several = open_session(tmp_path / "out", threads=2, streams=2)
    expected = [one(**batch) for batch in batches]
    for session in (one, several):
        found = list(session.run_many(iter(batches)))
        assert len(found) == len(expected) == 15
        for left, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(left, right, atol=1e-5)
    left = batches[0] | {"attention_mask": np.zeros_like(batches[0]["attention_mask"])}
    with pytest.raises(ValueError, match="right"):
        list(several.run_many([batches[0], left]))
    for session in (one, several):
        session.close()


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_bf16(
    engine: str,
    saved: Callable[..., Path],
    encode: Callable[..., EncodedRows],
    tmp_path: Path,
) -> None:
    if available_engines()[f"{engine}:bf16"] is not None:
        pytest.skip("no bfloat16 here")
    model = TaskModel.load(saved())
    rows = encode(model)
    compile_model(saved(), f"{engine}:fp32", tmp_path / "fp32", parity=rows, threads=1)
    artifact = compile_model(
        saved(), f"{engine}:bf16", tmp_path / "bf16", parity=rows, threads=1, tolerance_points=10
    )
    session = open_session(tmp_path / "bf16", threads=1)
    assert session.precision == "bf16"
    assert 1e-4 < artifact.parity["max_abs"] < 0.5, "bf16 rounds, but not much"
    assert artifact.parity["snr_db"] > 20
    assert artifact.parity["label_agreement"] >= 0.9
    sizes = [
        sum(f["bytes"] for n, f in a.files.items() if n.endswith((".bin", ".safetensors")))
        for a in (artifact, type(artifact).load(tmp_path / "fp32"))
    ]
    assert sizes[0] < 0.6 * sizes[1]


def test_specs() -> None:
    spec = EngineSpec.parse("openvino:int8")
    assert (spec.engine, spec.precision, str(spec)) == ("openvino", "int8", "openvino:int8")
    assert str(EngineSpec.parse("torch")) == "torch:fp32"
    with pytest.raises(UnknownChoiceError, match="onnxruntime"):
        EngineSpec.parse("onnxruntim:fp32")
    with pytest.raises(UnknownChoiceError, match="bf16"):
        EngineSpec.parse("torch:int8")


def test_available_engines_gives_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    found = available_engines()
    assert found["torch:fp32"] is None
    assert set(found) >= {"openvino:int8", "onnxruntime:int8", "torch:bf16"}
    real = importlib.util.find_spec

    def without(name: str, package: str | None = None):
        return None if name in ("openvino", "nncf") else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    base._reason_against.cache_clear()
    try:
        reason = available_engines()["openvino:int8"]
        assert reason is not None and "bertwright[openvino]" in reason
        assert available_engines()["torch:fp32"] is None
        with pytest.raises(MissingDependencyError, match=r"bertwright\[openvino\]"):
            load_engine(EngineSpec.parse("openvino:fp32"))
    finally:
        base._reason_against.cache_clear()
