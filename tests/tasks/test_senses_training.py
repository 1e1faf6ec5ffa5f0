"""Senses from rows to answers, in engines too, and on real rows."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch

from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.engines.base import EngineSpec
from bertwright.engines.compile import compile_model
from bertwright.engines.predictor import Predictor
from bertwright.evaluate.evaluate import score_model_dir
from bertwright.models.task_model import TaskModel
from bertwright.tasks import find_task
from bertwright.training.config import TrainingConfig
from bertwright.training.evaluation import compute_logits
from bertwright.training.loop import train
from sense_inputs import (
    BANKS,
    FILLERS,
    KNOWING,
    NEAREST,
    NEAREST_KNOWING,
    TASK,
    encoded_as,
    model_for,
)
from task_rows import row_of


def pair_of(rng):
    """Return a pair of texts with a word each, which are of one kind, as the label says."""
    kinds = {"film": ["film", "movie", "book"], "food": ["food", "dog", "house"]}
    kind = rng.choice(sorted(kinds))
    row = {"label": kind}
    for side in ("", "_b"):
        word, other = rng.choice(kinds[kind]), rng.choice(["car", "cat", "man"])
        words = [*rng.choices(FILLERS, k=rng.randint(1, 5)), word, "and", other]
        start = len(" ".join([*words[:-3], ""]))
        values = {"text": " ".join(words), "start": start, "end": start + len(word)}
        row |= {f"{name}{side}": value for name, value in values.items()}
    return row


def same_word(rng):
    """Return a pair of texts that have the same word or not, as the label says."""
    label = rng.choice("TF")
    words = ["zebra"] * 2 if label == "T" else ["film", "house"]
    row = {"label": label}
    for side, word in zip(("", "_b"), words, strict=True):
        filler = rng.choices(FILLERS, k=rng.randint(0, 2))
        start = len(" ".join([*filler, ""]))
        values = {"text": " ".join([*filler, word]), "start": start, "end": start + len(word)}
        row |= {f"{name}{side}": value for name, value in values.items()}
    return row


def sense_of(rng):
    return row_of("senses", rng)


def training(**overrides):
    values = {"epochs": 6, "lr": 3e-3, "batch_size": 16, "precision": "fp32", "evals_per_epoch": 1}
    return TrainingConfig(**(values | overrides))


@pytest.mark.parametrize(
    ("task", "make"),
    [
        (TASK, pair_of),
        (KNOWING, sense_of),
        (NEAREST, sense_of),
        (NEAREST_KNOWING, sense_of),
        (NEAREST, same_word),
    ],
    ids=["pairs", "inventory", "nearest", "nearest-inventory", "nearest-pairs"],
)
def test_from_rows_to_answers(task, make, tmp_path):
    rng = random.Random(0)
    rows = load_rows([make(rng) for _ in range(96)], schema=task.schema)
    dev = load_rows([make(rng) for _ in range(40)], schema=task.schema, labels=rows.labels)
    model = model_for(task, list(rows.labels.names))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    encoders = (task.training_encoder, task.encoder)
    encoded, encoded_dev = (
        tokenise(part, model.tokenizer, encoder=encoder, max_length=48)
        for part, encoder in zip((rows, dev), encoders, strict=True)
    )
    config = training()
    result = train(model, encoded, encoded_dev, task=task, config=config, run_dir=tmp_path)
    assert result.metrics.keys() == {"accuracy", "macro_f1", "loss"}
    assert math.isfinite(result.metrics["loss"]) and result.best_score > 0.9
    if not task.trains:
        assert result.steps == 0
        after = model.state_dict()
        assert all(torch.equal(after[n], v) or v.isnan().all() for n, v in before.items())
    if task.inventory:
        assert set(model.decoding["inventory"]) == {"film", "movie", "book", "food", "dog", "house"}
    model.save(tmp_path / "model")
    loaded = TaskModel.load(tmp_path / "model")
    assert loaded.decoding == model.decoding and find_task(loaded.task) == task
    assert loaded.labels == list(rows.labels.names)
    scores = score_model_dir(tmp_path / "model", dev)
    assert scores.score == pytest.approx(result.best_score)
    assert scores.truths == tuple(dev.labels.name_of(i) for i in dev.label_ids())
    predictor = Predictor(tmp_path / "model", batch_size=7)
    asked = dev.columns(task.inputs)
    answers = predictor.predict_rows(asked)
    assert tuple(answer["label"] for answer in answers) == scores.answers
    assert json.loads(json.dumps(answers)) == answers
    alone = predictor.predict_rows({name: column[3:4] for name, column in asked.items()})
    assert alone[0]["label"] == answers[3]["label"]
    assert alone[0]["score"] == pytest.approx(answers[3]["score"], abs=1e-5)
    unlabelled = load_rows([make(rng)], schema=task.schema, need_label=False)
    assert len(predictor.predict_rows(unlabelled.columns(task.inputs))) == 1


@pytest.mark.parametrize(
    ("spec", "make"), [("onnxruntime:fp32", sense_of), ("openvino:fp32", same_word)]
)
def test_engines_give_the_same_answers_by_comparing(spec, make, tmp_path):
    rng = random.Random(0)
    rows = load_rows([make(rng) for _ in range(24)], schema=NEAREST.schema)
    model = model_for(NEAREST, list(rows.labels.names))
    encoded = tokenise(rows, model.tokenizer, encoder=NEAREST.encoder, max_length=48)
    train(model, encoded, encoded, task=NEAREST, config=training(), run_dir=tmp_path / "run")
    model.save(tmp_path / "model")
    compile_model(
        tmp_path / "model",
        EngineSpec.parse(spec),
        tmp_path / "artifact",
        parity=encoded,
        dev=encoded,
    )
    asked = rows.columns(NEAREST.inputs)
    found, expected = (
        Predictor(tmp_path / name).predict_rows(asked) for name in ("artifact", "model")
    )
    assert [answer["label"] for answer in found] == [answer["label"] for answer in expected]
    for own, other in zip(found, expected, strict=True):
        assert own["score"] == pytest.approx(other["score"], abs=1e-4)


def test_training_without_rows_to_evaluate_on(tmp_path):
    encoded = encoded_as(NEAREST, BANKS)
    model = model_for(NEAREST, list(encoded.labels.names))
    result = train(model, encoded, None, task=NEAREST, config=training(), run_dir=tmp_path)
    assert result.best_score is None and set(model.decoding["senses"]) == {"animal", "word"}


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("mcl_wic_en", TASK),
        ("mcl_wic_zh", NEAREST),
        ("morsense_zh", KNOWING),
        ("morsense_zh", NEAREST_KNOWING),
    ],
)
def test_real_rows_are_judged(shared_data, name, task):
    rows = load_rows(shared_data(name) / "dev.jsonl", schema=task.schema).select(range(60))
    model = model_for(task, list(rows.labels.names))
    encoded = tokenise(rows, model.tokenizer, encoder=task.training_encoder, max_length=40)
    task.prepare(model, encoded)
    outputs = compute_logits(model, encoded, precision="fp32")
    decoding = task.tune(model, outputs, encoded)
    metrics = task.metrics(task.judge(outputs, encoded, decoding))
    assert 0 <= metrics["accuracy"] <= 1
    if name == "morsense_zh":
        known = np.mean([len(senses) == 1 for senses in decoding["inventory"].values()])
        assert known > 0.9 and metrics["accuracy"] > 0.8, "most words have one sense in 60 rows"
