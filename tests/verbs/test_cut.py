"""`bertwright cut`: what stays, what it costs, and what is refused."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

import bertwright
from bertwright.cli.main import main
from bertwright.errors import BertwrightError, ConfigError, UnknownLabelError
from bertwright.models.build import copy_with_layers
from bertwright.models.widths import LayerWidths, widths_of
from tiny import tiny_batch


def logits_of(model):
    with torch.no_grad():
        return model(**tiny_batch(model.tokenizer)).logits


def accuracy(model, path):
    """Return the share of rows that `predict` labels as they are."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    texts = tuple(row["text"] for row in rows)
    answers = bertwright.predict(model=str(model), text=texts).rows
    right = [one["label"] == row["label"] for one, row in zip(answers, rows, strict=True)]
    return sum(right) / len(right)


@pytest.fixture(scope="module")
def cut(teacher, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("cut") / "m"
    words = ["--model", str(teacher), "--layers", "2", "--check-data", data["test"]]
    assert main(["cut", *words, "--out", str(out)]) == 0
    return out


def test_a_cut_model_is_the_kept_layers_and_nothing_else(cut, teacher, tmp_path):
    model, whole = bertwright.load(str(cut)), bertwright.load(str(teacher))
    assert torch.equal(logits_of(model), logits_of(copy_with_layers(whole, [0, 3])))
    assert not torch.equal(logits_of(model), logits_of(copy_with_layers(whole, [1, 3])))
    assert model.surgery.to_json() == [{"op": "keep_layers", "indices": [0, 3]}]
    assert AutoModel.from_pretrained(cut / "encoder").config.num_hidden_layers == 2
    bertwright.export(model=str(cut), out=str(tmp_path / "stock"), format="transformers")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "stock").eval()
    with torch.no_grad():
        theirs = stock(**tiny_batch(model.tokenizer)).logits
    torch.testing.assert_close(theirs, logits_of(model), atol=1e-5, rtol=0)


def test_it_tells_what_was_cut_and_both_scores(cut, teacher, data):
    facts = json.loads((cut / "cut.json").read_text())
    assert (facts["layers_before"], facts["kept"], facts["dropped"]) == (4, [0, 3], [])
    assert facts["parameters_after"] < facts["parameters_before"]
    assert facts["size_mb"] < facts["size_mb_before"]
    assert (facts["primary"], facts["num_check_rows"]) == ("accuracy", 60)
    for key, model in (("score_before", teacher), ("score_after", cut)):
        assert facts[key] == pytest.approx(accuracy(model, data["test"]))
    assert 0 < facts["score_after"] <= 1 and facts["score_before"] > 0.9
    lineage, before = (bertwright.load(str(one)).lineage for one in (cut, teacher))
    assert lineage["cut"]["kept"] == [0, 3] and "scores" not in lineage
    assert lineage["cut"]["scores_before"] == before["scores"]
    assert lineage["base_model"] == before["base_model"]


