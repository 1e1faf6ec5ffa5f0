"""The search from end to end, on tiny models: real training, real processes, real measurements."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bertwright.compress import pipeline, rounds
from bertwright.compress.bench import baseline_target
from bertwright.compress.budget import Budget, choose_candidate
from bertwright.compress.candidates import StudentPlan
from bertwright.compress.config import SearchConfig
from bertwright.compress.frontier import find_frontier
from bertwright.compress.pipeline import _asked_for, search
from bertwright.compress.students import StudentContext, train_half, train_whole
from bertwright.compress.team import ALONE
from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.engines.base import EngineSpec
from bertwright.errors import ConfigError, NonFiniteLossError, UsageError
from bertwright.evaluate.evaluate import EVALUATE_KEYS, as_judged
from bertwright.methods.distil.soft_targets import SoftTargetsConfig
from bertwright.models.build import build_task_model
from bertwright.models.roles import get_roles
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.tasks import find_task
from bertwright.training.config import TrainingConfig
from bertwright.training.evaluation import evaluate_model

NAMES = {
    "teacher@torch:fp32",
    "control-2L@torch:fp32",
    "distil-2L@torch:fp32",
    "fitted-2L@torch:fp32",
    "theseus-2L@torch:fp32",
}


def test_an_impossible_budget_still_ends_with_a_model_and_a_frontier(searched):
    out, result = searched
    assert not result.choice.met
    assert [v.constraint for v in result.choice.violations] == ["max_size_mb"]
    assert "max_size_mb" in result.choice.reason
    kept = TaskModel.load(out / "model")
    assert kept.roles.num_layers == (4 if result.choice.name.startswith("teacher") else 2)
    assert (out / "artifact" / "artifact.json").exists()


def test_the_frontier_file_holds_what_the_design_says(searched, rows):
    out, result = searched
    frontier = json.loads((out / "frontier.json").read_text(encoding="utf-8"))
    assert frontier == json.loads(json.dumps(result.frontier))
    assert frontier["chosen"] == result.choice.name and frontier["met"] is False
    assert frontier["budget"]["max_size_mb"] == 0.001 and frontier["command"] == "again"
    dropped = {name.partition("@")[0] for name in frontier["dropped"]}
    names = {c["name"] for c in frontier["candidates"]}
    assert names == {n for n in NAMES if n.partition("@")[0] not in dropped}
    for candidate in frontier["candidates"]:
        assert set(EVALUATE_KEYS) <= set(candidate)
        assert candidate["num_rows"] == len(rows.dev)
        assert candidate["score_low"] <= candidate["score"] <= candidate["score_high"]
        assert candidate["kept_low"] <= candidate["kept"] <= candidate["kept_high"]
        for key in ("throughput_texts_s", "latency_p50_ms", "size_mb", "peak_memory_mb"):
            assert math.isfinite(candidate[key]) and candidate[key] > 0
        baseline = frontier["baseline"]["throughput_texts_s"]
        assert candidate["speedup"] == pytest.approx(candidate["throughput_texts_s"] / baseline)
        assert candidate["test_num_rows"] == len(rows.test)
    assert frontier["teacher"]["kept"] == 1.0 and frontier["teacher"]["p_value"] == 1.0
    assert set(frontier["frontier"]) <= names


def test_the_report_gets_curves_confusion_and_disagreements(searched, rows):
    _, result = searched
    extras = result.extras
    assert {"teacher", "control-2L"} <= set(extras["curves"])
    assert any("eval_accuracy" in row for row in extras["curves"]["teacher"])
    for counts in (extras["confusion"]["teacher"], extras["confusion"]["chosen"]):
        assert sum(map(sum, counts)) == len(rows.test)
    for bins in (extras["calibration"]["teacher"], extras["calibration"]["chosen"]):
        assert sum(one["rows"] for one in bins) == len(rows.test)
        assert all(0 <= one["right"] <= 1 and 0.5 <= one["sure"] <= 1 for one in bins)
    found = extras["importance"]
    assert len(found["layers"]) == len(found["neurons"]) == len(found["heads"]) == 4
    for row in extras["disagreements"]:
        assert row["teacher"] != row["chosen"] and row["text"] in rows.test.texts()


def test_what_judges_is_told_of_every_candidate_and_chooses_nothing(searched, rows):
    frontier = searched[1].frontier
    for candidate in frontier["candidates"]:
        model = candidate["name"].partition("@")[0]
        judged = as_judged(candidate)
        assert (judged["num_rows"], judged["search_num_rows"]) == (len(rows.test), len(rows.dev))
        assert judged["score"] == candidate["test_metrics"]["accuracy"]
        assert judged["search_kept"] == candidate["kept"]
        assert model != "teacher" or judged["kept"] == 1.0
    assert as_judged(frontier["baseline"])["num_rows"] == len(rows.test)
    assert frontier["frontier"] == find_frontier(list(map(as_judged, frontier["candidates"])))
    chosen_by = [{k: v for k, v in c.items() if "test" not in k} for c in frontier["candidates"]]
    budget = {k: v for k, v in frontier["budget"].items() if k != "prefer"}
    assert choose_candidate(chosen_by, Budget(**budget)).name == frontier["chosen"]


@pytest.mark.slow  # the command's own test asks a search anew as well
def test_a_search_taken_up_again_trains_nothing_twice(searched, rows, teacher_dir):
    out, first = searched
    models = sorted((out / "students").glob("*/model/encoder/model.safetensors"))
    assert models
    before = {path: path.stat().st_mtime_ns for path in models}
    again = search(
        teacher_dir,
        rows,
        budget=Budget(keep=0.1),
        config=SearchConfig(
            depths=(2,), engines=("torch",), precisions=("fp32",), repeats=1, latency_rows=4
        ),
        training=TrainingConfig(
            epochs=6, lr=3e-3, evals_per_epoch=1, precision="fp32", threads=1, max_length=16
        ),
        out=out,
    )
    assert {path: path.stat().st_mtime_ns for path in models} == before
    assert again.choice.met and again.choice.violations == ()
    scores = {c["name"]: c["score"] for c in first.frontier["candidates"]}
    assert {c["name"]: c["score"] for c in again.frontier["candidates"]} == scores


@pytest.fixture(scope="module")
def context(rows, teacher_dir, tmp_path_factory) -> StudentContext:
    teacher = TaskModel.load(teacher_dir)
    return StudentContext(
        teacher=teacher,
        base_model=teacher.lineage["base_model"],
        train_rows=tokenise(rows.train, teacher.tokenizer, max_length=16),
        dev_rows=tokenise(rows.dev, teacher.tokenizer, max_length=16),
        distil_methods=[SoftTargetsConfig()],
        training=TrainingConfig(
            epochs=2, lr=3e-3, evals_per_epoch=1, precision="fp32", threads=1, max_length=16
        ),
        folder=tmp_path_factory.mktemp("students"),
    )


@pytest.mark.parametrize(
    "plan",
    [
        StudentPlan(1, "control", 0),
        StudentPlan(1, "distil", 0),
        StudentPlan(1, "theseus", 0),
        StudentPlan(3, "control", 0, heads=0.5, neurons=0.7),
        StudentPlan(4, "distil", 0, heads=0.5),
        StudentPlan(0, "control", 0, small="static"),
        StudentPlan(1, "distil", 0, small="cnn:width=8"),
    ],
    ids=lambda plan: plan.name,
)
def test_half_and_the_rest_make_the_same_student_as_all_at_once(context, plan, tmp_path):
    half = train_half(plan, context, context.dev_rows)
    assert len(half) == len(context.dev_rows) and 0 <= half.score <= 1
    in_parts = train_whole(plan, context)
    unbroken = StudentContext(
        **{f: getattr(context, f) for f in context.__dataclass_fields__ if f != "folder"},
        folder=tmp_path,
    )
    at_once = train_whole(plan, unbroken)
    a, b = TaskModel.load(in_parts.model_dir), TaskModel.load(at_once.model_dir)
    assert a.roles.num_layers == plan.layers and in_parts.steps == at_once.steps
    for (name, x), (_, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert torch.equal(x, y), name


@pytest.mark.parametrize(
    "plan",
    [
        StudentPlan(2, "control", 5),
        StudentPlan(4, "control", 5, neurons=0.7, heads=0.5),
        StudentPlan(0, "control", 5, small="static"),
    ],
    ids=lambda plan: plan.name,
)
def test_the_control_has_nothing_of_the_teacher(context, plan):
    """Its weights do not depend on the teacher's."""
    first = train_whole(plan, context)
    spoiled = TaskModel.load(first.model_dir)
    with torch.no_grad():
        for parameter in context.teacher.parameters():
            parameter.add_(1.0)
    try:
        other = StudentContext(
            **{f: getattr(context, f) for f in context.__dataclass_fields__ if f != "folder"},
            folder=context.folder / "other",
        )
        second = TaskModel.load(train_whole(plan, other).model_dir)
    finally:
        with torch.no_grad():
            for parameter in context.teacher.parameters():
                parameter.sub_(1.0)
    for (name, x), (_, y) in zip(
        spoiled.state_dict().items(), second.state_dict().items(), strict=True
    ):
        assert torch.equal(x, y), name


