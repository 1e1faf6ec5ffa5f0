from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bertwright.data.batching import collate
from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.engines.base import EngineSpec
from bertwright.engines.compile import compile_model
from bertwright.engines.predictor import Predictor
from bertwright.errors import ConfigError, DataError, UsageError
from bertwright.evaluate.evaluate import score_model_dir
from bertwright.models.task_model import ModelConfig, TaskModel, build_task_model
from bertwright.tasks import find_task
from bertwright.tasks.senses import Senses, best_threshold, sense_vectors, word_means
from bertwright.training.config import TrainingConfig
from bertwright.training.evaluation import MODEL_INPUTS, compute_logits
from bertwright.training.loop import train
from task_rows import row_of
from tiny import FAMILY_NAMES, tiny_encoder, tiny_tokenizer

TASK, NEAREST = Senses(), Senses(how="nearest")
KNOWING, NEAREST_KNOWING = Senses(inventory=True), Senses(how="nearest", inventory=True)
FILLERS = "the a is was very really not always".split()
BANKS = [
    {"text": "the zebra and dog", "start": 4, "end": 9, "label": "animal"},
    {"text": "a dog is not a car", "start": 2, "end": 5, "label": "animal"},
    {"text": "cat", "start": 0, "end": 3, "label": "word"},
    {"text": "the cat", "start": 4, "end": 7, "label": "animal"},
]
PAIRS = [
    {
        **{"text": "the zebra and dog", "start": 4, "end": 9},
        **{"text_b": "a zoo", "start_b": 2, "end_b": 5, "label": "F"},
    },
    {
        **{"text": "a dog", "start": 2, "end": 5},
        **{"text_b": "the dog was a good dog", "start_b": 4, "end_b": 7, "label": "T"},
    },
    {
        **{"text": "a car", "start": 2, "end": 5},
        **{"text_b": "xyz", "start_b": 0, "end_b": 3, "label": "F"},
    },
]


def encoded_as(task, rows, max_length=48, **options):
    loaded = load_rows(rows, schema=task.schema, **options)
    return tokenise(loaded, tiny_tokenizer("bert"), encoder=task.encoder, max_length=max_length)


def model_for(task, labels, config=None, family="bert"):
    encoder, tokenizer = tiny_encoder(family)
    return build_task_model(
        encoder,
        task=task.spec,
        labels=labels,
        tokenizer=tokenizer,
        max_length=48,
        config=config,
        outputs=task.outputs(labels),
    )


def unit(vector):
    return vector / np.linalg.norm(vector)


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


def outputs_of(encoded, vectors):
    """Return outputs that are a vector at the pieces of each feature's word, noise elsewhere."""
    rng = np.random.default_rng(0)
    fields = encoded.inputs().fields
    outputs = []
    for feature, vector in enumerate(vectors):
        output = rng.normal(size=(int(encoded.lengths[feature]), len(vector))).astype(np.float32)
        for name in ("pieces", "pieces_b"):
            if name in fields:
                output[fields[name][feature]] = vector
        outputs.append(output)
    return outputs


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


# ---- comparing ---------------------------------------------------------------------------------


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


# ---- the whole way -----------------------------------------------------------------------------


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
