"""A damaged artifact says so, whatever was damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bertwright.engines.compile import Artifact, compile_model
from bertwright.engines.opening import open_session
from bertwright.engines.predictor import Predictor
from bertwright.errors import ArtifactError, ParityError


@pytest.fixture(scope="module")
def compiled(saved: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "out"
    compile_model(saved(), "openvino:fp32", path, threads=1)
    return path


@pytest.fixture
def copied(compiled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiled, tmp_path / "out"))


def test_what_it_says(compiled: Path) -> None:
    artifact = Artifact.load(compiled)
    assert str(artifact.spec) == "openvino:fp32"
    assert artifact.parity["num_rows"] == 48 and artifact.parity["label_agreement"] == 1.0
    assert artifact.quantized == () and artifact.kept_in_high_precision == ()
    assert {"model.xml", "model.bin", "tokenizer.json"} <= set(artifact.files)
    assert set(artifact.versions) == {"openvino", "python"}
    assert artifact.facts["first_token_nodes"] > 8
    body = json.loads((compiled / "artifact.json").read_text())
    assert body["format_version"] == 1 and body["spec"] == "openvino:fp32"


@pytest.mark.parametrize("name", ["model.xml", "model.bin", "tokenizer.json"])
@pytest.mark.parametrize("how", ["missing", "cut", "flipped"])
def test_damaged_files(name: str, how: str, copied: Path) -> None:
    file = copied / name
    content = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[:-10])
    else:
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    with pytest.raises(ArtifactError, match=name):
        open_session(copied)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": 1}', '{"format_version": 99}'])
def test_damaged_description(text: str, copied: Path) -> None:
    (copied / "artifact.json").write_text(text)
    with pytest.raises(ArtifactError):
        open_session(copied)


def test_missing_manifest(copied: Path) -> None:
    (copied / "bertwright.json").unlink()
    with pytest.raises(ArtifactError, match=r"bertwright\.json"):
        Predictor(copied)


def test_engine_that_cannot_read_its_file(copied: Path) -> None:
    (copied / "model.xml").write_text("<net/>")
    body = json.loads((copied / "artifact.json").read_text())
    del body["files"]["model.xml"]
    (copied / "artifact.json").write_text(json.dumps(body))
    with pytest.raises(ArtifactError, match="cannot open"):
        open_session(copied)


def test_wrong_numbers_are_refused(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertwright.engines.openvino_engine import OpenVinoSession

    real = OpenVinoSession.__call__
    monkeypatch.setattr(
        OpenVinoSession, "__call__", lambda self, *a, **k: real(self, *a, **k) + 0.1
    )
    with pytest.raises(ParityError, match="logits differ"):
        compile_model(saved(), "openvino:fp32", tmp_path / "out", threads=1)
    assert not (tmp_path / "out").exists()


def test_cached_artifact_that_is_damaged_is_made_again(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTWRIGHT_CACHE", str(tmp_path))
    open_session(saved(), "onnxruntime:fp32", threads=1)
    (made,) = tmp_path.glob("engines/*/model.onnx")
    made.write_bytes(b"nothing")
    session = open_session(saved(), "onnxruntime:fp32", threads=1)
    assert session.precision == "fp32" and made.stat().st_size > 1000
