from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModel

import bertwright
from bertwright.cli.main import main
from bertwright.errors import CheckpointError, ConfigError, UnknownLabelError

QUICK = {"max_steps": 3, "max_length": 16, "precision": "fp32", "evals_per_epoch": 1}
QUICK_WORDS = "--max-steps 3 --max-length 16 --precision fp32 --evals-per-epoch 1".split()


def same_weights(a: str | Path, b: str | Path) -> bool:
    first, second = bertwright.load(str(a)).state_dict(), bertwright.load(str(b)).state_dict()
    assert len(first) > 10 and first.keys() == second.keys()
    return all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_directory_holds_all_of_it(teacher, data):
    names = {path.name for path in teacher.iterdir()}
    assert {"recipe.yaml", "metrics.jsonl", "checkpoints", "model"} <= names
    recipe = yaml.safe_load((teacher / "recipe.yaml").read_text())
    assert recipe["verb"] == "finetune" and recipe["training"]["lr"] == 3e-3
    assert recipe["training"]["warmup"] == 0.1, "defaults are written too"
    lines = [json.loads(line) for line in (teacher / "metrics.jsonl").read_text().splitlines()]
    assert lines and all(isinstance(line, dict) for line in lines)
    facts = json.loads((teacher / "model" / "bertwright.json").read_text())
    lineage = facts["lineage"]
    assert facts["labels"] == ["bad", "good"] and facts["max_length"] == 16
    assert lineage["seed"] == 0 and lineage["data"] == data["train"]
    assert lineage["data_fingerprint"] and lineage["scores"]["accuracy"] > 0.9
    assert lineage["recipe"]["training"]["epochs"] == 12


def test_the_command_line_python_and_the_recipe_do_the_same(encoder_dir, data, tmp_path, capsys):
    given = {"model": str(encoder_dir), "data": data["train"], "eval_data": data["dev"]}
    bertwright.finetune(**given, **QUICK, out=str(tmp_path / "python"))
    words = ["--model", given["model"], "--data", given["data"], "--eval-data", data["dev"]]
    assert main(["finetune", *words, *QUICK_WORDS, "--out", str(tmp_path / "cli")]) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "accuracy" in captured.err and "model in" in captured.err
    recipe = str(tmp_path / "python" / "recipe.yaml")
    assert main(["run", recipe, "--out", str(tmp_path / "again")]) == 0
    assert main(["run", str(tmp_path / "cli"), "--out", str(tmp_path / "more")]) == 0
    for name in ("cli", "again", "more"):
        assert same_weights(tmp_path / "python", tmp_path / name)
    other = {**given, **QUICK, "seed": 1}
    bertwright.finetune(**other, out=str(tmp_path / "other"))
    assert not same_weights(tmp_path / "python", tmp_path / "other")


def test_resuming_a_finished_run_changes_nothing_and_other_options_are_refused(
    encoder_dir, data, tmp_path
):
    out = str(tmp_path / "run")
    given = {"model": str(encoder_dir), "data": data["train"], "out": out, **QUICK}
    first = bertwright.finetune(**given)
    before = (Path(out) / "model" / "heads.safetensors").read_bytes()
    second = bertwright.finetune(**given, resume=True)
    assert second.metrics == first.metrics
    assert (Path(out) / "model" / "heads.safetensors").read_bytes() == before
    with pytest.raises(ConfigError, match=r"training\.lr: 0\.0001 -> 0\.1"):
        bertwright.finetune(**given, resume=True, lr=0.1)
    with pytest.raises(ConfigError, match="exists and is not empty"):
        bertwright.finetune(**given)
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointError, match=r"no recipe\.yaml"):
        bertwright.finetune(**{**given, "out": str(tmp_path / "other")}, resume=True)


def test_without_eval_data_a_share_is_held_out(encoder_dir, data, tmp_path):
    result = bertwright.finetune(
        model=str(encoder_dir),
        data=data["train"],
        eval_share=0.25,
        out=str(tmp_path / "a"),
        **QUICK,
    )
    assert (result.num_rows, result.num_eval_rows) == (120, 40)


