"""Word embeddings in 4 bits: each engine unpacks them as torch does, and the file is smaller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.engines import compile as compiling
from bertwright.engines import onnx_engine, openvino_engine
from bertwright.engines.compile import compile_model
from bertwright.engines.opening import open_session
from bertwright.methods.quantize.qat import FakeQuantization
from bertwright.models.packed import pack_words
from engines_models import LABELS, inputs_of, make_model, make_texts, own_label

ENGINES = {"onnxruntime": onnx_engine, "openvino": openvino_engine}
LENGTHS = [12, 7, 3, 1, 9, 20, 15, 2]


def rows_of(model, count=40):
    texts = make_texts(count)
    rows = [{"text": text, "label": own_label(model, text)} for text in texts]
    loaded = load_rows(rows, labels=LabelSet(tuple(LABELS)))
    return tokenise(loaded, model.tokenizer, max_length=32)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_an_engine_unpacks_as_torch_does(engine: str, family: str, tmp_path: Path) -> None:
    packed = pack_words(make_model(family))
    module = ENGINES[engine]
    facts = module.make_compiler(packed, "fp32").write(tmp_path, calibration=[], kept=())
    session = module.open_artifact(tmp_path, {**facts, "precision": "fp32"}, threads=1, streams=1)
    inputs = inputs_of(LENGTHS)
    with torch.no_grad():
        expected = packed(**{k: torch.from_numpy(v) for k, v in inputs.items()}).logits.numpy()
    np.testing.assert_allclose(session(**inputs), expected, atol=1e-3)


@pytest.mark.parametrize("spec", ["onnxruntime:int8", "openvino:int8"])
def test_the_file_is_smaller_by_half_of_the_table(spec: str, tmp_path: Path) -> None:
    shape = {"hidden_size": 512, "num_attention_heads": 4, "num_hidden_layers": 1}
    model = make_model(intermediate_size=32, **shape)
    model.save(tmp_path / "m")
    rows = rows_of(model)
    sizes = {}
    for bits in (8, 4):
        out = tmp_path / f"{bits}"
        artifact = compile_model(
            *(tmp_path / "m", spec, out),
            **{"calibration": rows, "parity": rows, "tolerance_points": 100.0, "threads": 1},
            table_bits=bits,
        )
        assert artifact.facts["table_bits"] == bits
        files = [out / name for name in ("model.onnx", "model.bin") if (out / name).exists()]
        sizes[bits] = sum(file.stat().st_size for file in files)
        assert np.isfinite(open_session(out, threads=1)(**inputs_of(LENGTHS))).all()
    numbers = model.encoder.get_input_embeddings().weight.numel()
    assert 0.35 * numbers < sizes[8] - sizes[4] < 0.5 * numbers


def test_where_four_bits_cost_too_much_there_are_eight(tmp_path: Path, monkeypatch) -> None:
    model = make_model()
    model.save(tmp_path / "m")
    rows = rows_of(model)

    def spoiled(one):
        packed = pack_words(one)
        packed.encoder.get_input_embeddings().scales.mul_(0)
        return packed

    monkeypatch.setattr(compiling, "pack_words", spoiled)
    options = {"parity": rows, "dev": rows, "tolerance_points": 20.0, "threads": 1}
    artifact = compile_model(
        tmp_path / "m", "onnxruntime:int8", tmp_path / "a", table_bits=4, **options
    )
    assert artifact.facts["table_bits"] == 8
    assert artifact.score["drop_points"] <= 20.0


def test_bits_of_the_table_are_of_int8_alone(tmp_path: Path) -> None:
    model = make_model()
    model.save(tmp_path / "m")
    artifact = compile_model(
        tmp_path / "m", "onnxruntime:fp32", tmp_path / "a", table_bits=4, threads=1
    )
    assert "table_bits" not in artifact.facts


def test_learned_ranges_and_a_packed_table_go_together(tmp_path: Path) -> None:
    model = make_model()
    fake = FakeQuantization(model)
    fake.let_move()
    inputs = inputs_of(LENGTHS)
    with torch.no_grad():
        model.train()(**{k: torch.from_numpy(v) for k, v in inputs.items()})
    model.eval()
    model.ranges = fake.ranges()
    fake.remove()
    compiler = openvino_engine.make_compiler(pack_words(model), "int8")
    facts = compiler.write(tmp_path, calibration=[], kept=())
    assert any("word_embeddings" in name for name in facts["quantized"])
    session = openvino_engine.open_artifact(
        tmp_path, {**facts, "precision": "int8"}, threads=1, streams=1
    )
    with torch.no_grad():
        exact = model(**{k: torch.from_numpy(v) for k, v in inputs.items()}).logits.numpy()
    assert np.abs(session(**inputs) - exact).mean() < 0.5 * exact.std()
