"""The sense of a word by comparing states: threshold, vectors, pairs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.data.batching import MODEL_INPUTS, collate
from bertwright.data.labels import LabelSet
from bertwright.errors import UsageError
from bertwright.models.task_model import ModelConfig
from bertwright.tasks.senses import best_threshold, sense_vectors
from bertwright.training.evaluation import compute_logits
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
    unit,
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.1, 0.1 + 1e-17, 0.7, 1.0]), st.booleans())
        | st.tuples(st.floats(-1, 1), st.booleans()),
        min_size=1,
        max_size=20,
    )
)
def test_the_threshold_is_the_best_there_is(pairs):
    scores, same = np.array([s for s, _ in pairs]), np.array([t for _, t in pairs])
    threshold = best_threshold(scores, same)
    grid = [-3.0, *scores, 3.0]
    best = max(int(((scores >= t) == same).sum()) for t in grid)
    assert ((scores >= threshold) == same).sum() == best
    assert threshold not in (np.inf, -np.inf) and -1.5 <= threshold <= 1.5


def test_thresholds_by_hand():
    truth = np.array([True, True, False])
    assert best_threshold(np.array([0.9, 0.5, 0.1]), truth) == pytest.approx(0.3)
    assert best_threshold(np.array([0.1, 0.5, 0.9]), ~truth) == pytest.approx(0.7)
    assert best_threshold(np.array([0.5, 0.5]), np.array([True, True])) == -0.75
    assert best_threshold(np.array([0.5, 0.5]), np.array([False, False])) == 1.25
    near = np.nextafter(0.5, 1)
    assert best_threshold(np.array([near, 0.5]), np.array([True, False])) == near


def test_sense_vectors_are_means_of_length_one():
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(9, 4)), np.array([0, 2, 2, 0, 2, 3, 3, 3, 3])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[5:9] = [[1, 0, 0, 0], [-1, 0, 0, 0]] * 2
    found = sense_vectors(vectors, labels, 4)
    expected = []
    for label in range(4):
        total, number = np.zeros(4), 0
        for vector, own in zip(vectors, labels, strict=True):
            if own == label:
                total, number = total + vector, number + 1
        mean = total / max(number, 1)
        expected.append(mean / np.linalg.norm(mean) if np.linalg.norm(mean) > 0 else mean)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.abs(found[[0, 2]]).sum() > 1 and not found[[1, 3]].any()


def looped_vectors(model, encoded):
    """Return the vector of each feature's word, one feature at a time through the encoder."""
    vectors = []
    fields = encoded.inputs().fields
    for feature in range(len(encoded)):
        ids = torch.tensor(encoded.tokens(np.array([feature]))[0][None].astype(np.int64))
        with torch.no_grad():
            states = model.encoder(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        units = [unit(states[place].double().numpy()) for place in fields["pieces"][feature]]
        vectors.append(unit(sum(units) / len(units)))
    return np.stack(vectors)


def test_preparing_takes_the_mean_of_each_senses_words():
    labels = ["animal", "unseen", "word"]
    train_rows = encoded_as(NEAREST, BANKS, labels=LabelSet(tuple(labels)))
    model = model_for(NEAREST, labels)
    vectors = looped_vectors(model, train_rows)
    model.train()
    model.roles.layers[0].eval()
    NEAREST_KNOWING.prepare(model, train_rows)
    assert model.training and not model.roles.layers[0].training, "modes are as they were"
    found = model.decoding["senses"]
    assert found.keys() == {"animal", "word"} and model.decoding["inventory"]["cat"] == [*found]
    expected = {"animal": unit(vectors[[0, 1, 3]].mean(axis=0)), "word": vectors[2]}
    for name, vector in expected.items():
        np.testing.assert_allclose(found[name], vector, atol=2e-5)
        assert found[name] == [round(value, 5) for value in found[name]]
    assert NEAREST.tune(model, None, None) == model.decoding
    assert json.loads(json.dumps(model.decoding)) == model.decoding

    model.eval()
    outputs = compute_logits(model, train_rows, precision="fp32")
    answers = NEAREST.decode(outputs, train_rows.inputs(), labels, model.decoding)
    for vector, answer in zip(vectors, answers, strict=True):
        cosines = {name: float(vector @ expected[name]) for name in expected}
        assert answer["scores"] == pytest.approx(cosines, abs=1e-4)
        assert answer["label"] == max(cosines, key=cosines.__getitem__)
        assert NEAREST.describe(answer) == (answer["label"], None)
    assert answers[2]["label"] == "word"
    known = NEAREST_KNOWING.decode(outputs, train_rows.inputs(), labels, model.decoding)
    assert [len(answer["scores"]) for answer in known] == [1, 1, 2, 2]

    batch = collate(train_rows, range(4))
    logits = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch}).logits
    loss = NEAREST.per_example_loss(logits, batch, model)
    wanted = [1 - vectors[i] @ expected[BANKS[i]["label"]] for i in range(4)]
    np.testing.assert_allclose(loss.detach().numpy(), wanted, atol=1e-4)
    model.decoding = {}
    assert NEAREST.per_example_loss(logits, batch, model).tolist() == [0] * 4
    with pytest.raises(UsageError, match="no sense vectors"):
        NEAREST.decode(outputs, train_rows.inputs(), labels, {})