def test_layers_keeps_the_first_layers_of_the_encoder(encoder_dir, data, tmp_path):
    given = {"model": str(encoder_dir), "data": data["train"], **QUICK}
    found = bertwright.finetune(**given, layers=2, lr=1e-9, out=str(tmp_path / "a"))
    assert found.num_layers == 2
    model = bertwright.load(str(tmp_path / "a"))
    encoder = AutoModel.from_pretrained(encoder_dir)
    assert model.roles.num_layers == 2 and encoder.config.num_hidden_layers == 4
    for kept, layer in zip(model.roles.layers, encoder.encoder.layer, strict=False):
        for mine, theirs in zip(kept.parameters(), layer.parameters(), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-6)
    last = encoder.encoder.layer[3].state_dict()
    other = model.roles.layers[1].state_dict()
    assert not all(torch.allclose(other[name], last[name], atol=1e-3) for name in last)
    with pytest.raises(ConfigError, match="--layers 5: the encoder has 4"):
        bertwright.finetune(**given, layers=5, out=str(tmp_path / "b"))
    with pytest.raises(ConfigError, match="--layers 0: must be at least 1"):
        bertwright.finetune(**given, layers=0, out=str(tmp_path / "b"))
    assert not (tmp_path / "b" / "model").exists()


def test_a_bad_row_stops_the_run_and_the_same_folder_can_be_used_again(
    encoder_dir, data, tmp_path, capsys
):
    bad = tmp_path / "bad.csv"
    bad.write_text(
        "text,label\ngreat film,good\n,bad\npoor film,bad\n" * 1 + "fine dog,good\n" * 20
    )
    out = str(tmp_path / "run")
    words = ["finetune", "--model", str(encoder_dir), "--data", str(bad), "--out", out]
    words += ["--eval-data", data["dev"], *QUICK_WORDS]
    assert main(words) == 2
    assert "bad.csv:3" in capsys.readouterr().err
    assert main([*words, "--on-bad-row", "skip"]) == 0
    (rejected,) = (Path(out) / "rejected.jsonl").read_text().splitlines()
    assert json.loads(rejected)["line"] == 3


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"method": ["soft_targets"]}, "a distil method"),
        ({"method": ["swaa"]}, "unknown method 'swaa'"),
        ({"lr": 0}, "--lr 0.0"),
        ({"data": "none.csv"}, "none.csv"),
        ({"model": "./nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_used_is_refused(encoder_dir, data, tmp_path, changed, words):
    given = {"model": str(encoder_dir), "data": data["train"], "out": str(tmp_path / "a"), **QUICK}
    with pytest.raises(ValueError) as caught:
        bertwright.finetune(**{**given, **changed})
    assert words in str(caught.value)


def test_an_unknown_label_in_the_eval_rows_is_named_with_its_line(encoder_dir, data, tmp_path):
    odd = tmp_path / "odd.csv"
    odd.write_text("text,label\nfilm,good\nfilm,meh\n")
    with pytest.raises(UnknownLabelError, match=r"odd\.csv:3"):
        bertwright.finetune(
            model=str(encoder_dir),
            data=data["train"],
            eval_data=str(odd),
            out=str(tmp_path / "a"),
            **QUICK,
        )


def test_trained_with_rounding_it_is_exported_by_its_own_ranges(encoder_dir, data, tmp_path):
    given = {"model": str(encoder_dir), "data": data["train"], "eval_data": data["dev"], **QUICK}
    with pytest.raises(ConfigError, match="quantize method"):
        bertwright.finetune(**given, method=("int8_ptq",), out=str(tmp_path / "a"))
    bertwright.finetune(**given, method=("qat:decay=0.5",), out=str(tmp_path / "b"))
    facts = json.loads((tmp_path / "b" / "model" / "bertwright.json").read_text())
    assert len(facts["ranges"]["inputs"]) > 20 and len(facts["ranges"]["tables"]) == 3
    bertwright.export(
        model=str(tmp_path / "b"),
        format="openvino",
        precision="int8",
        data=data["train"],
        tolerance_points=100.0,
        out=str(tmp_path / "served"),
    )
    artifact = json.loads((tmp_path / "served" / "artifact.json").read_text())
    assert len(artifact["quantized"]) == len(facts["ranges"]["inputs"]) + 3
