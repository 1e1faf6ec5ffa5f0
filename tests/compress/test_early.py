"""Candidates of a search that stop early: made of what, found again, and refused when."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bertwright.compress.artifacts import ModelToCompile
from bertwright.compress.budget import Budget
from bertwright.compress.config import SearchConfig
from bertwright.compress.early import ExitTrials, exit_specs, why_no_exits
from bertwright.compress.pipeline import search
from bertwright.data.tokenise import tokenise
from bertwright.engines.base import EngineSpec
from bertwright.errors import ConfigError
from bertwright.methods.exit.early_exit import answer_rows
from bertwright.models.task_model import TaskModel
from bertwright.training.evaluation import compute_logits
from compress.conftest import SEARCH, TRAINING
from compress.fakes import measured_alike
from methods.cases import tiny_teacher


@pytest.fixture
def whole(teacher_dir) -> ModelToCompile:
    folder = teacher_dir / "model"
    count = sum(p.numel() for p in TaskModel.load(folder).parameters())
    return ModelToCompile("teacher", "teacher", "4L", 4, 0, count, folder)


@pytest.fixture
def trials(rows, teacher_dir, tmp_path) -> ExitTrials:
    tokenizer = TaskModel.load(teacher_dir / "model").tokenizer
    train, dev = (tokenise(one, tokenizer, max_length=16) for one in (rows.train, rows.dev))
    return ExitTrials((0.9, 0.99), train, dev, tmp_path / "exits", threads=1)


def test_a_threshold_for_each_share_that_the_rows_can_show(whole, trials):
    (early,), refused = trials.add(whole)
    assert (early.name, early.method, early.shape) == ("teacher-e90", "exits", "4L-e90")
    assert early.whole == "teacher"
    assert refused == {
        "teacher-e99": "no threshold is sure to leave 0.99 of the answers as they are, by 60 rows"
    }
    model, before = TaskModel.load(early.model_dir), TaskModel.load(whole.model_dir)
    assert early.parameters == sum(p.numel() for p in model.parameters())
    assert model.exits is not None and model.exits.layers == (1, 2, 3)
    answers, layers = answer_rows(model, trials.dev_rows)
    expected = compute_logits(before, trials.dev_rows, precision="fp32")
    assert layers.mean() < 4 and (answers.argmax(1) == expected.argmax(1)).mean() >= 0.9
    assert model.lineage["exits"]["agreement"] == 0.9 and "scores" not in model.lineage


def test_what_was_made_is_used_again_and_not_that_of_another_model(whole, trials, tmp_path):
    ((early,), _), made = trials.add(whole), trials.folder / "teacher-e90"
    file = made / "exits.safetensors"
    before = file.stat().st_mtime_ns
    assert trials.add(whole)[0] == [early] and file.stat().st_mtime_ns == before
    model = TaskModel.load(whole.model_dir)
    model.head.out.bias.data += 1
    model.save(tmp_path / "other")
    trials.add(replace(whole, model_dir=tmp_path / "other"))
    assert file.stat().st_mtime_ns != before
    again = replace(trials, folder=tmp_path / "new")
    assert again.add(whole)[0][0].model_dir != early.model_dir


def test_a_student_that_cannot_is_named_with_the_reason(trials, whole, tmp_path):
    tiny_teacher("albert").save(tmp_path / "albert")
    made, refused = trials.add(replace(whole, name="distil-2L", model_dir=tmp_path / "albert"))
    assert made == [] and set(refused) == {"distil-2L-e90", "distil-2L-e99"}
    assert all("cannot be stopped between" in why for why in refused.values())


def test_torch_runs_them_in_fp32():
    specs = [EngineSpec.parse(one) for one in ("torch:bf16", "openvino:fp32", "openvino:int8")]
    assert exit_specs(specs) == specs[1:]


def test_which_models_cannot():
    assert why_no_exits(tiny_teacher()) is None
    assert "cannot be stopped between" in str(why_no_exits(tiny_teacher("albert")))
    assert "one layer" in str(why_no_exits(tiny_teacher(num_hidden_layers=1)))


def test_a_search_tries_them_on_the_teacher_and_the_best_student(
    rows, teacher_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr("bertwright.compress.measuring.measure_targets", measured_alike)
    config = replace(SEARCH, exits=(0.85,), students=("control", "distil"))
    result = search(
        teacher_dir,
        rows,
        budget=Budget(keep=0.1),
        config=replace(config, engines=("torch", "onnxruntime"), depths=(2,)),
        training=replace(TRAINING, epochs=2),
        out=tmp_path,
    )
    found = {one["name"]: one for one in result.frontier["candidates"]}
    best = max(("control-2L", "distil-2L"), key=lambda one: found[f"{one}@torch:fp32"]["score"])
    early = {name for name, one in found.items() if one["method"] == "exits"}
    specs = ("torch:fp32", "onnxruntime:fp32")
    assert early == {f"{who}-e85@{spec}" for who in ("teacher", best) for spec in specs}
    for name in early:
        assert found[name]["test_num_rows"] == 50
        assert found[name]["whole"] == name.partition("-e85")[0]
    shapes = {found[name]["shape"] for name in early}
    assert shapes == {"4L-e85", "2L-e85"}


def test_a_chosen_one_is_kept_and_tried_with_other_seeds(rows, teacher_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("bertwright.compress.measuring.measure_targets", measured_alike)

    def first_that_stops(candidates, budget, prefer):
        return next(
            choice(one, budget, prefer)
            for one in ([c] for c in candidates if c["name"] == "distil-2L-e85@torch:fp32")
        )

    from bertwright.compress import pipeline

    choice = pipeline.choose_candidate
    monkeypatch.setattr(pipeline, "choose_candidate", first_that_stops)
    result = search(
        teacher_dir,
        rows,
        budget=Budget(keep=0.1),
        config=replace(SEARCH, exits=(0.85,), students=("distil",), seeds=2),
        training=replace(TRAINING, epochs=2),
        out=tmp_path,
    )
    names = {one["name"].partition("@")[0] for one in result.frontier["candidates"]}
    assert names >= {"distil-2L", "distil-2L-e85", "distil-2L-s1", "distil-2L-s1-e85"}
    assert TaskModel.load(tmp_path / "model").exits is not None
    assert json.loads((tmp_path / "artifact" / "artifact.json").read_text())["spec"] == "torch:fp32"


def test_students_without_attention_are_not_asked(rows, teacher_dir, tmp_path, monkeypatch):
    """The only student is a network of two layers, none of which is an encoder's."""
    monkeypatch.setattr("bertwright.compress.measuring.measure_targets", measured_alike)
    config = replace(
        SEARCH, exits=(0.85,), students=("distil",), depths=(1,), small=("cnn:layers=2",)
    )
    result = search(
        teacher_dir,
        rows,
        budget=Budget(keep=0.1),
        config=config,
        training=replace(TRAINING, epochs=1),
        out=tmp_path,
    )
    names = {one["name"].partition("@")[0] for one in result.frontier["candidates"]}
    assert names == {"teacher", "teacher-e85", "distil-1L", "distil-cnn-layers-2"}


def test_none_where_none_are_wanted_or_possible(rows, teacher_dir, tmp_path):
    assert SearchConfig().tried_exits == (0.99, 0.97)
    assert SearchConfig(exits=(0,)).tried_exits == ()
    assert SearchConfig(exits=(0.95,)).tried_exits == (0.95,)
    for share in (0.3, 1.0):
        with pytest.raises(ValueError, match="--exits"):
            SearchConfig(exits=(share,))
    tiny_teacher("albert").save(tmp_path / "albert")
    with pytest.raises(ConfigError, match="--exits: early exits"):
        search(
            tmp_path / "albert",
            rows,
            budget=Budget(keep=0.1),
            config=replace(SEARCH, exits=(0.9,)),
            training=TRAINING,
            out=tmp_path / "out",
        )
