"""Senses that were not trained on: such rows load, count as wrong, and are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertwright.data.batching import MODEL_INPUTS, collate
from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.engines.base import EngineSpec
from bertwright.engines.compile import compile_model
from bertwright.errors import UnknownLabelError
from bertwright.evaluate.evaluate import score_model_dir
from bertwright.tasks import find_task
from bertwright.training.evaluation import compute_logits
from sense_inputs import BANKS, KNOWING, NEAREST, PAIRS, TASK, encoded_as, model_for

KNOWN = LabelSet(("animal", "word"))
ASKED = [*BANKS, {**BANKS[0], "label": "zoo"}, {**BANKS[1], "label": "actor"}]


def prepared(task):
    model = model_for(task, list(KNOWN))
    task.prepare(model, encoded_as(task, BANKS))
    return model.eval()


def test_they_come_after_the_known_ones_and_are_counted(capsys):
    rows = load_rows(ASKED, schema=TASK.schema, labels=KNOWN)
    assert rows.labels.names == ("animal", "word", "actor", "zoo")
    assert rows.label_ids().tolist() == [0, 0, 1, 0, 3, 2]
    told = " ".join(capsys.readouterr().err.split())
    assert "2 of 6 rows have a label that was not trained on: they count as wrong" in told
    own = load_rows(ASKED, schema=TASK.schema)
    assert own.labels.names == ("actor", "animal", "word", "zoo")
    later = own.with_labels(KNOWN)
    assert later.labels == rows.labels
    assert later.label_ids().tolist() == rows.label_ids().tolist()
    assert own.select(range(3)).open_labels


def test_of_pairs_and_of_other_tasks_every_label_has_to_be_known():
    pairs = [*PAIRS, {**PAIRS[0], "label": "maybe"}]
    with pytest.raises(UnknownLabelError, match="unknown label 'maybe'"):
        load_rows(pairs, schema=TASK.schema, labels=LabelSet(("F", "T")))
    own = load_rows(pairs, schema=TASK.schema)
    with pytest.raises(UnknownLabelError, match="unknown label 'maybe'"):
        own.with_labels(LabelSet(("F", "T")))
    texts = [{"text": "a", "label": "animal"}, {"text": "b", "label": "zoo"}]
    with pytest.raises(UnknownLabelError, match="unknown label 'zoo'"):
        load_rows(texts, schema=find_task("classify").schema, labels=KNOWN)


@pytest.mark.parametrize("task", [TASK, KNOWING, NEAREST], ids=lambda task: task.spec)
def test_rows_with_them_have_no_loss_and_are_wrong(task):
    model = prepared(task)
    encoded = encoded_as(task, ASKED, labels=KNOWN)
    outputs = compute_logits(model, encoded, precision="fp32")
    statistics = task.judge(outputs, encoded, model.decoding)
    assert statistics[:, 1].tolist() == [0, 0, 1, 0, 3, 2]
    assert set(statistics[:, 0]) <= {0, 1}
    known = task.row_scores(statistics)[:4].sum()
    assert task.metrics(statistics)["accuracy"] == pytest.approx(known / 6)
    assert task.describe_truth(encoded)[4:] == ["zoo", "actor"]
    batch = collate(encoded, np.arange(6))
    logits = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch}).logits
    losses = task.per_example_loss(logits, batch, model)
    assert torch.isfinite(losses).all() and losses[4:].tolist() == [0, 0] and losses[0] > 0


def test_a_saved_model_and_an_engine_are_judged_with_them(tmp_path):
    model = prepared(KNOWING)
    model.save(tmp_path / "model")
    dev = encoded_as(KNOWING, ASKED, labels=KNOWN)
    spec = EngineSpec.parse("onnxruntime:fp32")
    compile_model(tmp_path / "model", spec, tmp_path / "artifact", parity=dev, dev=dev)
    rows = load_rows(ASKED, schema=KNOWING.schema)
    found = score_model_dir(tmp_path / "model", rows)
    again = score_model_dir(tmp_path / "artifact", rows, spec)
    assert found.truths == ("animal", "animal", "word", "animal", "zoo", "actor")
    assert found.answers == again.answers and found.score == again.score <= 4 / 6
