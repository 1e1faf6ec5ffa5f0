"""The sense of a word by a classifier: rows, loss, answers, inventory."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bertwright.data.batching import MODEL_INPUTS, collate
from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.errors import ConfigError, DataError
from bertwright.tasks import find_task
from bertwright.tasks.senses import Senses, word_means
from sense_inputs import (
    BANKS,
    KNOWING,
    NEAREST,
    NEAREST_KNOWING,
    PAIRS,
    TASK,
    encoded_as,
    model_for,
    outputs_of,
)
from tiny import FAMILY_NAMES


def test_its_name_and_its_options():
    assert isinstance(find_task("senses"), Senses) and find_task("senses") == TASK
    found = find_task("senses:how=nearest,inventory=true")
    assert found == NEAREST_KNOWING == find_task(found.spec)
    assert (TASK.spec, NEAREST.spec) == ("senses", "senses:how=nearest")
    assert (TASK.trains, NEAREST.trains) == (True, False)
    assert (TASK.tunes_on_rows, NEAREST.tunes_on_rows) == (False, True)
    assert TASK.primary == "accuracy" and TASK.shown == ("text", "text_b")
    with pytest.raises(ConfigError, match="'nearby' is not a choice"):
        find_task("senses:how=nearby")
    outputs = TASK.outputs(["a", "b"]), NEAREST.outputs(["a", "b"])
    assert [(o.kind, o.level) for o in outputs] == [("classes", "token"), ("vectors", "token")]
    assert outputs[0].count == 2 and model_for(NEAREST, ["a", "b"]).labels == ["a", "b"]


# ---- the mean of a word's outputs, and the loss ------------------------------------------------


def looped_means(outputs, encoded):
    """Return the mean of the outputs of each feature's word, one piece at a time."""
    fields = encoded.inputs().fields
    means = []
    for feature, output in enumerate(outputs):
        of_words = []
        for name in ("pieces", "pieces_b"):
            if name in fields:
                total, pieces = 0.0, fields[name][feature].tolist()
                for place in pieces:
                    total = total + output[place]
                of_words.append(total / len(pieces))
        means.append(sum(of_words) / len(of_words))
    return means


@pytest.mark.parametrize("rows", [BANKS, PAIRS], ids=["texts", "pairs"])
def test_the_loss_is_that_of_the_mean_logits(rows):
    encoded = encoded_as(TASK, rows)
    batch = collate(encoded, range(len(rows)))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*batch["input_ids"].shape, 2, generator=generator, requires_grad=True)
    names = sorted({row["label"] for row in rows})
    labels = [names.index(row["label"]) for row in rows]
    loss = TASK.per_example_loss(logits, batch, nn.Identity())
    means = looped_means(logits, encoded)
    expected = [
        -F.log_softmax(mean, dim=0)[label] for mean, label in zip(means, labels, strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(expected))
    assert loss.shape == (len(rows),) and loss.min().item() > 0
    everywhere = F.cross_entropy(logits.mean(dim=1), torch.tensor(labels), reduction="none")
    assert not torch.allclose(loss, everywhere)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    touched = gradient.abs().sum(dim=-1) > 0
    fields = encoded.inputs().fields
    for feature in range(len(rows)):
        wanted = [place for name in fields if "pieces" in name for place in fields[name][feature]]
        assert touched[feature].nonzero()[:, 0].tolist() == wanted
    outputs = [
        row[: int(n)].detach().numpy() for row, n in zip(logits, encoded.lengths, strict=True)
    ]
    found = word_means(outputs, fields)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, torch.stack(means).detach().numpy(), atol=1e-6)


def test_the_loss_by_hand():
    encoded = encoded_as(TASK, [{"text": "a b", "start": 0, "end": 3, "label": "x"}, BANKS[1]])
    batch = collate(encoded, [0])
    logits = torch.tensor([[[9.0, -9.0], [0.0, 3.0], [4.0, 1.0], [-9.0, 9.0]]])
    loss = TASK.per_example_loss(logits, batch, nn.Identity())
    assert encoded.labels.names == ("animal", "x") and batch["labels"][0, 1] == 1
    torch.testing.assert_close(loss, torch.tensor([math.log(2)]))
    half = TASK.per_example_loss(logits.to(torch.bfloat16), batch, nn.Identity())
    assert half.dtype == torch.float32


def test_of_a_pair_each_word_weighs_the_same():
    encoded = encoded_as(TASK, PAIRS)
    outputs = [np.zeros((int(n), 1)) for n in encoded.lengths]
    fields = encoded.inputs().fields
    outputs[0][fields["pieces"][0]] = 1.0
    assert len(fields["pieces"][0]) == 5 and len(fields["pieces_b"][0]) == 3
    assert word_means(outputs, fields)[0] == 0.5


def test_a_word_without_a_piece_has_no_loss_and_no_gradient():
    encoded = encoded_as(
        TASK, [{"text": "\u200d dog", "start": 0, "end": 1, "label": "x"}, BANKS[0]]
    )
    batch = collate(encoded, range(2))
    logits = torch.randn(*batch["input_ids"].shape, 2, requires_grad=True)
    loss = TASK.per_example_loss(logits, batch, nn.Identity())
    assert loss[0].item() == 0 and loss[1].item() > 0
    (gradient,) = torch.autograd.grad(loss[0], logits)
    assert gradient.abs().sum().item() == 0
    outputs = [
        row[: int(n)].detach().numpy() for row, n in zip(logits, encoded.lengths, strict=True)
    ]
    assert word_means(outputs, encoded.inputs().fields)[0].tolist() == [0, 0]
    answers = TASK.decode(outputs, encoded.inputs(), ["animal", "x"], {})
    assert answers[0]["score"] == 0.5
    statistics = TASK.judge(outputs, encoded, {})
    assert statistics[:, 1].tolist() == [1, 0], "it is still judged"


