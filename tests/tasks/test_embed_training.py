"""Models for `embed`: trained on every form, saved, asked."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
import torch

from bertwright.engines.predictor import Predictor
from bertwright.errors import ConfigError, DataError
from bertwright.models.task_model import TaskModel
from bertwright.tasks import find_task
from bertwright.tasks.embed_rows import TextsEncoder
from bertwright.tasks.metrics.ranking import RANKING_METRICS
from bertwright.training.config import TrainingConfig
from bertwright.training.evaluation import evaluate_model
from bertwright.training.loop import train
from embed_inputs import (
    ALONE,
    TASK,
    TRIPLETS,
    encode,
    tiny_model,
    unit,
)
from task_rows import FILLERS, WORDS


def topic_rows(form, count, seed=0):
    """Texts on food or films; what belongs together is on the same."""
    rng = random.Random(seed)

    def text(kind):
        return " ".join([*rng.choices(FILLERS, k=rng.randint(1, 6)), rng.choice(WORDS[kind])])

    rows = []
    for _ in range(count):
        kind = rng.choice(["film", "food"])
        other = "food" if kind == "film" else "film"
        row: dict[str, Any] = {"text": text(kind)}
        if form == "scored":
            score = rng.choice([0.0, 5.0])
            row |= {"text_b": text(kind if score else other), "score": score}
        elif form == "labels":
            row |= {"label": kind}
        elif form in ("pairs", "triplets"):
            row |= {"text_b": text(kind)}
        if form == "triplets":
            row |= {"negative": text(other)}
        rows.append(row)
    return rows


def train_on(form, tmp_path, *, eval_form="scored", eval_rows: Any = None, task=TASK, **options):
    model = tiny_model(**options)
    eval_rows = encode(topic_rows(eval_form, 60, seed=1) if eval_rows is None else eval_rows)
    config = TrainingConfig(epochs=8, lr=3e-3, batch_size=16, precision="fp32", evals_per_epoch=1)
    before, _ = evaluate_model(model, eval_rows, task, precision="fp32")
    result = train(
        model,
        encode(topic_rows(form, 96), twice=True),
        eval_rows,
        task=task,
        config=config,
        run_dir=tmp_path,
    )
    return model, before, result


@pytest.mark.parametrize("form", ["scored", "triplets", "labels"])
def test_each_form_teaches_what_belongs_together(form, tmp_path):
    model, before, result = train_on(form, tmp_path)
    assert result.primary == "spearman"
    assert result.metrics["spearman"] > max(0.5, before["spearman"] + 0.1)
    assert torch.isnan(model.head.score_low) == (form != "scored")


def test_pairs_train_and_are_judged_by_scores_or_by_themselves(tmp_path):
    _, _, by_scores = train_on("pairs", tmp_path / "a")
    assert set(by_scores.metrics) == {"spearman", "pearson", "loss"}
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    assert all(math.isfinite(json.loads(line)["loss"]) for line in lines)
    _, _, by_ranks = train_on("pairs", tmp_path / "b", eval_form="pairs")
    assert by_ranks.primary == "mrr" and set(by_ranks.metrics) == {*RANKING_METRICS, "loss"}


def test_texts_alone_train_but_are_not_judged(tmp_path):
    encoder = TASK.training_encoder
    assert encoder == TextsEncoder(twice=True) and TASK.encoder == TextsEncoder()
    assert TASK.taught_encoder == TextsEncoder()
    model, _, result = train_on("alone", tmp_path / "a", task=find_task("embed:scale=20"))
    assert result.primary == "spearman" and math.isfinite(result.metrics["loss"])
    fresh = tiny_model()
    moved = [
        not torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True)
    ]
    assert sum(moved) > 10
    with pytest.raises(DataError, match="texts alone are for training"):
        train(
            fresh,
            encode(ALONE, twice=True),
            encode(ALONE),
            task=TASK,
            config=TrainingConfig(epochs=1),
            run_dir=tmp_path / "b",
        )
    assert not (tmp_path / "b").exists()


def test_a_linear_layer_makes_the_vectors_narrower(tmp_path):
    model, before, result = train_on("scored", tmp_path, head="linear", head_hidden=8)
    assert model.outputs.count == 8 and model.head.dense.weight.shape == (8, 32)
    assert result.metrics["spearman"] > before["spearman"]
    model.save(tmp_path / "saved")
    loaded: Any = TaskModel.load(tmp_path / "saved")
    assert torch.equal(loaded.head.dense.weight, model.head.dense.weight)
    assert (loaded.head.score_low.item(), loaded.head.score_high.item()) == (0, 5)
    (answer,) = Predictor(tmp_path / "saved").predict(["the film"])
    assert len(answer["vector"]) == 8
    states = torch.randn(3, 32)
    vectors = states @ model.head.dense.weight.T + model.head.dense.bias
    torch.testing.assert_close(model.head(states), vectors / vectors.norm(dim=1, keepdim=True))


def test_heads_that_vectors_do_not_have_are_refused():
    for options in (
        {"head": "mlp", "head_layers": 1},
        {"head_lstm": 4},
        {"head": "linear", "head_crf": True},
    ):
        with pytest.raises(ConfigError, match="no hidden layers, LSTM or CRF"):
            tiny_model(**options)
    model = tiny_model()
    assert list(model.head.parameters()) == [] and model.outputs.count == 32
    assert model.config.pooling == "mean" and tiny_model(pooling="cls").config.pooling == "cls"
    assert model.head(torch.zeros(2, 32)).tolist() == torch.zeros(2, 32).tolist()


def test_a_text_has_a_vector_and_a_pair_a_similarity(tmp_path):
    tiny_model().save(tmp_path)
    predictor = Predictor(tmp_path, batch_size=2)
    texts, others = ["the film", "a dog", "dog dog " * 9], ["a movie", "the house", "a"]
    alone = predictor.predict([*texts, *others])
    assert all(set(answer) == {"vector"} for answer in alone)
    vectors = np.array([answer["vector"] for answer in alone])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    pairs = predictor.predict(texts, others)
    assert json.loads(json.dumps(pairs)) == pairs
    assert all(set(answer) == {"similarity"} for answer in pairs)
    found = [answer["similarity"] for answer in pairs]
    np.testing.assert_allclose(found, (vectors[:3] * vectors[3:]).sum(axis=1), atol=1e-5)
    assert len({round(value, 5) for value in found}) == 3
    same = predictor.predict(texts, texts)
    assert [answer["similarity"] for answer in same] == pytest.approx([1, 1, 1], abs=1e-6)
    assert TASK.describe({"similarity": 0.12345}) == ("0.123", None)
    assert TASK.describe(alone[0]) == ("vector of 32", None)


def test_a_negative_does_not_change_the_answer():
    encoded = encode(TRIPLETS)
    vectors = unit(np.random.default_rng(6), 9, 4)
    answers = TASK.decode(vectors, encoded.inputs(), [], {})
    expected = (vectors[::3] * vectors[1::3]).sum(axis=1)
    assert [answer["similarity"] for answer in answers] == pytest.approx(expected)
