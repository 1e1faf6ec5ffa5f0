"""Scores against sklearn and by hand; the whole road on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.data.rows import Rows
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.errors import CheckpointError, DataError, UnknownLabelError, UsageError
from bertwright.evaluate import evaluate
from bertwright.evaluate.evaluate import (
    EVALUATE_KEYS,
    confusion_counts,
    evaluate_model_dir,
    sample_rows,
    score_model_dir,
    score_outputs,
)
from bertwright.models.build import build_task_model
from bertwright.tasks import find_task
from bertwright.tasks.classify import Classify, softmax
from bertwright.tasks.significance import bootstrap, bootstrap_interval
from tiny import tiny_encoder

LABELS = ["bad", "fine", "good"]
TEXTS = [
    "a good film",
    "the book is bad and the food is bad",
    "a fine day for a man",
    "never really good",
    "great movie always",
    "not a bad house",
    "the dog and the cat",
]


def labelled(names: list[str], texts: list[str] = TEXTS) -> Rows:
    return load_rows([{"text": t, "label": n} for t, n in zip(texts, names, strict=True)])


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder, tokenizer = tiny_encoder("bert")
    model = build_task_model(
        encoder, task="classify", labels=LABELS, max_length=32, tokenizer=tokenizer
    )
    folder = tmp_path_factory.mktemp("run") / "model"
    model.save(folder)
    return folder


@pytest.fixture
def fixed_logits(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Make every model answer with these logits."""
    logits = np.random.default_rng(0).normal(size=(len(TEXTS), 3)).astype(np.float32)

    class FixedPredictor:
        def __init__(self, *args, **kwargs) -> None:
            pass

        def encode(self, rows):
            assert rows.texts() == TEXTS
            return tokenise(rows, tiny_encoder("bert")[1], max_length=32)

        def logits_encoded(self, encoded):
            return logits

        def close(self) -> None:
            pass

    monkeypatch.setattr(evaluate, "Predictor", FixedPredictor)
    return logits


def encoded_with(labels: np.ndarray) -> EncodedRows:
    rows = labelled([LABELS[i] for i in labels], ["good"] * len(labels))
    return tokenise(rows.with_labels(LabelSet(tuple(LABELS))), tiny_encoder("bert")[1])


def test_scores_agree_with_sklearn() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, 200)
    logits = generator.normal(size=(200, 3)) + 1.5 * np.eye(3)[labels]
    encoded = encoded_with(labels)
    scores = score_outputs(find_task("classify"), logits, encoded, LABELS, num_resamples=300)
    predicted = logits.argmax(1)
    assert scores.score == pytest.approx((predicted == labels).mean())
    assert scores.metrics["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert scores.interval == bootstrap_interval(predicted == labels, num_resamples=300)
    assert scores.interval.low < scores.score < scores.interval.high
    assert list(scores.answers) == [LABELS[i] for i in predicted]
    assert list(scores.truths) == [LABELS[i] for i in labels]
    assert scores.sureness[0] == pytest.approx(softmax(logits)[0].max())
    np.testing.assert_array_equal(scores.judged.row_scores, predicted == labels)
    np.testing.assert_array_equal(
        confusion_counts(labels, predicted, 3), confusion_matrix(labels, predicted)
    )


def test_the_interval_is_of_the_primary_metric_whatever_it_is() -> None:
    class ByF1(Classify):
        primary = "macro_f1"

        def row_scores(self, statistics):
            return None

    generator = np.random.default_rng(2)
    labels = generator.integers(0, 3, 90)
    logits = generator.normal(size=(90, 3)) + np.eye(3)[labels]
    scores = score_outputs(ByF1(), logits, encoded_with(labels), LABELS, num_resamples=50)
    expected = bootstrap(
        lambda z, y: f1_score(y, z.argmax(1), average="macro"), logits, labels, num_resamples=50
    )
    assert scores.interval == pytest.approx(expected)
    assert scores.score == scores.metrics["macro_f1"]


def test_labels_are_matched_by_name(model_dir: Path, fixed_logits: np.ndarray) -> None:
    predicted = [LABELS[i] for i in fixed_logits.argmax(1)]
    scores = score_model_dir(model_dir, labelled(predicted))
    assert scores.score == 1.0
    # rows with only some of the labels have other ids, yet mean the same
    some = ["good" if name == "good" else "fine" for name in predicted]
    scores = score_model_dir(model_dir, labelled(some))
    assert scores.score == np.mean([a == b for a, b in zip(some, predicted, strict=True)])
    assert set(scores.truths) <= {"fine", "good"}


def test_unknown_labels_and_unlabelled_rows_are_refused(
    model_dir: Path, fixed_logits: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(UnknownLabelError, match="excellent"):
        score_model_dir(model_dir, labelled(["excellent"] + ["good"] * 6))
    rows = load_rows([{"text": t} for t in TEXTS], need_label=False)
    with pytest.raises(DataError, match="no labels"):
        score_model_dir(model_dir, rows)
    with pytest.raises(CheckpointError, match=r"bertwright\.json"):
        score_model_dir(tmp_path, labelled(["good"] * 7))
    (tmp_path / "bertwright.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="task and labels"):
        score_model_dir(tmp_path, labelled(["good"] * 7))
    with pytest.raises(UsageError, match="no rows"):
        empty = encoded_with(np.array([0])).select([])
        score_outputs(find_task("classify"), np.zeros((0, 3)), empty, LABELS)


def test_sampled_rows_are_drawn_once_and_without_their_targets() -> None:
    rows, task = labelled([LABELS[i % 3] for i in range(7)]), find_task("classify")
    sample = sample_rows(rows, task, 4, seed=1)
    assert list(sample) == ["text"]
    assert len(set(sample["text"])) == 4 and set(sample["text"]) <= set(TEXTS)
    assert sample_rows(rows, task, 4, seed=1) == sample
    assert sample_rows(rows, task, 4, seed=2) != sample
    assert sample_rows(rows, task, None)["text"] == TEXTS
    pairs = load_rows([{"text": t, "text_b": t.upper(), "label": "good"} for t in TEXTS])
    sample = sample_rows(pairs, task, 3)
    assert sample["text_b"] == [t.upper() for t in sample["text"]]


def test_the_whole_road_gives_exactly_the_documented_keys(model_dir: Path) -> None:
    rows = labelled([LABELS[i % 3] for i in range(7)])
    found = evaluate_model_dir(
        model_dir.parent, rows, "torch:fp32", threads=1, repeats=2, latency_rows=3
    )
    assert tuple(found) == EVALUATE_KEYS
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["task"], found["num_rows"], found["primary"]) == ("classify", 7, "accuracy")
    assert set(found["metrics"]) == {"accuracy", "macro_f1", "mcc"}
    assert 0 <= found["score_low"] <= found["score"] <= found["score_high"] <= 1
    assert (found["engine"], found["precision"]) == ("torch", "fp32")
    tokens = found["throughput_tokens_s"] / found["throughput_texts_s"] * 7
    assert tokens == pytest.approx(round(tokens)) and 7 * 4 < tokens < 7 * 32
    assert 0 < found["latency_p50_ms"] <= found["latency_p95_ms"]
    size = sum(f.stat().st_size for f in model_dir.rglob("*") if f.is_file()) / 1e6
    assert found["size_mb"] == pytest.approx(size)
    assert 100 < found["peak_memory_mb"] < 3000
