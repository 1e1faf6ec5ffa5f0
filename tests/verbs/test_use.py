"""predict, evaluate, benchmark and export of one tiny model."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import bertwright
from bertwright.cli.main import main
from bertwright.errors import ConfigError, FileFormatError, UnknownLabelError
from bertwright.verbs import predict as predict_module
from bertwright.verbs.predict import read_lines

EVALUATE_KEYS = [
    "task", "num_rows", "metrics", "primary", "score", "score_low", "score_high", "engine",
    "precision", "throughput_texts_s", "throughput_tokens_s", "latency_p50_ms", "latency_p95_ms",
    "size_mb", "peak_memory_mb",
]  # fmt: skip
QUICK = ["--repeats", "1", "--latency-rows", "5", "--speed-rows", "20", "--threads", "1"]


def texts_of(path: str) -> list[str]:
    return [line.split(",")[0] for line in Path(path).read_text().splitlines()[1:]]


def test_predictions_are_the_models_own_in_the_order_given(teacher, data, monkeypatch):
    monkeypatch.setattr(predict_module, "CHUNK_ROWS", 7)
    texts = texts_of(data["test"])
    found = bertwright.predict(model=str(teacher), text=texts).rows
    assert [row["text"] for row in found] == texts
    assert [row["row"] for row in found] == list(range(len(texts)))
    model = bertwright.load(str(teacher))
    with torch.no_grad():
        for text, row in list(zip(texts, found, strict=True))[:10]:
            tokens = model.tokenizer([text], return_tensors="pt")
            logits = model(tokens["input_ids"], tokens["attention_mask"]).logits
            probabilities = logits.softmax(-1)[0].numpy()
            assert row["label"] == model.labels[int(np.argmax(probabilities))]
            assert row["score"] == pytest.approx(probabilities.max(), abs=1e-4)
    assert {row["label"] for row in found} == {"good", "bad"}


def test_a_file_in_a_file_out_and_to_stdout(teacher, data, tmp_path, capsys):
    out = tmp_path / "deep" / "labels.jsonl"
    words = ["predict", "--model", str(teacher), "--input", data["test"]]
    assert main([*words, "--output", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "60 texts" in captured.err
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == texts_of(data["test"])
    assert [path.name for path in out.parent.iterdir()] == ["labels.jsonl"]
    assert main(words) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows


@pytest.mark.parametrize("content", ["great film\n\npoor ä dog\n", '{"text": "great film"}\n' * 2])
def test_standard_input_takes_plain_lines_and_json(teacher, content, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(content))
    assert main(["predict", "--model", str(teacher), "--input", "-"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 2 and rows[0]["text"] == "great film"


def test_an_output_that_fails_leaves_the_old_file(teacher, data, tmp_path, monkeypatch):
    out = tmp_path / "labels.jsonl"
    out.write_text("old\n")

    def broken(*args):
        raise RuntimeError("lost")

    monkeypatch.setattr(predict_module, "_join", broken)
    with pytest.raises(RuntimeError, match="lost"):
        bertwright.predict(model=str(teacher), input=data["test"], output=str(out))
    assert out.read_text() == "old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["labels.jsonl"]


def test_lines_are_named_when_they_do_not_parse():
    assert list(read_lines(["a b\n", "\n", "{c\n"], "x")) == [{"text": "a b"}, {"text": "{c"}]
    with pytest.raises(FileFormatError, match="x:2: not JSON"):
        list(read_lines(['{"text": "a"}\n', "b\n"], "x"))
    with pytest.raises(FileFormatError, match="x:2: not a JSON object"):
        list(read_lines(['{"text": "a"}\n', "3\n"], "x"))


def test_evaluate_prints_one_object_with_the_keys_of_the_contract(teacher, data, capsys):
    words = ["evaluate", "--model", str(teacher), "--data", data["test"], *QUICK]
    assert main([*words, "--json"]) == 0
    captured = capsys.readouterr()
    (line,) = captured.out.splitlines()
    found = json.loads(line)
    assert sorted(found) == sorted(EVALUATE_KEYS)
    assert found["score_low"] <= found["score"] <= found["score_high"]
    assert found["num_rows"] == 60 and found["engine"] == "torch" and found["precision"] == "fp32"
    predicted = bertwright.predict(model=str(teacher), input=data["test"]).rows
    labels = [line.split(",")[1] for line in Path(data["test"]).read_text().splitlines()[1:]]
    right = np.mean([a["label"] == b for a, b in zip(predicted, labels, strict=True)])
    assert found["score"] == pytest.approx(right)
    assert main(words) == 0
    assert "texts/s" in capsys.readouterr().out


def test_evaluate_refuses_unknown_labels_by_line(teacher, tmp_path):
    odd = tmp_path / "odd.csv"
    odd.write_text("text,label\nfilm,good\nfilm,meh\n")
    with pytest.raises(UnknownLabelError, match=r"odd\.csv:3"):
        bertwright.evaluate(model=str(teacher), data=str(odd))


def test_benchmark_measures_targets_side_by_side(teacher, data, tmp_path, capsys):
    stock = tmp_path / "stock"
    words = ["export", "--model", str(teacher), "--format", "transformers", "--out", str(stock)]
    assert main(words) == 0
    capsys.readouterr()
    words = ["benchmark", "--target", str(teacher), "--target", f"{stock}@pipeline"]
    words += ["--data", data["test"], *QUICK]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in found["targets"]] == [str(teacher), f"{stock}@pipeline"]
    assert all(m["throughput_texts_s"] > 0 for m in found["targets"])
    assert found["num_texts"] == 20 and found["machine"]["cores"] >= 1


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere", "there is no nowhere"),
        ("{teacher}@pipeline", "not a stock transformers folder"),
        ("{teacher}@tensorflow", "unknown engine 'tensorflow'"),
    ],
)
def test_benchmark_refuses_what_it_cannot_run(teacher, target, words):
    with pytest.raises(ValueError) as caught:
        bertwright.benchmark(target=[target.format(teacher=teacher)])
    assert words in str(caught.value)


def test_a_stock_export_gives_the_same_logits(teacher, data, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    out = tmp_path / "stock"
    result = bertwright.export(model=str(teacher), format="transformers", out=str(out))
    assert result.size_mb > 0 and result.parity == {}
    stock = AutoModelForSequenceClassification.from_pretrained(out).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = bertwright.load(str(teacher))
    tokens = tokenizer(texts_of(data["test"])[:8], padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = stock(**tokens).logits
        ours = model(**tokens).logits
    assert torch.allclose(ours, theirs, atol=1e-5) and ours.std() > 0.1
    assert stock.config.id2label == {0: "bad", 1: "good"}
    with pytest.raises(ConfigError, match="not empty"):
        bertwright.export(model=str(teacher), format="transformers", out=str(out))


@pytest.mark.parametrize(
    ("form", "precision", "more"),
    [
        ("onnx", "fp32", {}),
        ("onnx", "int8", {}),
        ("onnx", "int8", {"table_bits": "4"}),
        ("openvino", "fp32", {}),
    ],
)
def test_an_exported_engine_answers_as_the_model_does(
    teacher, data, tmp_path, form, precision, more
):
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[form])
    out = tmp_path / "served"
    result = bertwright.export(
        **{"model": str(teacher), "format": form, "precision": precision, "out": str(out)},
        **{"data": data["train"], **more},
    )
    assert result.parity["num_rows"] > 0
    assert ("drop_low" in result.score) == (precision == "int8")
    assert result.table_bits == (int(more.get("table_bits", 8)) if precision == "int8" else None)
    mine = bertwright.predict(model=str(teacher), input=data["test"]).rows
    theirs = bertwright.predict(model=str(out), input=data["test"]).rows
    agree = np.mean([a["label"] == b["label"] for a, b in zip(mine, theirs, strict=True)])
    assert agree >= (1.0 if precision == "fp32" else 0.95)


@pytest.mark.parametrize("ranges", ["percentile:percentile=99.9", "mse:smooth=0.5,rows=50"])
def test_int8_by_ranges_that_are_found_on_rows(teacher, data, tmp_path, ranges):
    pytest.importorskip("openvino")
    result = bertwright.export(
        **{"model": str(teacher), "format": "openvino", "precision": "int8"},
        **{"ranges": ranges, "data": data["train"], "out": str(tmp_path / "served")},
    )
    assert result.parity["num_rows"] > 0
    assert json.loads((tmp_path / "served/artifact.json").read_text())["quantized"]
    mine = bertwright.predict(model=str(teacher), input=data["test"]).rows
    theirs = bertwright.predict(model=str(tmp_path / "served"), input=data["test"]).rows
    agree = np.mean([a["label"] == b["label"] for a, b in zip(mine, theirs, strict=True)])
    assert agree >= 0.95


def test_export_refuses_what_makes_no_sense(tmp_path):
    for options, words in (
        ({"format": "onnx", "precision": "int8", "ranges": "mse"}, "OpenVINO's int8"),
        ({"format": "openvino", "precision": "int8", "ranges": "entropy"}, "entropy"),
        ({"format": "onnx", "table_bits": "4"}, "goes with --precision int8"),
        ({"format": "openvino", "precision": "int8", "ranges": "mse:smooth=2"}, "smooth"),
        ({"format": "transformers", "precision": "int8"}, "written in fp32"),
        ({"format": "openvino", "precision": "int8"}, "needs --data"),
        ({"format": "onx"}, "did you mean 'onnx'?"),
    ):
        with pytest.raises(ConfigError) as caught:
            bertwright.export(model="m", out=str(tmp_path), **options)
        assert words in str(caught.value)
