"""`finetune --frozen`, as a user runs it: the result is a run like any other."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import bertwright
from bertwright.cli.main import main
from bertwright.compress.config import SearchConfig
from bertwright.compress.pipeline import _plan
from bertwright.engines.compile import compile_model
from bertwright.engines.opening import open_session
from bertwright.engines.torch_engine import TorchSession
from bertwright.errors import BertwrightError, ConfigError, UnknownChoiceError
from bertwright.features import frozen
from bertwright.models.heads import BagHead
from bertwright.models.task_model import TaskModel

QUICK = {"max_length": 16, "precision": "fp32", "frozen": True}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BERTWRIGHT_CACHE", str(tmp_path / "cache"))


def given(encoder, data, **more):
    options = {"model": str(encoder), "data": data["train"], "eval_data": data["dev"]}
    return options | QUICK | more


def encoder_weights(folder):
    return TaskModel.load(folder).encoder.state_dict()


@pytest.mark.parametrize("learner", ["best", "boosting", "nearest", "own"])
def test_a_frozen_run_is_evaluated_and_predicts_like_any_other(
    learner, teacher, data, tmp_path, capsys
):
    """On an encoder that was trained for it: its states tell the label."""
    options = given(teacher, data, pooling="mean", learner=learner, out=str(tmp_path / "run"))
    more = {"head": "linear", "lr": 0.05, "epochs": 10} if learner == "own" else {}
    result = bertwright.finetune(**options, **more)
    assert result.score > 0.9 and result.num_rows == 160
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"recipe.yaml", "model"} <= names
    assert ("learners.json" in names) == (learner != "own")
    base = encoder_weights(tmp_path / "run")
    plain = bertwright.load(str(tmp_path / "run"))
    assert plain.lineage["scores"]["accuracy"] == result.score
    stock = TaskModel.load(tmp_path / "run")
    source = encoder_weights(teacher)
    assert all(torch.equal(base[name], source[name]) for name in base)
    assert stock.labels == ["bad", "good"]
    if learner != "best":
        return
    words = ["--model", str(tmp_path / "run"), "--data", data["dev"], "--json"]
    assert main(["evaluate", *words, "--speed-rows", "4", "--repeats", "1"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["metrics"]["accuracy"] == pytest.approx(result.score)


def test_what_was_tried_is_kept(encoder_dir, data, tmp_path):
    result = bertwright.finetune(
        **given(encoder_dir, data, pooling="mean", out=str(tmp_path / "r"))
    )
    facts = json.loads((tmp_path / "r" / "learners.json").read_text())
    assert {trial["learner"] for trial in facts["trials"]} == {
        *("logistic", "svm", "ridge", "nearest", "boosting")
    }
    assert facts["chosen"] in facts["trials"] and facts["temperature"] > 0
    assert facts["chosen"]["learner"] in result.stopped and "cross-validation" in result.stopped


def test_the_command_line_says_what_was_chosen(encoder_dir, data, tmp_path, capsys):
    words = ["--model", str(encoder_dir), "--data", data["train"], "--eval-data", data["dev"]]
    words += ["--max-length", "16", "--pooling", "mean", "--frozen", "--learner", "ridge"]
    assert main(["finetune", *words, "--out", str(tmp_path / "r")]) == 0
    told = capsys.readouterr().err
    assert "ridge with alpha" in told and "tokens/s" not in told


def test_bags_of_heads(teacher, data, tmp_path):
    options = given(teacher, data, pooling="mean", head_bags=3)
    bertwright.finetune(**options, learner="ridge", out=str(tmp_path / "classic"))
    own = {"learner": "own", "head": "linear", "lr": 0.05, "epochs": 4}
    result = bertwright.finetune(**options, **own, out=str(tmp_path / "own"))
    assert result.score > 0.9
    for name in ("classic", "own"):
        head = bertwright.load(str(tmp_path / name)).head
        assert isinstance(head, BagHead) and len(head.heads) == 3
        weights = [part.out.weight for part in head.heads]
        assert not torch.equal(weights[0], weights[1])


def test_a_pooling_that_is_trained_is_trained_by_gradients(encoder_dir, data, tmp_path):
    options = given(encoder_dir, data, pooling="gru:8", out=str(tmp_path / "r"))
    bertwright.finetune(**options, lr=0.02, epochs=3)
    assert not (tmp_path / "r" / "learners.json").exists()
    assert (tmp_path / "r" / "metrics.jsonl").exists()


def test_the_second_run_does_not_read_the_texts_again(encoder_dir, data, tmp_path, monkeypatch):
    passes = []
    states = frozen._states
    monkeypatch.setattr(frozen, "_states", lambda *a, **k: passes.append(1) or states(*a, **k))
    options = given(encoder_dir, data, pooling="mean", learner="nearest")
    bertwright.finetune(**options, out=str(tmp_path / "a"))
    assert len(passes) == 2, "the rows to train on, and those to evaluate on"
    bertwright.finetune(**options, seed=1, out=str(tmp_path / "b"))
    assert len(passes) == 2


@pytest.mark.parametrize("learner", ["logistic", "nearest", "boosting"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_classic_heads_are_in_the_engines_graphs(learner, engine, encoder_dir, data, tmp_path):
    options = given(encoder_dir, data, pooling="mean", head_bags=2, learner=learner)
    bertwright.finetune(**options, out=str(tmp_path / "run"))
    model = TaskModel.load(tmp_path / "run")
    compile_model(tmp_path / "run" / "model", f"{engine}:fp32", tmp_path / "out", threads=1)
    session, reference = open_session(tmp_path / "out", threads=1), TorchSession(model, "fp32", 1)
    rng = np.random.default_rng(0)
    for lengths in ([1], [9, 3], [16, 1, 7, 16]):
        mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
        inputs = {"input_ids": rng.integers(5, 60, mask.shape) * mask, "attention_mask": mask}
        np.testing.assert_allclose(session(**inputs), reference(**inputs), atol=2e-3)


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        ({"frozen": False, "learner": "ridge"}, ConfigError, "--frozen"),
        ({"frozen": False, "head": "linear", "head_bags": 2}, ConfigError, "--head-bags"),
        ({"head": "nearest"}, ConfigError, "not trained by gradients"),
        ({"learner": "forest"}, UnknownChoiceError, "forest"),
        ({"method": ("theseus",)}, BertwrightError, "theseus"),
        ({"task": "senses"}, ConfigError, "senses"),
        ({"pooling": "lstm", "learner": "ridge"}, ConfigError, "lstm has to be trained"),
        ({"pooling": "lstm", "head_bags": 2, "head": "linear"}, ConfigError, "--head-bags"),
    ],
)
def test_what_does_not_go_together_is_said(more, error, says, encoder_dir, data, tmp_path):
    with pytest.raises(error, match=says):
        bertwright.finetune(**given(encoder_dir, data, out=str(tmp_path / "r"), **more))


@pytest.fixture(scope="module")
def neighbours(teacher, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("frozen") / "run"
    bertwright.finetune(**given(teacher, data, learner="nearest", pooling="mean", out=str(out)))
    return out


def test_a_fitted_head_is_no_teacher_to_train_students_of(neighbours, data, tmp_path):
    options = {"data": data["train"], "eval_data": data["dev"], "max_length": 16}
    with pytest.raises(ConfigError, match="nearest passes no gradient"):
        bertwright.distil(
            teacher=str(neighbours), layers=2, method=("none",), out=str(tmp_path / "s"), **options
        )


def test_compress_then_has_no_students(neighbours, teacher, capsys):
    config = SearchConfig(engines=("openvino",))
    assert _plan(TaskModel.load(neighbours), config, 0) == []
    assert "no students" in capsys.readouterr().err
    assert len(_plan(TaskModel.load(teacher), config, 0)) > 3


@pytest.mark.parametrize("head", [{"head": "trees"}, {"head": "linear", "head_bags": 2}])
def test_several_tasks_have_no_head_that_is_not_trained_with_them(head, tmp_path):
    with pytest.raises(ConfigError, match="--head"):
        bertwright.multitask(part=("a:data=x.csv", "b:data=y.csv"), out=str(tmp_path), **head)