def test_a_control_learns_from_the_labels_alone_for_as_many_steps(context, tmp_path):
    twice = context.train_rows.select([*range(len(context.train_rows))] * 2)
    richer = replace(context, transfer_rows=twice, folder=tmp_path)
    control, distilled = StudentPlan(1, "control", 0), StudentPlan(1, "distil", 0)
    assert richer.rows_of(control) is context.train_rows and richer.rows_of(distilled) is twice
    assert richer.training_of(control).epochs == 2 * richer.training_of(distilled).epochs
    found = [train_whole(plan, richer).steps for plan in (control, distilled)]
    assert abs(found[0] - found[1]) <= 2 and found[0] > train_whole(control, context).steps


def test_of_a_fitted_student_the_better_is_kept(context, tmp_path):
    plan, name = StudentPlan(2, "fitted", 0), "encoder.encoder.layer.0.output.dense.weight"
    of_teacher = context.teacher.state_dict()[name]
    wild = replace(context.training, lr=3.0)
    spoiled = train_whole(plan, replace(context, training=wild, folder=tmp_path / "wild"))
    kept = TaskModel.load(spoiled.model_dir).state_dict()[name]
    assert spoiled.steps == 0 and torch.equal(kept, of_teacher), "training on did harm"
    longer = replace(context, training=replace(context.training, epochs=6))
    halved, at_once = (replace(longer, folder=tmp_path / one) for one in ("half", "whole"))
    train_half(plan, halved, context.dev_rows)
    found = [train_whole(plan, one) for one in (halved, at_once)]
    assert found[0].steps == found[1].steps > 0 and found[1].score > spoiled.score
    a, b = (TaskModel.load(one.model_dir).state_dict() for one in found)
    assert all(torch.equal(a[one], b[one]) for one in a) and not torch.equal(a[name], of_teacher)


