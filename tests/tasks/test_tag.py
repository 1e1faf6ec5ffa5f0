"""The tag task: losses and answers by hand, with a CRF and without, in one window and several."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2
from torch.nn import functional as F  # noqa: N812

from bertwright.data.tokenise import tokenise
from bertwright.errors import DataError, UsageError
from bertwright.models.build import build_task_model
from bertwright.models.task_model import ModelConfig
from bertwright.tasks.metrics import spans_of
from bertwright.tasks.tag import Tag
from bertwright.training.evaluation import compute_logits
from tag_inputs import ROW, TAGS, load
from tiny import tiny_encoder, tiny_tokenizer

TASK = Tag()
NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
LONG = {
    "tokens": ["the", "old", "dog", "and", "cat", "house"] * 6,
    "tags": ["O", *["B-LOC", *["I-LOC"] * 33], "O"],
}
"""One entity through all windows."""


def encoded_of(rows, max_length=32, **options):
    return tokenise(
        load(rows, **options), tiny_tokenizer("bert"), encoder=TASK.encoder, max_length=max_length
    )


def model_of(encoded, **config):
    encoder, tokenizer = tiny_encoder("bert")
    names = list(encoded.labels.names)
    model = build_task_model(
        encoder,
        task="tag",
        labels=names,
        tokenizer=tokenizer,
        max_length=48,
        config=ModelConfig(**config),
        outputs=TASK.outputs(names),
    )
    TASK.prepare(model, encoded)
    return model


def outputs_for(encoded, tags, score=4.0, sure=None):
    """Return outputs [L,T] of each feature that say these tags [R][W]; `sure` of some words."""
    inputs, names = encoded.inputs(), encoded.labels.names
    outputs = [np.zeros((int(length), len(names)), np.float32) for length in encoded.lengths]
    for row, positions in enumerate(inputs.features_of_rows()):
        word = 0
        for position in positions:
            for place in inputs.fields["word_piece"][position]:
                if place >= 0:
                    value = score if sure is None else sure.get((row, word), score)
                    outputs[position][place, names.index(tags[row][word])] = value
                word += 1
    return outputs


def test_answers_are_entities_with_offsets_and_the_least_probability():
    encoded = encoded_of([ROW, {"tokens": ["dog"], "tags": ["O"]}])
    outputs = outputs_for(encoded, [TAGS, ["O"]], sure={(0, 4): 2.0})
    answers = TASK.decode(outputs, encoded.inputs(), encoded.labels.names, {})
    assert json.loads(json.dumps(answers)) == answers
    first, second = answers[0]["entities"]
    text = encoded.inputs().rows["text"][0]
    assert first["text"] == text[first["start"] : first["end"]] == "New York"
    assert first["type"] == second["type"] == "LOC"
    num_tags = len(encoded.labels)
    assert first["score"] == pytest.approx(np.exp(2) / (np.exp(2) + num_tags - 1), abs=1e-5)
    assert answers[1] == {"entities": []}
    assert TASK.describe(answers[0]) == (
        f"New York [LOC], {second['text']} [LOC]",
        pytest.approx(first["score"]),
    )
    assert TASK.describe(answers[1]) == ("(none)", None)
    assert TASK.describe_truth(encoded) == [TASK.describe(answers[0])[0], "(none)"]
    statistics = TASK.judge(outputs, encoded, {})
    assert TASK.metrics(statistics)["f1"] == 1
    with pytest.raises(DataError, match="no tags"):
        TASK.judge(outputs, encoded.without_targets(), {})


def tags_of_spans(rng, length):
    """Return valid IOB2 tags with spans of random lengths and types."""
    tags = []
    while len(tags) < length:
        kind, inside = rng.choice(["LOC", "PER"]), rng.randint(0, 3)
        span = ["O"] if rng.random() < 0.5 else [f"B-{kind}", *[f"I-{kind}"] * inside]
        tags += span[: length - len(tags)]
    return tags


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_seqevals_whatever_the_windows(seed):
    rng = random.Random(seed)
    gold = [tags_of_spans(rng, rng.randint(1, 40)) for _ in range(9)]
    gold.append(["B-LOC", "B-PER", "I-PER", "I-PER", "B-LOC", "I-LOC", "O"])
    words = [[rng.choice(LONG["tokens"]) for _ in tags] for tags in gold]
    rows = [{"tokens": w, "tags": t} for w, t in zip(words, gold, strict=True)]
    encoded = encoded_of(rows, max_length=14)
    assert len(encoded) > len(rows)
    guesses = [tags_of_spans(rng, len(tags)) if rng.random() < 0.5 else tags for tags in gold]
    metrics = TASK.metrics(TASK.judge(outputs_for(encoded, guesses), encoded, {}))
    expected = f1_score(gold, guesses, mode="strict", scheme=IOB2)
    assert metrics["f1"] == pytest.approx(expected) and 0 < expected <= 1


def test_without_a_crf_the_loss_is_the_sum_of_the_words():
    encoded = encoded_of([ROW, LONG], max_length=20)
    model = model_of(encoded)
    batch = encoded.collate(np.arange(len(encoded)))
    logits = torch.randn(*batch["labels"].shape, len(encoded.labels))
    losses = TASK.per_example_loss(logits, batch, model)
    counted = batch["labels"] != -100
    for row, loss in enumerate(losses):
        words = F.cross_entropy(
            logits[row][counted[row]], batch["labels"][row][counted[row]], reduction="sum"
        )
        assert float(loss) == pytest.approx(float(words / counted.sum() * len(counted)), rel=1e-5)


# ---- a CRF over several windows ----------------------------------------------------------------


def test_features_know_the_tag_before_them_and_whether_words_follow():
    encoded = encoded_of([ROW, LONG], max_length=20)
    batch = encoded.collate(np.arange(len(encoded)))
    inside = encoded.labels.names.index("I-LOC")
    count = len(encoded) - 1
    assert count >= 3 and batch["before"].tolist() == [-100, -100, *[inside] * (count - 1)]
    assert batch["goes_on"].tolist() == [0, *[1] * (count - 1), 0]


def test_an_entity_through_several_windows_is_one_chain():
    encoded = encoded_of([ROW, LONG], max_length=20)
    model = model_of(encoded, head_crf=True)
    decoding = TASK.tune(model, None, None)
    outputs = outputs_for(encoded, [TAGS, LONG["tags"]], score=2.0)
    answers = TASK.decode(outputs, encoded.inputs(), encoded.labels.names, decoding)
    assert [(e["start"], e["type"]) for e in answers[1]["entities"]] == [(4, "LOC")]
    batch = encoded.collate(np.arange(len(encoded)))
    logits = torch.zeros(*batch["labels"].shape, len(encoded.labels), requires_grad=True)
    losses = TASK.per_example_loss(logits, batch, model)
    assert losses.max() < 100, "going on in the next window is not forbidden"
    losses.sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_chain_is_the_best_of_all_paths_over_all_windows(seed):
    rng = np.random.default_rng(seed)
    row = {"tokens": ["zebra", "house", "dog"] * 2, "tags": ["B-LOC", "I-LOC", *["O"] * 4]}
    encoded = encoded_of([row], max_length=9)
    assert len(encoded) > 1
    model = model_of(encoded, head_crf=True)
    outputs = [
        rng.normal(size=(int(n), len(encoded.labels))).astype(np.float32) for n in encoded.lengths
    ]
    crf = TASK.tune(model, None, None)["crf"]
    start, transitions, end = (np.array(crf[part]) for part in ("start", "transitions", "end"))
    inputs = encoded.inputs()
    emissions = np.concatenate(
        [out[np.asarray(p)] for out, p in zip(outputs, inputs.fields["word_piece"], strict=True)]
    )

    def score_of(path):
        passed = sum(transitions[a, b] for a, b in itertools.pairwise(path))
        return start[path[0]] + end[path[-1]] + passed + emissions[range(6), path].sum()

    best = max(itertools.product(range(len(encoded.labels)), repeat=6), key=score_of)
    statistics = TASK.judge(outputs, encoded, {"crf": crf})
    answers = TASK.decode(outputs, inputs, encoded.labels.names, {"crf": crf})
    spans = spans_of([encoded.labels.names[tag] for tag in best])
    assert [e["type"] for e in answers[0]["entities"]] == [kind for kind, _, _ in spans]
    assert statistics[0].reshape(-1, 3)[:, 1].sum() == len(spans)


def test_a_trained_crf_gives_the_same_answers_from_its_own_outputs():
    encoded = encoded_of([ROW, LONG], max_length=20)
    model = model_of(encoded, head_crf=True).eval()
    outputs = compute_logits(model, encoded, precision="fp32")
    decoding = TASK.tune(model, outputs, encoded)
    assert len(TASK.decode(outputs, encoded.inputs(), model.labels, decoding)) == 2


def test_the_tag_outside_is_needed():
    with pytest.raises(UsageError, match="'O'"):
        TASK.outputs(["B-LOC", "I-LOC"])
