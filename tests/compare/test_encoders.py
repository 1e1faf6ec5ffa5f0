"""Encoders as contenders, against what the library does with the same model elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bertwright.card import MethodCard
from bertwright.compare import CONTENDERS
from bertwright.errors import ConfigError, UnknownChoiceError
from bertwright.features.learners import LEARNERS
from bertwright.models.outputs import Outputs
from compare_texts import keyed_texts
from tiny import tiny_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    model, tokenizer = tiny_encoder("bert", num_hidden_layers=3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def texts():
    return keyed_texts(240, 3, 0), keyed_texts(90, 3, 1)


def fitted(name, encoder, texts, **options):
    contender = replace(CONTENDERS[name](), model=encoder, max_length=16, **options)
    return contender.fit(*texts, num_classes=3, seed=0)


def accuracy(classifier, rows):
    return (classifier.logits(rows.texts).argmax(axis=1) == rows.labels).mean()


def test_every_contender_has_a_card():
    for name, kind in CONTENDERS.items():
        assert isinstance(kind.card, MethodCard) and kind.card.name == name
        assert kind.card.kind == "compare"


@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("frozen", {}, 0.5),
        ("frozen", {"pooling": "conv1d:16", "lr": 0.02}, 0.7),
        ("words", {}, 0.9),
        ("finetune", {"lr": 5e-3, "epochs": 8.0}, 0.9),
    ],
)
def test_each_learns_and_answers_the_same_alone(name, options, least, encoder, texts):
    classifier = fitted(name, encoder, texts, **options)
    assert accuracy(classifier, texts[1]) >= least
    logits = classifier.logits(texts[1].texts)
    assert logits.dtype == np.float32 and logits.shape == (90, 3)
    alone = np.concatenate([classifier.logits([text]) for text in texts[1].texts[:4]])
    np.testing.assert_allclose(alone, logits[:4], atol=1e-4)
    assert classifier.num_bytes > 1000


def test_vectors_too_wide_for_the_learner_have_a_head_that_is_trained(encoder, texts, monkeypatch):
    logistic = LEARNERS["logistic"]
    module = __import__("bertwright.compare.encoders", fromlist=["train"])
    calls = []
    monkeypatch.setattr(module, "_train", lambda *a, **k: calls.append(a))
    for most, trained in ((240 * 32 * 3, 0), (240 * 32 * 3 - 1, 1)):
        monkeypatch.setattr(logistic, "most_work", most)
        fitted("frozen", encoder, texts)
        assert len(calls) == trained


def test_words_are_means_of_the_embeddings(encoder, texts):
    classifier = fitted("words", encoder, texts)
    tokenizer = classifier.model.tokenizer
    ids = tokenizer(texts[1].texts[0], add_special_tokens=False)["input_ids"]
    mean = classifier.table[ids].mean(axis=0)
    np.testing.assert_allclose(classifier.vectors(texts[1].texts[:1])[0], mean, atol=1e-6)
    head = LEARNERS["logistic"]().fit(
        classifier.vectors(texts[0].texts), texts[0].labels, Outputs(3), {"C": 3.0}, 0
    )
    weight = head.out.weight.detach().numpy()
    cosine = (weight * classifier.linear.weight).sum() / np.linalg.norm(weight)
    assert cosine / np.linalg.norm(classifier.linear.weight) > 0.9


def test_a_student_takes_the_teacher_that_is_kept(encoder, texts, tmp_path, monkeypatch):
    options = {"lr": 5e-3, "epochs": 8.0, "folder": tmp_path / "teacher"}
    fitted("finetune", encoder, texts, **options)
    module = __import__("bertwright.compare.encoders", fromlist=["train"])
    calls = []
    monkeypatch.setattr(module, "_train", lambda *a, **k: calls.append(a))
    student = fitted("student", encoder, texts, layers=1, student_lr=5e-3, **options)
    assert not calls, "the teacher is not trained again"
    assert student.model.roles.num_layers == 1 and accuracy(student, texts[1]) > 0.8


def test_a_student_without_a_kept_teacher_trains_one(encoder, texts):
    options = {"lr": 5e-3, "epochs": 8.0, "layers": 2, "student_lr": 5e-3}
    student = fitted("student", encoder, texts, **options)
    assert student.model.roles.num_layers == 2 and accuracy(student, texts[1]) > 0.8


def test_what_cannot_be_is_refused():
    with pytest.raises(UnknownChoiceError, match="meen"):
        replace(CONTENDERS["frozen"](), pooling="meen")
    with pytest.raises(ConfigError, match="--max-length 1"):
        replace(CONTENDERS["finetune"](), max_length=1)
