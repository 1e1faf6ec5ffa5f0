"""Several tasks on one encoder, through the commands."""

from __future__ import annotations

import json
import random

import pytest
import torch

import bertwright
from bertwright.errors import ConfigError, ModelLoadError, UnknownChoiceError
from bertwright.evaluate.measure import model_folder
from bertwright.models.encoder import saved_size_mb
from bertwright.models.multi import head_names
from bertwright.verbs.common import open_run_dir
from bertwright.verbs.multitask import MultitaskConfig
from task_rows import row_of

TASKS = {"topic": "classify", "rating": "regress", "names": "tag", "near": "embed"}
TRAINING = {"lr": 3e-3, "max_length": 48, "precision": "fp32", "evals_per_epoch": 1, "threads": 1}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    for name, task in TASKS.items():
        for seed, (split, count) in enumerate((("train", 96), ("dev", 32))):
            rng = random.Random(seed)
            lines = [json.dumps(row_of(task, rng)) for _ in range(count)]
            (folder / f"{name}-{split}.jsonl").write_text("\n".join(lines))
    return folder


def parts_of(files, names=tuple(TASKS)):
    return tuple(
        f"{name}:data={files}/{name}-train.jsonl,eval_data={files}/{name}-dev.jsonl,"
        f"task={TASKS[name]}"
        for name in names
    )


@pytest.fixture(scope="module")
def trained(files, encoder_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("multi") / "run"
    result = bertwright.multitask(
        part=parts_of(files), model=str(encoder_dir), out=str(out), epochs=20, **TRAINING
    )
    return out, result


def test_every_head_learns_and_the_saved_ones_score_what_the_training_said(trained, files):
    out, result = trained
    assert list(head_names(out)) == list(TASKS) and result.primary == "mean"
    scores = []
    for name in TASKS:
        found = bertwright.evaluate(
            model=str(out),
            head=name,
            data=str(files / f"{name}-dev.jsonl"),
            repeats=1,
            latency_rows=1,
            threads=1,
        )
        assert found["task"] == TASKS[name]
        metric = f"{name}/{found['primary']}"
        assert found["score"] == pytest.approx(result.metrics[metric], abs=1e-5)
        assert found["score"] > 0.5, name
        scores.append(found["score"])
    assert result.score == pytest.approx(sum(scores) / len(scores), abs=1e-5)


def test_the_encoder_is_saved_once_and_every_head_uses_it(trained):
    out, _ = trained
    heads = {name: bertwright.load(str(out), head=name) for name in TASKS}
    weights = [dict(model.encoder.named_parameters()) for model in heads.values()]
    for other in weights[1:]:
        assert all(torch.equal(other[name], value) for name, value in weights[0].items())
    assert len(list((out / "model").rglob("encoder/model.safetensors"))) == 1
    whole = saved_size_mb(model_folder(out))
    one = saved_size_mb(out / "model" / "heads" / "topic")
    assert whole > one > saved_size_mb(out / "model" / "encoder")
    assert heads["topic"].lineage["scores"]["accuracy"] > 0.5


def test_a_head_is_predicted_with_exported_and_compressed_by_its_name(trained, files, tmp_path):
    out, _ = trained
    (answer,) = bertwright.predict(model=str(out), head="topic", text=("the film",)).rows
    assert answer["label"] in ("film", "food")
    (vector,) = bertwright.predict(model=str(out), head="near", text=("the film",)).rows
    assert len(vector["vector"]) > 1
    exported = bertwright.export(
        model=str(out),
        head="names",
        format="onnx",
        data=str(files / "names-train.jsonl"),
        out=str(tmp_path / "onnx"),
    )
    again = bertwright.predict(model=str(exported.out), input=str(files / "names-dev.jsonl")).rows
    assert len(again) == 32 and all("entities" in row for row in again)


def test_a_head_has_to_be_named_and_to_exist(trained, files):
    out, _ = trained
    with pytest.raises(ModelLoadError, match="several heads: topic, rating, names, near"):
        bertwright.predict(model=str(out), text=("a film",))
    with pytest.raises(ModelLoadError, match="--head"):
        bertwright.evaluate(model=str(out), data=str(files / "topic-dev.jsonl"))
    with pytest.raises(UnknownChoiceError, match="did you mean 'topic'"):
        bertwright.predict(model=str(out), head="topics", text=("a film",))
    with pytest.raises(ModelLoadError, match="one head only"):
        bertwright.predict(
            model=str(out / "model" / "heads" / "topic"), head="topic", text=("a film",)
        )


def test_a_run_that_was_killed_ends_with_the_same_weights(
    files, encoder_dir, tmp_path, monkeypatch
):
    from bertwright.training.keeper import Keeper

    options = {
        "part": parts_of(files, ("topic", "rating")),
        "model": str(encoder_dir),
        "sampling": "annealed",
        "epochs": 3,
        "checkpoint_steps": 2,
        **TRAINING,
    }
    bertwright.multitask(out=str(tmp_path / "whole"), **options)
    saved, save = [], Keeper.save

    def save_and_stop(self):
        saved.append(save(self))
        if len(saved) == 3:
            raise KeyboardInterrupt
        return saved[-1]

    monkeypatch.setattr(Keeper, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        bertwright.multitask(out=str(tmp_path / "broken"), **options)
    monkeypatch.setattr(Keeper, "save", save)
    bertwright.multitask(out=str(tmp_path / "broken"), resume=True, **options)
    for head in ("topic", "rating"):
        one, other = (
            bertwright.load(str(tmp_path / run), head=head).state_dict()
            for run in ("whole", "broken")
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("a:data=x",), "give two or more"),
        (("a:data=x", "a:data=y"), "each with its own name"),
        (("a:data=x", "b:task=tag"), "--part b:task=tag: no data"),
        (("a:data=x", "../b:data=y"), "cannot name a head"),
        (("a:data=x", "b:data=y,wieght=2"), "wieght"),
        (("a:data=x", "b:data=y,weight=0"), "weight"),
        (("a:data=x", "b:data=y,task=tagg"), "did you mean 'tag'"),
        (("a:data=x", "b:data=y,task=senses:how=nearest"), "nothing to train"),
        (("a:data=x", "b:y"), "not key=value"),
    ],
)
def test_a_part_that_cannot_be_says_what_is_wrong(parts, message):
    with pytest.raises((ConfigError, UnknownChoiceError), match=message):
        MultitaskConfig(part=parts, out="o")


def test_rejected_rows_of_a_run_that_failed_early_do_not_stand_in_the_way(tmp_path):
    config = MultitaskConfig(part=("a:data=x", "b:data=y"), out=str(tmp_path / "run"))
    assert open_run_dir("multitask", config) == tmp_path / "run"
    (tmp_path / "run" / "rejected-eval-a.jsonl").write_text("{}\n")
    open_run_dir("multitask", config)
    (tmp_path / "run" / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="exists and is not empty"):
        open_run_dir("multitask", config)