def test_a_fitted_student_may_be_narrower_than_the_layers_it_takes(context, tmp_path):
    plan = StudentPlan(2, "fitted", 0, heads=0.5, neurons=0.25)
    training = replace(context.training, lr=3.0)  # harm, so what was fitted is kept
    done = train_whole(plan, replace(context, training=training, folder=tmp_path))
    student, teacher = TaskModel.load(done.model_dir), context.teacher
    assert done.steps == 0 and get_roles(student.encoder).num_layers == 2
    kept = student.state_dict()["encoder.encoder.layer.1.intermediate.dense.weight"]
    own = teacher.state_dict()["encoder.encoder.layer.1.intermediate.dense.weight"]
    assert len(kept) < len(own)
    rows = {tuple(row) for row in own.tolist()}
    assert all(tuple(row) in rows for row in kept.tolist()), "neurons of the teacher's layer 1"
    assert done.score > 1 / len(teacher.labels)


def test_a_fitted_static_student_reads_the_teachers_vectors_of_words(context, tmp_path):
    plan = StudentPlan(0, "fitted", 0, small="static")
    training = replace(context.training, lr=3.0)  # harm, so what was fitted is kept
    done = train_whole(plan, replace(context, training=training, folder=tmp_path))
    student = TaskModel.load(done.model_dir)
    words = student.encoder.get_input_embeddings().weight
    assert torch.equal(words, context.teacher.encoder.get_input_embeddings().weight)
    assert done.steps == 0 and done.score > 1 / len(context.teacher.labels)


def test_an_engine_that_was_not_asked_for_is_not_chosen():
    candidates = [{"name": "teacher@torch:fp32"}, {"name": "distil-2L@openvino:int8"}]
    asked = [EngineSpec("openvino", "int8")]
    assert _asked_for(candidates, asked) == candidates[1:]
    assert _asked_for(candidates[:1], asked) == candidates[:1], "there is always a model"