@pytest.mark.parametrize("swapped", [False, True])
def test_pairs_are_compared_by_their_cosine(swapped):
    names = {"T": "F", "F": "T"} if swapped else {"T": "T", "F": "F"}
    rows = [{**PAIRS[0], "label": names[label]} for label in "TTFF"]
    encoded = encoded_as(NEAREST, rows)
    model = model_for(NEAREST, ["F", "T"])
    NEAREST.prepare(model, encoded)
    assert model.decoding == {}
    angles = [0.1, 0.2, 0.4, 1.5]
    vectors = [v for angle in angles for v in ([2, 0], [math.cos(angle), math.sin(angle)])]
    outputs = outputs_of(encoded, vectors)
    decoding = NEAREST.tune(model, outputs, encoded)
    middle = (math.cos(0.2) + math.cos(0.4)) / 2
    assert decoding == {"threshold": pytest.approx(middle, abs=1e-6), "same": names["T"]}
    assert NEAREST.judge(outputs, encoded, decoding)[:, 0].tolist() == [
        int(not swapped), int(not swapped), int(swapped), int(swapped),
    ]  # fmt: skip
    answers = NEAREST.decode(outputs, encoded.inputs(), ["F", "T"], decoding)
    assert [answer["label"] for answer in answers] == [names[label] for label in "TTFF"]
    assert [answer["score"] for answer in answers] == pytest.approx([*map(math.cos, angles)])
    assert answers[0]["scores"] == {names["T"]: answers[0]["score"]}
    assert answers[0]["start_b"] == 2

    batch = collate(encoded, range(8))
    logits = torch.zeros(*batch["input_ids"].shape, 2)
    for feature, output in enumerate(outputs):
        logits[feature, : len(output)] = torch.from_numpy(output)
    assert NEAREST.per_example_loss(logits, batch, model).tolist() == [0] * 8
    model.decoding = decoding
    squares = [(np.cos(a) / 2 + 0.5 - t) ** 2 for a, t in zip(angles, [1, 1, 0, 0], strict=True)]
    loss = NEAREST.per_example_loss(logits, batch, model)
    np.testing.assert_allclose(loss.numpy(), np.repeat(squares, 2), atol=1e-6)
    with pytest.raises(UsageError, match="no threshold"):
        NEAREST.judge(outputs, encoded, {})


def test_rows_that_are_all_the_same_or_all_not():
    rows = [{**PAIRS[0], "label": "F"}] * 2
    encoded = encoded_as(NEAREST, rows, labels=LabelSet(("F", "T")))
    model = model_for(NEAREST, ["F", "T"])
    outputs = outputs_of(encoded, [[1, 0], [0, 1], [1, 0], [1, 1]])
    decoding = NEAREST.tune(model, outputs, encoded)
    assert decoding["same"] == "F" and decoding["threshold"] < -0.5
    assert NEAREST.judge(outputs, encoded, decoding)[:, 0].tolist() == [0, 0]


def test_what_does_not_go_together_is_refused():
    three = encoded_as(NEAREST, [{**PAIRS[0], "label": label} for label in "TF?"])
    with pytest.raises(UsageError, match="two labels of pairs apart .* there are 3"):
        NEAREST.prepare(model_for(NEAREST, list("?FT")), three)
    pairs = encoded_as(KNOWING, PAIRS)
    with pytest.raises(UsageError, match="inventory is for words in one text"):
        KNOWING.prepare(model_for(KNOWING, ["F", "T"]), pairs)
    crf = model_for(TASK, ["O", "B-x"], ModelConfig(head_crf=True))
    with pytest.raises(UsageError, match="--head-crf is for tags"):
        TASK.prepare(crf, encoded_as(TASK, BANKS))