def test_it_is_said_on_stderr(teacher, data, tmp_path, capsys):
    words = ["--layers", "3", "--layer-choice", "search", "--data", data["dev"]]
    words += ["--check-data", data["test"], "--out", str(tmp_path / "m")]
    assert main(["cut", "--model", str(teacher), *words]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "4 layers became 3" in said and "taken out, in this order" in said
    assert "accuracy on 60 rows:" in said and "before," in said


def test_any_size_is_cut_out_of_an_elastic_model(teacher, data, tmp_path, capsys):
    words = ["--teacher", str(teacher), "--data", data["train"], "--eval-data", data["dev"]]
    words += ["--method", "elastic:multiple=8", "--method", "soft_targets", "--epochs", "2"]
    whole = tmp_path / "elastic"
    assert main(["distil", *words, "--lr", "1e-3", "--out", str(whole)]) == 0
    model = bertwright.load(str(whole))
    assert model.roles.num_layers == 4 and model.lineage["elastic"]["multiple"] == 8
    size = ["--layers", "2", "--heads", "1", "--neurons", "16", "--check-data", data["test"]]
    assert main(["cut", "--model", str(whole), *size, "--out", str(tmp_path / "small")]) == 0
    small = bertwright.load(str(tmp_path / "small"))
    assert widths_of(small.encoder) == LayerWidths(heads=(1, 1), neurons=(16, 16))
    layers = copy_with_layers(model, [0, 1])
    assert torch.equal(
        small.roles.part(1, "ffn_in").weight, layers.roles.part(1, "ffn_in").weight[:16]
    )
    said = " ".join(capsys.readouterr().err.split())
    assert "4 layers became 2 (0+1), 1 heads each, 16 neurons each" in said
    facts = json.loads((tmp_path / "small" / "cut.json").read_text())
    assert (facts["kept"], facts["heads"], facts["neurons"]) == ([0, 1], 1, 16)
    words = ["--model", str(whole), "--neurons", "16", "--out", str(tmp_path / "narrow")]
    assert main(["cut", *words]) == 0
    assert widths_of(bertwright.load(str(tmp_path / "narrow")).encoder).heads == (4,) * 4
    with pytest.raises(ConfigError, match="has 4"):
        bertwright.cut(model=str(whole), heads=5, out=str(tmp_path / "no"))
    with pytest.raises(BertwrightError, match="not trained for that"):
        bertwright.cut(model=str(teacher), heads=2, out=str(tmp_path / "no"))
    with pytest.raises(ConfigError, match="nothing is to be taken out"):
        bertwright.cut(model=str(whole), out=str(tmp_path / "no"))
    with pytest.raises(ConfigError, match="give --layers too"):
        bertwright.cut(model=str(whole), heads=2, layer_choice="first", out=str(tmp_path / "no"))
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("rule", ["importance", "search"])
def test_rules_that_look_at_data(rule, teacher, data, tmp_path):
    result = bertwright.cut(
        model=str(teacher), layers=1, layer_choice=rule, data=data["dev"], out=str(tmp_path / "m")
    )
    figures = [one.figure for one in result.dropped]
    assert len(figures) == 3 and min(figures) > 0
    assert rule == "search" or figures == sorted(figures)
    assert sorted([*result.kept, *(one.layer for one in result.dropped)]) == [0, 1, 2, 3]
    assert (result.score_before, result.num_check_rows) == (None, 0)
    assert bertwright.load(str(tmp_path / "m")).roles.num_layers == 1


@pytest.mark.parametrize(
    ("rule", "kept"), [("first", (0, 1)), ("last", (2, 3)), ("alternate", (1, 3)), ("0+2", (0, 2))]
)
def test_rules_that_do_not(rule, kept, teacher, tmp_path):
    out = str(tmp_path / "m")
    result = bertwright.cut(model=str(teacher), layers=2, layer_choice=rule, out=out)
    assert result.kept == kept and result.dropped == ()


def test_a_cut_model_can_be_cut_again_and_teach(cut, data, tmp_path):
    bertwright.cut(model=str(cut), layers=1, out=str(tmp_path / "one"))
    assert len(bertwright.load(str(tmp_path / "one")).surgery.ops) == 2
    options = {"max_steps": 2, "max_length": 16, "precision": "fp32", "evals_per_epoch": 1}
    bertwright.distil(
        teacher=str(cut), data=data["train"], layers=1, out=str(tmp_path / "s"), **options
    )
    assert bertwright.load(str(tmp_path / "s")).roles.num_layers == 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"layers": 4}, "--layers 4: the model has 4"),
        ({"layers": 9}, "--layers 9: the model has 4"),
        ({"layers": 0}, "--layers 0"),
        ({"layer_choice": "middle"}, "--layer-choice middle: not a rule"),
        ({"layer_choice": "0+1+2"}, "must be 2 ascending layers"),
        ({"layer_choice": "2+7"}, "must be 2 ascending layers"),
        ({"layer_choice": "search"}, "--layer-choice search looks at labelled rows"),
        ({"layer_choice": "importance"}, "--layer-choice importance looks at labelled rows"),
        ({"data": "x.csv"}, "--data is for --layer-choice importance and search"),
        ({"layer_choice": "search", "data": "nowhere.csv"}, "nowhere.csv"),
        ({"check_data": "nowhere.csv"}, "nowhere.csv"),
        ({"model": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_is_said(more, says, teacher, tmp_path):
    given = {"model": str(teacher), "layers": 2, "out": str(tmp_path / "m")}
    with pytest.raises(BertwrightError, match=says.replace("+", r"\+")):
        bertwright.cut(**(given | more))
    assert not (tmp_path / "m").exists()


def test_labels_that_the_model_does_not_know_are_refused(teacher, tmp_path):
    rows = tmp_path / "other.csv"
    rows.write_text("text,label\ngood,excellent\nbad,awful\n")
    given = {"model": str(teacher), "layers": 2, "out": str(tmp_path / "m")}
    with pytest.raises(UnknownLabelError, match="excellent"):
        bertwright.cut(**given, check_data=str(rows))
    assert not (tmp_path / "m").exists()


def test_a_folder_that_is_there_is_left_alone(cut, teacher):
    before = sorted(path.name for path in cut.iterdir())
    with pytest.raises(ConfigError, match="not empty"):
        bertwright.cut(model=str(teacher), layers=2, out=str(cut))
    assert sorted(path.name for path in cut.iterdir()) == before


def test_a_model_trained_with_layer_drop_is_an_ordinary_one(encoder_dir, data, tmp_path):
    given = {"max_length": 16, "precision": "fp32", "evals_per_epoch": 1, "max_steps": 6}
    given |= {"model": str(encoder_dir), "data": data["train"], "eval_data": data["dev"]}
    runs = {}
    for name, method in (("plain", ()), ("none", ("0",)), ("half", ("0.5",))):
        specs = tuple(f"layer_drop:rate={rate}" for rate in method)
        bertwright.finetune(**given, method=specs, out=str(tmp_path / name))
        runs[name] = bertwright.load(str(tmp_path / name))
    assert torch.equal(logits_of(runs["none"]), logits_of(runs["plain"]))
    assert not torch.equal(logits_of(runs["half"]), logits_of(runs["plain"]))
    assert list(runs["half"].state_dict()) == list(runs["plain"].state_dict())
    last = json.loads((tmp_path / "half" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["layer_drop/layers"] < 4
    result = bertwright.cut(model=str(tmp_path / "half"), layers=2, out=str(tmp_path / "two"))
    assert result.kept == (0, 3)
    with pytest.raises(BertwrightError, match="layer_drop"):
        bertwright.distil(
            teacher=str(tmp_path / "half"),
            data=data["train"],
            layers=2,
            method=("layer_drop",),
            out=str(tmp_path / "d"),
        )
