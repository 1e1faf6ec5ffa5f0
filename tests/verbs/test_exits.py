"""`bertwright exits`: what is promised, what is measured, who runs it, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import bertwright
from bertwright.cli.main import main
from bertwright.engines.artifact import Artifact, hash_model
from bertwright.engines.torch_engine import TorchSession
from bertwright.errors import BertwrightError, ConfigError, UsageError
from bertwright.models.progressive import answer_early
from tiny import tiny_batch
from verbs.conftest import make_rows, write_csv

PROMISE = {"agreement": 0.9, "confidence": 0.9}


@pytest.fixture(scope="module")
def early(teacher, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("exits") / "m"
    words = ["--model", str(teacher), "--data", data["train"], "--calibration", data["dev"]]
    words += ["--test-data", data["test"], "--agreement", "0.9", "--confidence", "0.9"]
    assert main(["exits", *words, "--out", str(out)]) == 0
    return out


def session_logits(session, batch):
    arrays = {name: tensor.numpy() for name, tensor in batch.items()}
    return torch.from_numpy(session(**arrays))


def test_it_tells_what_is_promised_and_what_was_measured(early, teacher, data):
    facts = json.loads((early / "exits.json").read_text())
    assert (facts["num_layers"], facts["layers"]) == (4, [1, 2, 3])
    assert (facts["promised_agreement"], facts["confidence"]) == (0.9, 0.9)
    assert facts["rows_needed"] == 22
    made, test = facts["calibration"], facts["test"]
    assert made["num_rows"] == 60 and made["bound"] >= 0.9
    assert made["threshold"] == facts["threshold"] and made["average_layers"] < 4
    assert test["num_rows"] == 60 == sum(test["left_after"].values())
    layers = sum(int(layer) * count for layer, count in test["left_after"].items()) / 60
    assert test["average_layers"] == pytest.approx(layers) and layers < 4
    texts = tuple(text for text, _ in make_rows(60, 2))
    answers, whole = (
        [row["label"] for row in bertwright.predict(model=str(one), text=texts).rows]
        for one in (early, teacher)
    )
    same = np.mean([a == b for a, b in zip(answers, whole, strict=True)])
    assert test["agreement"] == pytest.approx(same) and same > 0.8
    truths = [label for _, label in make_rows(60, 2)]
    for key, found in (("score_early", answers), ("score_whole", whole)):
        right = np.mean([a == b for a, b in zip(found, truths, strict=True)])
        assert test["primary"] == "accuracy" and test[key] == pytest.approx(right)


def test_the_lineage_says_it(early, teacher):
    lineage, before = (bertwright.load(str(one)).lineage for one in (early, teacher))
    assert lineage["exits"]["agreement"] == 0.9 and "scores" not in lineage
    assert lineage["exits"]["calibrated"]["num_rows"] == 60
    assert lineage["exits"]["scores_before"] == before["scores"]
    assert lineage["base_model"] == before["base_model"]


def test_torch_in_fp32_uses_them_and_bf16_runs_whole(early):
    model = bertwright.load(str(early))
    model.exits.threshold = 0.0
    batch = tiny_batch(model.tokenizer)
    with torch.no_grad():
        stopped, whole = answer_early(model, **batch).logits, model(**batch).logits
    assert not torch.allclose(stopped, whole, atol=1e-2)
    assert torch.equal(session_logits(TorchSession(model, "fp32", 1), batch), stopped)
    rough = session_logits(TorchSession(model, "bf16", 1), batch)
    torch.testing.assert_close(rough, whole, atol=0.2, rtol=0.05)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_other_engines_stop_where_torch_does(engine, early, teacher):
    texts = tuple(text for text, _ in make_rows(60, 2))
    theirs, ours, whole = (
        bertwright.predict(model=str(model), text=texts, engine=on).rows
        for model, on in ((early, engine), (early, "torch:fp32"), (teacher, "torch:fp32"))
    )
    for name in ("label", "score"):
        assert [row[name] for row in theirs] == pytest.approx([row[name] for row in ours], abs=1e-4)
    assert [row["score"] for row in theirs] != pytest.approx([row["score"] for row in whole])


def test_export_to_int8_finds_the_threshold_anew(early, data, tmp_path):
    words = {"model": str(early), "data": data["train"], "format": "onnx", "precision": "int8"}
    with pytest.raises(UsageError, match="threshold has to be found anew") as caught:
        bertwright.export(**words, out=str(tmp_path / "m"))
    assert "--eval-data" in str(caught.value.hint) and not (tmp_path / "m").exists()
    words |= {"eval_data": data["dev"], "tolerance_points": 100.0}
    bertwright.export(**words, out=str(tmp_path / "m"))
    said = Artifact.load(tmp_path / "m").facts["exits"]
    assert (said["agreement"], said["confidence"], said["calibrated"]["num_rows"]) == (0.9, 0.9, 60)
    texts = tuple(text for text, _ in make_rows(60, 2))
    ours, theirs = (
        [row["label"] for row in bertwright.predict(model=str(one), text=texts).rows]
        for one in (early, tmp_path / "m")
    )
    assert np.mean([a == b for a, b in zip(ours, theirs, strict=True)]) >= 0.9


def test_what_the_exits_are_is_part_of_what_a_model_computes(early, teacher, tmp_path):
    shutil.copytree(early, tmp_path / "m")
    assert hash_model(tmp_path / "m") == hash_model(early) != hash_model(teacher / "model")
    model = bertwright.load(str(early))
    model.exits.bias.data += 1
    model.save(tmp_path / "other")
    assert hash_model(tmp_path / "other") != hash_model(early)


def test_nothing_is_left_of_them_after_a_cut(early, tmp_path):
    bertwright.cut(model=str(early), layers=2, out=str(tmp_path / "two"))
    assert bertwright.load(str(tmp_path / "two")).exits is None


def test_it_is_said_on_stderr(teacher, data, tmp_path, capsys):
    words = ["--model", str(teacher), "--data", data["train"], "--calibration", data["dev"]]
    words += ["--layers", "1+3", "--measure", "entropy", "--agreement", "0.9"]
    words += ["--test-data", data["test"], "--out", str(tmp_path / "m")]
    assert main(["exits", *words]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "promised: 0.9 agreement at 95% confidence; on 60 calibration rows" in said
    assert "on 60 other rows: agreement" in said and "layers on average" in said
    assert "accuracy:" in said and "whole," in said
    exits = bertwright.load(str(tmp_path / "m")).exits
    assert (exits.layers, exits.measure) == ((1, 3), "entropy")


def test_a_promise_that_cannot_be_made_is_said_and_nobody_leaves(teacher, data, tmp_path, capsys):
    unlabelled = tmp_path / "texts.csv"
    unlabelled.write_text("text\n" + "".join(f"{text}\n" for text, _ in make_rows(40, 9)))
    words = ["--model", str(teacher), "--data", data["train"], "--calibration", str(unlabelled)]
    assert main(["exits", *words, "--out", str(tmp_path / "m")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "could not be shown on 40 calibration rows" in said and "299 rows are needed" in said
    model, whole = bertwright.load(str(tmp_path / "m")), bertwright.load(str(teacher))
    assert model.exits.threshold is None
    batch = tiny_batch(model.tokenizer)
    with torch.no_grad():
        assert torch.equal(answer_early(model, **batch).logits, whole(**batch).logits)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"layers": "1+4"}, r"--layers 1\+4: must be increasing"),
        ({"layers": "first"}, "--layers first: not numbers"),
        ({"agreement": 1.0}, "--agreement 1.0"),
        ({"confidence": 0.1}, "--confidence 0.1"),
        ({"calibration": "TRAIN"}, "those that the heads learn from"),
        ({"test_data": "nowhere.csv"}, "nowhere.csv"),
        ({"data": "nowhere.csv"}, "nowhere.csv"),
        ({"model": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_is_said(more, says, teacher, data, tmp_path):
    given = {"model": str(teacher), "data": data["train"], "calibration": data["dev"]}
    more = {key: data["train"] if value == "TRAIN" else value for key, value in more.items()}
    with pytest.raises(BertwrightError, match=says):
        bertwright.exits(**(given | more), out=str(tmp_path / "m"))
    assert not (tmp_path / "m").exists()


def test_a_folder_that_is_there_is_left_alone(early, teacher, data):
    before = sorted(path.name for path in early.iterdir())
    with pytest.raises(ConfigError, match="not empty"):
        bertwright.exits(
            model=str(teacher), data=data["train"], calibration=data["dev"], out=str(early)
        )
    assert sorted(path.name for path in early.iterdir()) == before


def test_other_tasks_are_refused_before_anything_runs(encoder_dir, tmp_path):
    rows = tmp_path / "numbers.csv"
    rows.write_text("text,score\n" + "".join(f"{t},{len(t)}\n" for t, _ in make_rows(20, 1)))
    options = {"max_steps": 1, "max_length": 16, "precision": "fp32", "evals_per_epoch": 1}
    run = tmp_path / "run"
    bertwright.finetune(
        model=str(encoder_dir), task="regress", data=str(rows), out=str(run), **options
    )
    with pytest.raises(UsageError, match="for the task classify, and this model is for regress"):
        bertwright.exits(
            model=str(run), data="nowhere.csv", calibration="x.csv", out=str(tmp_path / "m")
        )


def test_exits_may_be_promised_again_on_more_rows(early, data, tmp_path):
    more = write_csv(tmp_path / "more.csv", make_rows(90, 11))
    bertwright.exits(
        model=str(early),
        data=data["train"],
        calibration=str(more),
        layers="2",
        out=str(tmp_path / "m"),
        **PROMISE,
    )
    assert bertwright.load(str(tmp_path / "m")).exits.layers == (2,)
