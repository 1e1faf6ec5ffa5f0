"""Every task, swept: it trains, is saved and loaded, runs in every engine, teaches a student."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest

from bertwright.data.batching import MODEL_INPUTS, collate
from bertwright.data.gather import Gathered
from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.data.rows import Rows
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.engines.base import EngineSpec
from bertwright.engines.compile import compile_model
from bertwright.engines.predictor import Predictor
from bertwright.errors import DataError
from bertwright.evaluate.evaluate import evaluate_model_dir, score_model_dir
from bertwright.methods.distil.soft_targets import SoftTargetsConfig
from bertwright.methods.distil.student_init import init_student
from bertwright.methods.distil.train import train_distilled
from bertwright.models.build import build_task_model
from bertwright.models.task_model import TaskModel
from bertwright.tasks import TASKS, find_task
from bertwright.training.config import TrainingConfig
from bertwright.training.loop import train
from task_rows import row_of
from tiny import FAMILY_NAMES, tiny_encoder


def rows_of(task: str, count: int = 96, seed: int = 0) -> Rows:
    rng = random.Random(seed)
    return load_rows([row_of(task, rng) for _ in range(count)], schema=find_task(task).schema)


def encode(task: str, rows: Rows, model: TaskModel) -> EncodedRows:
    return tokenise(rows, model.tokenizer, encoder=find_task(task).encoder, max_length=48)


def tiny_training(**overrides: Any) -> TrainingConfig:
    values = {"epochs": 8, "lr": 3e-3, "batch_size": 16, "precision": "fp32", "evals_per_epoch": 1}
    return TrainingConfig(**(values | overrides))


@pytest.fixture(scope="module", params=sorted(TASKS))
def trained(request, tmp_path_factory):
    """A model of each task that was trained on rows it can learn: (task, folder, dev rows)."""
    task = request.param
    rows, dev = rows_of(task), rows_of(task, 40, seed=1)
    labels = [] if rows.labels is None else list(rows.labels.names)
    if labels:
        dev = dev.with_labels(LabelSet(tuple(labels)))
    encoder, tokenizer = tiny_encoder("bert")
    model = build_task_model(
        encoder,
        task=task,
        labels=labels,
        tokenizer=tokenizer,
        max_length=48,
        outputs=find_task(task).outputs(labels),
    )
    folder = tmp_path_factory.mktemp(task)
    result = train(
        model,
        encode(task, rows, model),
        encode(task, dev, model),
        task=find_task(task),
        config=tiny_training(),
        run_dir=folder,
    )
    names = ("spearman", "pearson") if task == "embed" else find_task(task).metric_names
    assert set(result.metrics) == {*names, "loss"}
    assert result.best_score is not None and math.isfinite(result.metrics["loss"])
    model.save(folder / "model")
    return task, folder / "model", dev, result.best_score


def test_it_learns_and_the_saved_model_scores_what_the_trained_one_did(trained):
    task, folder, dev, best = trained
    scores = score_model_dir(folder, dev)
    assert scores.score == pytest.approx(best, abs=1e-6) and best > 0.5
    assert scores.interval.low <= scores.score <= scores.interval.high
    assert len(scores) == len(scores.answers) == len(scores.truths) == len(dev)
    agreement = np.mean([a == t for a, t in zip(scores.answers, scores.truths, strict=True)])
    assert agreement > 0.5 or task in ("regress", "embed")


@pytest.mark.parametrize("spec", ["openvino:fp32", "openvino:int8", "onnxruntime:fp32"])
def test_every_engine_gives_the_same_answers(trained, spec, tmp_path):
    task, folder, dev, best = trained
    model = TaskModel.load(folder)
    encoded = encode(task, dev, model)
    compile_model(
        folder,
        EngineSpec.parse(spec),
        tmp_path / "artifact",
        calibration=encoded,
        parity=encoded,
        dev=encoded,
        tolerance_points=10,
    )
    scores = score_model_dir(tmp_path / "artifact", dev, spec)
    assert scores.score == pytest.approx(best, abs=1e-4 if "fp32" in spec else 0.1)


def test_answers_are_json_and_do_not_depend_on_the_batch(trained):
    task, folder, dev, _ = trained
    predictor = Predictor(folder, batch_size=7)
    asked = dev.columns(find_task(task).inputs)
    answers = predictor.predict_rows(asked)
    assert len(answers) == len(dev) and json.loads(json.dumps(answers)) == answers
    alone = predictor.predict_rows({name: column[3:4] for name, column in asked.items()})
    assert find_task(task).describe(alone[0])[0] == find_task(task).describe(answers[3])[0]
    assert predictor.count_tokens(asked) > len(dev)


def test_a_student_learns_from_its_soft_targets(trained, tmp_path):
    task, folder, dev, best = trained
    teacher = TaskModel.load(folder)
    rows = rows_of(task)
    if rows.labels is not None:
        rows = rows.with_labels(LabelSet(tuple(teacher.labels)))
    student = init_student(teacher, [0, 1])
    result = train_distilled(
        student,
        teacher,
        encode(task, rows, teacher),
        encode(task, dev, teacher),
        methods=[SoftTargetsConfig(alpha=1.0)],
        training=tiny_training(epochs=2),
        run_dir=tmp_path / "run",
        cache_folder=tmp_path / "cache",
    )
    losses = [
        json.loads(line)["loss"]
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < losses[0]
    assert result.best_score is not None and result.best_score > 0.7 * best
    assert student.roles.num_layers == 2


def test_evaluate_prints_its_keys_for_every_task(trained):
    task, folder, dev, _ = trained
    found = evaluate_model_dir(folder, dev, repeats=1, latency_rows=2, threads=1)
    assert found["task"] == task and found["primary"] == find_task(task).primary
    assert found["throughput_texts_s"] > 0


def test_rows_without_targets_are_not_judged(trained):
    task, folder, dev, _ = trained
    model = TaskModel.load(folder)
    encoded = encode(task, dev, model)
    outputs = Predictor(folder).logits_encoded(encoded)
    with pytest.raises(DataError, match="have no"):
        find_task(task).judge(outputs, encoded.without_targets(), model.decoding)


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("task", ["regress", "multilabel", "tag", "span", "embed"])
def test_every_family_has_outputs_a_loss_and_gradients_for_every_kind_of_task(task, family):
    rows = rows_of(task, 8)
    labels = [] if rows.labels is None else list(rows.labels.names)
    encoder, tokenizer = tiny_encoder(family)
    model = build_task_model(
        encoder,
        task=task,
        labels=labels,
        tokenizer=tokenizer,
        max_length=48,
        outputs=find_task(task).outputs(labels),
    )
    encoded = encode(task, rows, model)
    find_task(task).prepare(model, encoded)
    batch = collate(encoded, np.arange(len(encoded)))
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    logits = model(**inputs).logits
    level = model.outputs.level
    assert logits.shape[0] == len(encoded) and logits.ndim == (3 if level == "token" else 2)
    loss = find_task(task).per_example_loss(logits, batch, model)
    assert loss.shape == (len(encoded),) and bool(loss.isfinite().all()) and loss.sum().item() > 0
    loss.sum().backward()
    first = next(p for p in model.roles.layers[0].parameters() if p.grad is not None)
    assert first.grad.abs().sum().item() > 0
    answers = find_task(task).decode(_as_gathered(logits, batch), encoded.inputs(), labels, {})
    assert len(answers) == 8


def _as_gathered(logits, batch):
    gathered = Gathered(len(logits))
    mask = batch["attention_mask"].numpy()
    gathered.add(np.arange(len(logits)), logits.detach().numpy(), mask)
    return gathered.in_order()
