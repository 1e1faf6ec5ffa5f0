from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.errors import ConfigError, UsageError
from bertwright.methods.distil.transfer_set import (
    TransferSet,
    TransferSetConfig,
    answer_rows,
    text_rows,
    write_transfer_set,
)
from bertwright.models.build import build_task_model
from bertwright.tasks import find_task
from bertwright.training.evaluation import compute_logits
from methods.cases import LABELS, tiny_rows, trained_teacher
from tiny import tiny_encoder

CLASSIFY = find_task("classify")
TEXTS = ["a good film", "the red house was old", "array value"]


@pytest.fixture
def teacher():
    return trained_teacher()


def read(path, **options):
    return load_rows(path, labels=LabelSet(tuple(LABELS)), **options)


def test_generated_texts_are_new_each_once_and_repeatable(teacher):
    rows = tiny_rows(teacher, 24).rows
    method = TransferSet(TransferSetConfig(copies=5))
    found = [row["text"] for row in method.apply(teacher, rows, seed=3)]
    assert 24 < len(found) <= 120
    assert len(set(found)) == len(found) and not set(found) & set(rows.texts())
    assert found == [row["text"] for row in method.apply(teacher, rows, seed=3)]
    assert found != [row["text"] for row in method.apply(teacher, rows, seed=4)]
    assert TransferSet(TransferSetConfig(copies=0)).apply(teacher, rows, seed=0) == []


def test_only_words_of_the_texts_stand_in_for_words(teacher):
    rows = tiny_rows(teacher, 24).rows
    known = {word for text in rows.texts() for word in text.split()}
    config = TransferSetConfig(copies=3, replace=1.0, drop=0, crop=0, splice=0)
    found = TransferSet(config).apply(teacher, rows, seed=0)
    texts = [row["text"].split() for row in found]
    assert all(set(words) <= known for words in texts)
    lengths = {len(text.split()) for text in rows.texts()}
    assert {len(words) for words in texts} <= lengths


def test_each_text_of_a_pair_varies_by_itself(teacher):
    pairs = load_rows([{"text": a, "text_b": b, "label": "food"} for a in TEXTS for b in TEXTS])
    config = TransferSetConfig(copies=4, splice=0)
    found = TransferSet(config).apply(teacher, pairs, seed=0)
    assert found and all(set(row) == {"text", "text_b"} for row in found)
    assert {row["text_b"] for row in found} - set(TEXTS)


def test_the_labels_are_the_teachers_answers(teacher):
    rows = [{"text": text} for text in TEXTS]
    answered = list(answer_rows(teacher, rows, CLASSIFY))
    assert [row["text"] for row in answered] == TEXTS
    encoded = tiny_rows(teacher, 96)
    wanted = compute_logits(teacher, encoded).argmax(axis=1)
    again = list(answer_rows(teacher, text_rows(encoded.rows), CLASSIFY))
    assert [LABELS.index(row["label"]) for row in again] == wanted.tolist()
    assert len(set(wanted.tolist())) == 3
    assert [LABELS.index(row["label"]) for row in again] != ((wanted + 1) % 3).tolist()


def test_the_file_has_the_labelled_rows_first_and_reads_as_rows(teacher, tmp_path):
    rows = tiny_rows(teacher, 24).rows
    path = tmp_path / "transfer.jsonl"
    more = [{"text": text} for text in TEXTS]
    assert write_transfer_set(path, rows, more, teacher=teacher, task=CLASSIFY) == 3
    found = read(path)
    assert found.texts() == [*rows.texts(), *TEXTS]
    before, after = rows.label_ids(), found.label_ids()
    assert before is not None and after is not None
    np.testing.assert_array_equal(after[:24], before)
    assert write_transfer_set(path, rows, [], teacher=teacher, task=CLASSIFY) == 0
    assert len(path.read_text().splitlines()) == 24


def test_a_masked_language_model_names_other_words(teacher, tmp_path):
    tokenizer = teacher.tokenizer
    encoder, _ = tiny_encoder()
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(encoder.config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    rows = tiny_rows(teacher, 12).rows
    shares = {"copies": 2, "replace": 1.0, "drop": 0, "crop": 0, "splice": 0}
    config = TransferSetConfig(words=str(tmp_path), **shares)
    found = TransferSet(config).apply(teacher, rows, seed=0)
    known = {word for text in rows.texts() for word in text.split()}
    others = {word for row in found for word in row["text"].split()} - known
    assert others and others <= set(tokenizer.get_vocab())


@pytest.mark.parametrize(
    ("task", "labels", "label", "kind"),
    [
        ("multilabel", ["x", "y"], ["x"], list),
        ("powerset", ["x", "x + y"], "x,y", list),
        ("regress", [], 2.5, float),
    ],
)
def test_other_tasks_with_one_answer_a_text(task, labels, label, kind, tmp_path):
    encoder, tokenizer = tiny_encoder()
    how = find_task(task)
    outputs = how.outputs(labels)
    model = build_task_model(
        encoder, task=task, labels=labels, tokenizer=tokenizer, max_length=32, outputs=outputs
    )
    names = LabelSet(tuple(labels)) if labels else None
    rows = load_rows([{"text": "fine", "label": label}], schema=how.schema, labels=names)
    path = tmp_path / "t.jsonl"
    write_transfer_set(path, rows, [{"text": t} for t in TEXTS], teacher=model, task=how)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 4 and all(isinstance(line["label"], kind) for line in lines[1:])
    assert len(load_rows(path, schema=how.schema, labels=names)) == 4


def test_tasks_whose_answers_are_no_labels_are_refused():
    with pytest.raises(UsageError, match="--generate"):
        find_task("tag").label_in({"entities": []})


@pytest.mark.parametrize(
    "options", [{"copies": -1}, {"replace": 1.5}, {"crop": -0.1}, {"num_near": 0}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        TransferSetConfig(**options)