@pytest.mark.parametrize("rows", [BANKS, PAIRS], ids=["texts", "pairs"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_family_has_outputs_a_loss_and_gradients(family, rows):
    model = model_for(TASK, sorted({row["label"] for row in rows}), family=family)
    loaded = load_rows(rows, schema=TASK.schema)
    encoded = tokenise(loaded, model.tokenizer, encoder=TASK.encoder, max_length=48)
    TASK.prepare(model, encoded)
    batch = collate(encoded, np.arange(len(rows)))
    logits = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch}).logits
    assert logits.shape == (*batch["input_ids"].shape, 2)
    loss = TASK.per_example_loss(logits, batch, model)
    assert loss.shape == (len(rows),) and bool(loss.isfinite().all())
    loss.sum().backward()
    first = next(p for p in model.roles.layers[0].parameters() if p.grad is not None)
    assert first.grad.abs().sum().item() > 0


# ---- answers -----------------------------------------------------------------------------------


def test_answers_by_hand():
    encoded = encoded_as(TASK, BANKS)
    outputs = outputs_of(encoded, [[0, 3], [1, 0], [0, 0], [math.log(3), 0]])
    answers = TASK.decode(outputs, encoded.inputs(), ["animal", "word"], {})
    assert [answer["label"] for answer in answers] == ["word", "animal", "animal", "animal"]
    assert answers[3] == {
        **{"label": "animal", "score": pytest.approx(0.75)},
        **{"scores": {"animal": pytest.approx(0.75), "word": pytest.approx(0.25)}},
        **{"word": "cat", "start": 4, "end": 7},
    }
    assert list(answers[0]["scores"]) == ["word", "animal"]
    assert json.loads(json.dumps(answers)) == answers
    statistics = TASK.judge(outputs, encoded, {})
    assert statistics.tolist() == [[1, 0], [0, 0], [0, 1], [0, 0]]
    assert TASK.metrics(statistics).keys() == {"accuracy", "macro_f1"}
    assert TASK.metrics(statistics)["accuracy"] == TASK.row_scores(statistics).mean() == 0.5
    assert TASK.describe(answers[3]) == ("animal", pytest.approx(0.75))
    assert TASK.describe_truth(encoded) == ["animal", "animal", "word", "animal"]
    assert TASK.decode([], encoded.select([]).inputs(), ["animal", "word"], {}) == []
    with pytest.raises(DataError, match="have no senses"):
        TASK.judge(outputs, encoded.without_targets(), {})


def test_answers_to_pairs_have_both_places_and_five_scores():
    rows = [{**PAIRS[0], "label": str(label)} for label in range(8)]
    encoded = encoded_as(TASK, rows)
    outputs = outputs_of(encoded, np.eye(8) * 9)
    answers = TASK.decode(outputs, encoded.inputs(), encoded.labels.names, {})
    assert [answer["label"] for answer in answers] == list(map(str, range(8)))
    assert all(len(answer["scores"]) == 5 for answer in answers)
    places = {name: PAIRS[0][name] for name in ("start", "end", "start_b", "end_b")}
    assert places.items() <= answers[0].items() and answers[0]["word"] == "zebra"


def test_an_inventory_is_what_the_word_had_in_training():
    train_rows = encoded_as(KNOWING, [*BANKS, {**BANKS[1], "label": "third"}])
    model = model_for(KNOWING, list(train_rows.labels.names))
    KNOWING.prepare(model, train_rows)
    assert model.decoding == {
        "inventory": {
            "cat": ["animal", "word"], "dog": ["animal", "third"], "zebra": ["animal"],
        }
    }  # fmt: skip
    assert KNOWING.tune(model, None, None) == model.decoding
    model.decoding["stale"] = 1
    KNOWING.prepare(model, train_rows)
    assert "stale" not in model.decoding
    asked = [*BANKS[:3], {**BANKS[2], "text": "car"}, {**BANKS[1], "text": "a Dog is"}]
    labels = LabelSet(("animal", "third", "word"))
    encoded = encoded_as(KNOWING, asked, labels=labels)
    outputs = outputs_of(encoded, [[0, 1, 9]] * 5)
    found = KNOWING.decode(outputs, encoded.inputs(), labels.names, model.decoding)
    assert [list(answer["scores"]) for answer in found] == [
        *(["animal"], ["third", "animal"], ["word", "animal"]),
        *(["word", "third", "animal"], ["third", "animal"]),
    ]
    assert [sum(answer["scores"].values()) for answer in found] == pytest.approx([1] * 5)
    assert found[0]["score"] == 1.0
    assert KNOWING.judge(outputs, encoded, model.decoding)[:, 0].tolist() == [0, 1, 2, 2, 1]
    free = TASK.decode(outputs, encoded.inputs(), labels.names, model.decoding)
    assert {answer["label"] for answer in free} == {"word"}
