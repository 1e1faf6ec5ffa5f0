"""What `export` says at its end: every format has a way to load it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from bertwright.cli.export import show
from bertwright.verbs.export import ExportConfig, ExportResult

FORMATS = get_args(get_type_hints(ExportConfig)["format"])


def said(capsys, **values):
    facts = {"format": "onnx", "task": "classify", "precision": "fp32", "parity": {}}
    assert show(ExportResult(out=Path("out"), size_mb=1.25, **(facts | values))) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    return " ".join(printed.err.split())


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_says_how_it_is_loaded(format, capsys):
    text = said(capsys, format=format)
    assert f"{format} fp32, 1.2 MB, in out" in text
    assert "load it: " in text and text.rpartition("load it: ")[2]


@pytest.mark.parametrize(
    ("format", "task", "words"),
    [
        ("transformers", "multilabel:thresholds=each", "AutoModelForSequenceClassification"),
        ("transformers", "tag", 'AutoModelForTokenClassification.from_pretrained("out")'),
        ("transformers", "span", "AutoModelForQuestionAnswering"),
        ("sentence-transformers", "embed", 'SentenceTransformer("out")'),
        ("openvino", "tag", "bertwright predict --model out --input FILE"),
    ],
)
def test_the_way_is_the_right_one(format, task, words, capsys):
    assert words in said(capsys, format=format, task=task)


def test_parity_is_told_where_it_was_measured(capsys):
    parity = {"num_rows": 64, "mean_abs": 1e-6, "max_abs": 2e-5, "label_agreement": 1.0}
    text = said(capsys, parity=parity)
    assert "on 64 rows" in text and "100.0% of the labels agree" in text


def test_int8_that_is_slower_on_this_processor_says_so(capsys):
    given = {"format": "openvino", "precision": "int8"}
    assert "was slower than its fp32" in said(capsys, **given, weight_bits=7)
    assert "slower" not in said(capsys, **given, weight_bits=8)
    assert "slower" not in said(capsys, format="onnx", precision="int8", weight_bits=7)


def test_what_int8_costs_is_told_with_its_interval(capsys):
    score = {"num_rows": 400, "metric": "accuracy", "allowed_points": 0.5}
    score |= {"drop_points": 0.25, "drop_low": -0.5, "drop_high": 1.0}
    text = said(capsys, precision="int8", score=score)
    assert "on 400 labelled rows: accuracy -0.25 points (95%: -1.00 to +0.50)" in text
    assert "do not exclude a loss of more than 0.5" in text and "--eval-data" in text
    text = said(capsys, precision="int8", score=score | {"drop_high": 0.5})
    assert "accuracy -0.25 points" in text and "exclude" not in text
