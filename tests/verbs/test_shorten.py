"""`bertwright shorten`: what is promised, what is measured, who runs it, and what is refused."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

import bertwright
from bertwright.cli.main import main
from bertwright.errors import ConfigError, UsageError
from task_rows import row_of
from verbs.conftest import WORDS, make_rows, write_csv

ALL_WORDS = [word for words in WORDS.values() for word in words]
"""Of both labels: what is answered hangs on which of them are left."""


def test_it_tells_what_is_promised_and_what_was_measured(teacher, data, tmp_path, capsys):
    out = tmp_path / "m"
    words = ["--model", str(teacher), "--calibration", data["dev"], "--test-data", data["test"]]
    words += ["--agreement", "0.8", "--confidence", "0.9", "--least", "2"]
    assert main(["shorten", *words, "--out", str(out)]) == 0
    facts = json.loads((out / "shorten.json").read_text())
    assert facts["calibration"]["num_rows"] == 60 and facts["calibration"]["bound"] >= 0.8
    assert facts["drop"]["share"] == facts["calibration"]["share"] < 1
    texts = tuple(text for text, _ in make_rows(60, 2))
    shorter, whole = (
        [row["label"] for row in bertwright.predict(model=str(one), text=texts).rows]
        for one in (out, teacher)
    )
    same = np.mean([a == b for a, b in zip(shorter, whole, strict=True)])
    test = facts["test"]
    assert test["agreement"] == pytest.approx(same) and 0 < test["tokens_left"] < 1
    truths = [label for _, label in make_rows(60, 2)]
    for key, found in (("score_shorter", shorter), ("score_whole", whole)):
        right = np.mean([a == b for a, b in zip(found, truths, strict=True)])
        assert test[key] == pytest.approx(right)
    said = capsys.readouterr().err
    assert "promised: 0.8 agreement at 90% confidence" in said and "accuracy:" in said
    lineage = bertwright.load(str(out)).lineage
    assert lineage["shorten"]["agreement"] == 0.8 and "scores" not in lineage


def test_a_shortened_model_is_shortened_anew_and_judged_beside_the_whole_one(teacher, tmp_path):
    rng = random.Random(0)
    mixed = [(" ".join(rng.choices(ALL_WORDS, k=9)), "good") for _ in range(60)]
    test = write_csv(tmp_path / "mixed.csv", mixed)
    options = {"least": 1, "test_data": str(test)}
    first, second = (
        bertwright.shorten(model=str(model), share=share, out=str(tmp_path / name), **options)
        for model, share, name in ((teacher, 0.1, "a"), (tmp_path / "a", 1.0, "b"))
    )
    assert first.test.agreement < 1.0
    assert second.test.agreement == 1.0 and second.drop.share == 1.0
    assert second.test.score_whole == first.test.score_whole


def test_where_nothing_can_be_promised_that_is_said(teacher, data, tmp_path, capsys):
    out = tmp_path / "m"
    words = ["--model", str(teacher), "--calibration", data["dev"], "--agreement", "0.99"]
    assert main(["shorten", *words, "--out", str(out)]) == 0
    assert "could not be shown on 60 calibration rows" in capsys.readouterr().err
    assert bertwright.load(str(out)).token_drop is None


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_an_engine_runs_it_in_int8(engine, teacher, data, tmp_path):
    pytest.importorskip("onnxruntime" if engine == "onnx" else "nncf")
    shorter = bertwright.shorten(
        model=str(teacher), share=0.5, least=2, test_data=data["test"], out=str(tmp_path / "m")
    )
    assert shorter.calibration is None and shorter.drop.layer == 1
    bertwright.export(
        **{"model": str(tmp_path / "m"), "format": engine, "precision": "int8"},
        **{"data": data["train"], "out": str(tmp_path / "served"), "tolerance_points": 5.0},
    )
    texts = tuple(text for text, _ in make_rows(60, 2))
    mine, theirs = (
        [row["label"] for row in bertwright.predict(model=str(one), text=texts).rows]
        for one in (tmp_path / "m", tmp_path / "served")
    )
    assert np.mean([a == b for a, b in zip(mine, theirs, strict=True)]) >= 0.9


@pytest.mark.parametrize("task", ["tag", "span", "regress", "multilabel"])
def test_with_a_share_any_task_does_it(task, encoder_dir, tmp_path):
    files = {}
    for seed, name in enumerate(("train", "test")):
        rng = random.Random(seed)
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("\n".join(json.dumps(row_of(task, rng)) for _ in range(24)))
    options = {"max_length": 48, "max_steps": 2, "precision": "fp32", "threads": 1}
    data = {"data": str(files["train"]), "eval_data": str(files["test"])}
    out = str(tmp_path / "whole")
    bertwright.finetune(model=str(encoder_dir), task=task, out=out, **data, **options)
    options = {"model": out, "least": 1, "test_data": str(files["test"])}
    tests = [
        bertwright.shorten(share=share, out=str(tmp_path / f"{share}"), **options).test
        for share in (1.0, 0.3)
    ]
    assert [one.agreement for one in tests] == [None, None]
    assert tests[0].score_shorter == pytest.approx(tests[0].score_whole, nan_ok=True)
    assert tests[0].tokens_left == 1.0 and tests[1].tokens_left < 0.5
    answers = bertwright.predict(model=str(tmp_path / "0.3"), input=str(files["test"])).rows
    assert len(answers) == 24
    with pytest.raises(UsageError, match="one label of a text"):
        bertwright.shorten(model=out, calibration=str(files["test"]), out=str(tmp_path / "c"))


def test_what_it_cannot_do_is_refused(teacher, data, tmp_path):
    options = {"model": str(teacher), "out": str(tmp_path / "m")}
    for wrong in ({}, {"share": 0.5, "calibration": data["dev"]}):
        with pytest.raises(ConfigError, match="either --share"):
            bertwright.shorten(**options, **wrong)
    with pytest.raises(ConfigError, match="--layer 4"):
        bertwright.shorten(**options, share=0.5, layer=4)
    bertwright.shorten(**options, share=0.5)
    with pytest.raises(ConfigError, match="not empty"):
        bertwright.shorten(**options, share=0.5)
    with pytest.raises(UsageError, match="transformers would not"):
        bertwright.export(
            model=options["out"], format="transformers", out=str(tmp_path / "exported")
        )
