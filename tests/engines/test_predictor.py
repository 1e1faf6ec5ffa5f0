"""Text in, label out: order, batching, pairs, empty and long inputs, whatever the engine."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertwright.data.tokenise import EncodedRows
from bertwright.engines.compile import compile_model
from bertwright.engines.predictor import Predictor
from bertwright.engines.torch_engine import TorchSession
from bertwright.errors import ModelLoadError, UsageError
from bertwright.models.task_model import TaskModel
from engines_models import LABELS, make_texts


def logits_one_by_one(path: Path, texts: list[str], texts_b: list[str] | None = None):
    """Return logits by the tokenizer's own padding-free encoding, a text at a time."""
    model = TaskModel.load(path)
    session = TorchSession(model, "fp32", 1)
    found = []
    for number, text in enumerate(texts):
        pair = () if texts_b is None else (texts_b[number],)
        batch = model.tokenizer(  # type: ignore[misc]
            text, *pair, truncation=True, max_length=model.max_length, return_tensors="np"
        )
        inputs = {name: batch[name] for name in batch if name != "length"}
        found.append(session(**inputs))
    return np.concatenate(found)


@pytest.mark.parametrize("spec", ["torch:fp32", "onnxruntime:fp32", "openvino:fp32"])
def test_answers_are_in_order(spec: str, saved: Callable[..., Path]) -> None:
    texts = [*make_texts(60, seed=3), "good " * 100]
    predictor = Predictor(saved(), spec=spec, threads=2, batch_tokens=64, batch_size=8)
    expected = logits_one_by_one(saved(), texts)
    found = predictor.logits(texts)
    assert found.shape == (61, len(LABELS)) and found.std() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-4)
    answers = predictor.predict(texts)
    assert [a["label"] for a in answers] == [LABELS[i] for i in expected.argmax(-1)]
    assert predictor.session.precision == "fp32"
    wrong = predictor.logits(sorted(texts, key=len))
    assert np.abs(wrong - expected).max() > 0.05, "another order must be another answer"
    predictor.close()


def test_pairs(saved: Callable[..., Path]) -> None:
    first, second = make_texts(12, seed=4), make_texts(12, seed=5)
    predictor = Predictor(saved(), spec="openvino:fp32", threads=1)
    expected = logits_one_by_one(saved(), first, second)
    np.testing.assert_allclose(predictor.logits(first, second), expected, atol=1e-4)
    with pytest.raises(UsageError, match="12 texts"):
        predictor.logits(first, second[:3])


def test_xlnet_is_padded_on_the_right_too(saved: Callable[..., Path]) -> None:
    texts = make_texts(10, seed=6)
    predictor = Predictor(saved("xlnet"), spec="openvino:fp32", threads=1)
    expected = logits_one_by_one(saved("xlnet"), texts)
    np.testing.assert_allclose(predictor.logits(texts), expected, atol=1e-4)


def test_encoded_rows(saved: Callable[..., Path], encode: Callable[..., EncodedRows]) -> None:
    model = TaskModel.load(saved())
    rows = encode(model, 40, seed=8)
    predictor = Predictor(saved(), spec="openvino:fp32", threads=2, batch_size=8)
    found = predictor.logits_encoded(rows)
    np.testing.assert_allclose(found, predictor.logits(make_texts(40, seed=8)), atol=1e-4)
    assert (found.argmax(-1) == rows.label_ids).all()


def test_odd_inputs(saved: Callable[..., Path], tmp_path: Path) -> None:
    predictor = Predictor(saved())
    assert str(predictor.spec) == "torch:fp32"
    assert predictor.predict([]) == []
    assert len(predictor.predict(["", " ", "\u00e9\u4f60 \u2603"])) == 3
    assert len(predictor.predict(["good"], progress=True)) == 1
    with pytest.raises(UsageError, match="list of strings"):
        predictor.predict("good")
    with pytest.raises(ModelLoadError, match="neither"):
        Predictor(tmp_path)


def test_cycles_are_collected_again_after_answers_and_after_errors(
    saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, seen = Predictor(saved()), []

    def fail(*_: object) -> None:
        seen.append(gc.isenabled())
        raise RuntimeError

    predictor.predict(["good"])
    assert gc.isenabled()
    monkeypatch.setattr(predictor, "_run", fail)
    with pytest.raises(RuntimeError):
        predictor.predict(["good"])
    assert seen == [False] and gc.isenabled()
    gc.disable()
    try:
        with pytest.raises(RuntimeError):
            predictor.predict(["good"])
        assert not gc.isenabled(), "as the caller has it"
    finally:
        gc.enable()


def test_artifact_serves_by_itself(saved: Callable[..., Path], tmp_path: Path) -> None:
    compile_model(saved(), "openvino:fp32", tmp_path / "out", threads=1)
    moved = tmp_path / "elsewhere"
    (tmp_path / "out").rename(moved)
    predictor = Predictor(moved, threads=1)
    assert str(predictor.spec) == "openvino:fp32"
    texts = make_texts(5)
    np.testing.assert_allclose(predictor.logits(texts), Predictor(saved()).logits(texts), atol=1e-4)
    with pytest.raises(UsageError, match="compiled for openvino:fp32"):
        Predictor(moved, spec="torch:fp32")


def test_int8_of_a_model_directory_is_refused(saved: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="export"):
        Predictor(saved(), spec="openvino:int8")
