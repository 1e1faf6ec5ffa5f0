"""The verb `embed`: from texts and a model's name to a file of vectors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import bertwright
from bertwright.cli.main import main
from bertwright.errors import ConfigError, UsageError
from tiny import tiny_encoder

TEXTS = ["a good film", "bad food", "the old house and the red car", "no"]


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture
def encoder(tmp_path):
    """A bare encoder as transformers saves it."""
    model, tokenizer = tiny_encoder("bert")
    model.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def test_a_bare_encoder_gives_the_mean(texts, encoder, tmp_path):
    result = bertwright.embed(model=str(encoder), input=str(texts), output=str(tmp_path / "v.npy"))
    assert (result.num_rows, result.widths, result.num_truncated) == (4, {"mean": 32}, 0)
    vectors = np.load(tmp_path / "v.npy")
    assert vectors.shape == (4, 32) and np.isfinite(vectors).all()
    again = bertwright.embed(
        model=str(encoder),
        input=str(texts),
        pooling=("mean", "cls", "tfidf", "sif"),
        layer=(2, 4),
        output=str(tmp_path / "v.safetensors"),
    )
    assert set(again.widths) == {
        f"{p}@{k}" for p in ("mean", "cls", "tfidf", "sif") for k in (2, 4)
    }
    found = load_file(tmp_path / "v.safetensors")
    np.testing.assert_allclose(found["mean@4"], vectors, atol=1e-5)
    assert np.abs(found["mean@2"] - vectors).max() > 1e-2


def test_minilm_gives_the_vectors_that_it_predicts(texts, tmp_path):
    bertwright.embed(
        model="minilm", input=str(texts), normalize=True, output=str(tmp_path / "v.npy")
    )
    answers = bertwright.predict(model="minilm", text=tuple(TEXTS)).rows
    expected = np.array([answer["vector"] for answer in answers])
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-5)


def test_weights_of_words_come_from_other_texts_if_asked(texts, encoder, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"text": "good film " * n}) + "\n" for n in (1, 2, 3)))
    found = []
    for number, fit in enumerate((None, str(other))):
        out = tmp_path / f"{number}.npy"
        bertwright.embed(
            model=str(encoder), input=str(texts), pooling=("tfidf",), fit_data=fit, output=str(out)
        )
        found.append(np.load(out))
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_long_texts_are_cut_and_counted(texts, encoder, tmp_path, capsys):
    words = ["embed", "--model", str(encoder), "--input", str(texts), "--max-length", "5"]
    assert main([*words, "--output", str(tmp_path / "v.parquet")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "4 texts" in said and "mean (32)" in said and "1 texts were cut" in said
    assert "pyarrow.parquet.read_table" in said


def test_what_cannot_be_is_said_before_anything_is_written(texts, encoder, tmp_path):
    common = {"model": str(encoder), "input": str(texts), "output": str(tmp_path / "v.npy")}
    with pytest.raises(UsageError, match="random until it is trained"):
        bertwright.embed(**common, pooling=("lstm",))
    with pytest.raises(ConfigError, match="layers 1 to 4"):
        bertwright.embed(**common, layer=(9,))
    with pytest.raises(ConfigError, match="--max-length 1000"):
        bertwright.embed(**common, max_length=1000)
    with pytest.raises(ConfigError, match="one matrix"):
        bertwright.embed(**common, pooling=("mean", "cls"))
    with pytest.raises(UsageError, match="maen"):
        bertwright.embed(**common, pooling=("maen",))
    assert not (tmp_path / "v.npy").exists()
