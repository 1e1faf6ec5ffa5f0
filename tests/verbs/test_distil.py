from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import bertwright
from bertwright.cli.main import main
from bertwright.errors import ConfigError, ModelLoadError
from bertwright.models.widths import LayerWidths, widths_of

QUICK = {"max_steps": 4, "max_length": 16, "precision": "fp32", "evals_per_epoch": 1}


def distil(teacher: Path, data: dict[str, str], out: Path, **changed):
    given = {"teacher": str(teacher), "data": data["train"], "eval_data": data["dev"], "layers": 2}
    return bertwright.distil(**{**given, "out": str(out), **QUICK, **changed})


@pytest.mark.parametrize(
    "method",
    [
        (),
        ("soft_targets:temperature=4",),
        ("soft_targets", "hidden_matching"),
        ("theseus",),
        ("none",),
    ],
)
def test_a_student_is_made_by_each_method(teacher, data, tmp_path, method):
    result = distil(teacher, data, tmp_path / "s", method=method)
    assert result.num_layers == 2
    student = bertwright.load(str(tmp_path / "s"))
    assert student.roles.num_layers == 2 and student.labels == ["bad", "good"]
    lineage = json.loads((result.model_dir / "bertwright.json").read_text())["lineage"]
    assert lineage["teacher"] == str(teacher)
    assert lineage["teacher_scores"]["accuracy"] > 0.9
    ids = torch.ones(1, 4, dtype=torch.long)
    assert torch.isfinite(student(ids, torch.ones_like(ids)).logits).all()


def test_methods_differ_and_repeat(teacher, data, tmp_path):
    def weights(name: str) -> dict[str, torch.Tensor]:
        return bertwright.load(str(tmp_path / name)).state_dict()

    distil(teacher, data, tmp_path / "a")
    distil(teacher, data, tmp_path / "b", method=("soft_targets",))
    distil(teacher, data, tmp_path / "c", method=("none",))
    a, b, c = weights("a"), weights("b"), weights("c")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_layers_can_be_chosen_by_number(teacher, data, tmp_path):
    distil(teacher, data, tmp_path / "a", layer_choice="0+3", max_steps=1, lr=1e-12)
    student, parent = bertwright.load(str(tmp_path / "a")), bertwright.load(str(teacher))
    for mine, theirs in ((0, 0), (1, 3)):
        ours = student.roles.part(mine, "query").weight
        assert torch.allclose(ours, parent.roles.part(theirs, "query").weight, atol=1e-6)
        assert not torch.allclose(ours, parent.roles.part(1, "query").weight, atol=1e-6)


def test_a_student_may_be_narrow_at_the_teachers_depth_or_below(teacher, data, tmp_path):
    distil(teacher, data, tmp_path / "a", layers=None, heads="0.5", neurons="0.25")
    student = bertwright.load(str(tmp_path / "a"))
    assert widths_of(student.encoder) == LayerWidths((2,) * 4, (32,) * 4)
    assert [op["op"] for op in student.surgery.ops].count("keep_heads") == 4
    neurons = "share=0.5,by=magnitude,multiple=8,scope=global"
    distil(teacher, data, tmp_path / "b", layers=2, neurons=neurons, method=("none",))
    student = bertwright.load(str(tmp_path / "b"))
    widths = widths_of(student.encoder)
    assert len(widths.neurons) == 2 and all(n % 8 == 0 and n < 48 for n in widths.neurons)
    assert widths.heads == (4, 4)
    answers = bertwright.predict(model=str(tmp_path / "b"), text=("a good film", "a bad film"))
    assert len(answers.rows) == 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"layers": None}, "no size of its own"),
        ({"heads": "1.5"}, "share"),
        ({"heads": "many"}, "share"),
        ({"neurons": "share=0.5,by=luck"}, "luck"),
        ({"heads": "0.5", "method": ["theseus"]}, "whole layers"),
        ({"layers": 5}, "--layers 5"),
        ({"layers": 0}, "--layers 0"),
        ({"layers": 3, "method": ["theseus"]}, "3"),
        ({"layer_choice": "middle"}, "--layer-choice middle"),
        ({"layer_choice": "0+9"}, "--layer-choice"),
        ({"method": ["theseus", "soft_targets"]}, "no other method"),
        ({"method": ["none", "soft_targets"]}, "excludes"),
        ({"method": ["int8_ptq"]}, "int8_ptq"),
        ({"method": ["theseus:num_layers=1"]}, "--layers says 2"),
    ],
)
def test_what_cannot_be_done_is_refused(teacher, data, tmp_path, changed, words):
    with pytest.raises(ValueError) as caught:
        distil(teacher, data, tmp_path / "a", **changed)
    assert words in str(caught.value)


def test_a_teacher_that_is_not_there_is_named(data, tmp_path):
    with pytest.raises(ModelLoadError, match="--teacher nowhere: not a trained model"):
        distil(Path("nowhere"), data, tmp_path / "a")


def test_the_command_line(teacher, data, tmp_path, capsys):
    words = ["distil", "--teacher", str(teacher), "--data", data["train"], "--layers", "1"]
    words += ["--max-steps", "2", "--precision", "fp32", "--out", str(tmp_path / "s")]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "1 layer, " in captured.err


def test_resume_needs_the_same_options(teacher, data, tmp_path):
    distil(teacher, data, tmp_path / "a")
    again = distil(teacher, data, tmp_path / "a", resume=True)
    assert again.steps == 4
    with pytest.raises(ConfigError, match="layers: 2 -> 1"):
        distil(teacher, data, tmp_path / "a", resume=True, layers=1)