def test_a_student_whose_loss_breaks_is_dropped_with_its_reason(monkeypatch):
    good, bad = StudentPlan(2, "control", 0), StudentPlan(2, "distil", 0)

    def train(plan, context):
        if plan == bad:
            raise NonFiniteLossError(math.nan, 7, [3])
        return SimpleNamespace(plan=plan, score=0.5)

    monkeypatch.setattr(rounds, "train_whole", train)
    context: Any = None
    training = rounds.Rounds(context, ALONE, math.inf, {})
    assert [student.plan for student in training.whole([bad, good])] == [good]
    assert list(training.dropped) == [bad] and "step 7" in training.dropped[bad]


def test_a_teacher_without_a_stock_form_is_its_own_baseline(teacher_dir, tmp_path):
    model = TaskModel.load(teacher_dir)
    task = find_task("classify")
    target, note = baseline_target(task, teacher_dir / "model", 16, tmp_path / "stock")
    assert target.kind == "pipeline" and note == ""
    pooled = build_task_model(
        model.lineage["base_model"],
        task="classify",
        labels=["a", "b"],
        config=ModelConfig(pooling="mean"),
        max_length=16,
    )
    pooled.save(tmp_path / "mean")
    target, note = baseline_target(task, tmp_path / "mean", 16, tmp_path / "other")
    assert target.kind == "predictor" and target.path == tmp_path / "mean"
    assert "torch:fp32" in note and "pool" in note
    for name, words in (("rerank", "rows of rerank"), ("span", "rows of span")):
        target, note = baseline_target(find_task(name), tmp_path / "mean", 16, tmp_path / name)
        assert target.kind == "predictor" and words in note


def test_options_that_do_not_fit_are_refused_before_training(rows, teacher_dir, tmp_path):
    common = {"budget": Budget(), "training": TrainingConfig(), "out": tmp_path / "out"}
    with pytest.raises(ConfigError, match="--depths 9"):
        search(teacher_dir, rows, config=SearchConfig(depths=(9,)), **common)
    with pytest.raises(UsageError, match="nothing to try"):
        torch_int8 = SearchConfig(engines=("torch",), precisions=("int8",))
        search(teacher_dir, rows, config=torch_int8, **common)
    with pytest.raises(ConfigError, match="--seeds"):
        SearchConfig(seeds=0)
    assert not (tmp_path / "out").exists()


def test_other_seeds_are_of_the_chosen_depth_or_where_the_teacher_is_chosen_of_the_best_student():
    def compiled(method: str, score: float, spec: str = "torch:fp32") -> Any:
        whole, scores = "teacher" if method == "exits" else "", SimpleNamespace(score=score)
        return SimpleNamespace(method=method, whole=whole, spec=spec, scores=scores)

    teacher, early, good, poor = (
        compiled(*c) for c in (("teacher", 0.9), ("exits", 0.9), ("distil", 0.8), ("control", 0.7))
    )
    elsewhere = compiled("theseus", 0.85, "openvino:int8")
    tried: Any = SimpleNamespace(compiled=[teacher, early, poor, good, elsewhere])
    assert pipeline._student_to_repeat(tried, poor) is poor
    assert pipeline._student_to_repeat(tried, teacher) is good
    assert pipeline._student_to_repeat(tried, early) is good
    alone: Any = SimpleNamespace(compiled=[teacher])
    assert pipeline._student_to_repeat(alone, teacher) is None


@pytest.mark.parametrize("verb", ["choose", "judge"])
def test_a_teacher_that_scores_nothing_is_refused_before_training(
    verb, rows, teacher_dir, tmp_path
):
    """Rows of which every label is the other one, so that nothing is right."""
    model = TaskModel.load(teacher_dir)
    dev = tokenise(rows.dev, model.tokenizer, max_length=16)
    _, logits = evaluate_model(model, dev, find_task("classify"))
    right = logits.argmax(axis=1)
    wrong = load_rows(
        [
            {"text": text, "label": model.labels[1 - guess]}
            for text, guess in zip(rows.dev.texts(), right.tolist(), strict=True)
        ]
    )
    parts = replace(rows, **({"dev": wrong} if verb == "choose" else {"test": wrong}))
    with pytest.raises(UsageError, match=f"rows to {verb} by is 0.0000: no share"):
        search(
            teacher_dir,
            parts,
            budget=Budget(keep=0.9),
            config=SearchConfig(depths=(2,), engines=("torch",)),
            training=TrainingConfig(),
            out=tmp_path,
        )
    assert not (tmp_path / "students").exists()
