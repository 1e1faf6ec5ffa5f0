from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bertwright.data.batching import collate
from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.errors import DataError, UnknownLabelError
from bertwright.tasks import find_task
from bertwright.tasks.multilabel import best_thresholds, read_labels, sigmoid, split_sets
from tiny import tiny_tokenizer

NO_INPUTS: Any = None
TASK, SETS = find_task("multilabel"), find_task("powerset")
SOURCE = [
    {"text": "good film", "label": ["film", "good"]},
    {"text": "bad", "label": []},
    {"text": "a good book and film", "label": "film,book ; good"},
    {"text": "a book", "label": "book"},
    {"text": "nothing", "label": None},
]


def encoded_as(task):
    rows = load_rows(SOURCE, schema=task.schema)
    return tokenise(rows, tiny_tokenizer("bert"), encoder=task.encoder)


def test_labels_are_lists_or_separated_texts():
    assert read_labels(["b", "a", "b"], "label") == ["a", "b"]
    assert read_labels("b| a;c,", "label") == ["a", "b", "c"]
    assert read_labels(" ", "label") == read_labels([], "label") == read_labels(None, "label") == []
    assert read_labels([1, 2], "label") == ["1", "2"]
    for wrong in (5, {"a": 1}, ["a", None], [0.5]):
        with pytest.raises(UnknownLabelError):
            read_labels(wrong, "label")


def test_rows_and_batches():
    encoded = encoded_as(TASK)
    assert encoded.labels.names == ("book", "film", "good")
    assert [ids.tolist() for ids in encoded.field("labels", range(5))] == [
        [1, 2], [], [0, 1, 2], [0], [],
    ]  # fmt: skip
    batch = collate(encoded, [0, 1, 2])
    assert batch["labels"].tolist() == [[1, 2, -1], [-1, -1, -1], [0, 1, 2]]
    assert collate(encoded, [1, 4])["labels"].shape == (2, 0)
    with pytest.raises(DataError, match="no labels"):
        TASK.judge(np.zeros((5, 3)), encoded.without_targets(), {})


def test_the_loss_is_torchs_mean_over_labels():
    encoded = encoded_as(TASK)
    logits = torch.randn(5, 3, requires_grad=True)
    wanted = torch.tensor([[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]]).float()
    batch = collate(encoded, range(5))
    loss = TASK.per_example_loss(logits, batch, nn.Identity())
    expected = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=1)
    torch.testing.assert_close(loss, expected)
    assert not torch.allclose(loss, 3 * expected)
    by_hand = TASK.per_example_loss(torch.zeros(2, 3), collate(encoded, [1, 4]), nn.Identity())
    torch.testing.assert_close(by_hand, torch.full((2,), math.log(2)))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans())
def test_thresholds_are_the_best_there_are(seed, rows, each):
    rng = np.random.default_rng(seed)
    probabilities = rng.integers(0, 6, size=(rows, 2)) / 5
    gold = rng.random((rows, 2)) < 0.4
    found = best_thresholds(probabilities, gold, each=each)

    def score(thresholds) -> float:
        predicted = probabilities >= thresholds
        average = "macro" if each else "micro"
        return float(f1_score(gold, predicted, average=average, zero_division=0))

    grid = np.linspace(-0.1, 1.1, 7)  # one between each two probabilities that occur
    if each:
        best = max(score(np.array([a, b])) for a in grid for b in grid)
    else:
        best = max(score(np.array([a, a])) for a in grid)
        assert found[0] == found[1]
    assert score(found) == pytest.approx(best)


def test_a_label_that_is_never_right_keeps_one_half():
    assert best_thresholds(np.array([[0.9], [0.2]]), np.zeros((2, 1), bool), each=True) == [0.5]


def test_tuned_thresholds_are_used_in_judging_and_in_answers():
    encoded = encoded_as(TASK)
    gold = np.array([[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]])
    logits = np.where(gold, -1.0, -3.0)
    plain = TASK.metrics(TASK.judge(logits, encoded, {}))
    decoding = TASK.tune(None, logits, encoded)
    tuned = TASK.metrics(TASK.judge(logits, encoded, decoding))
    assert plain["micro_f1"] == 0 and tuned["micro_f1"] == 1
    assert set(tuned) == set(TASK.metric_names)
    (answer,) = TASK.decode(logits[:1], NO_INPUTS, encoded.labels.names, decoding)
    assert answer["labels"] == ["film", "good"]
    assert list(answer["scores"]) == ["film", "good", "book"]
    assert answer["scores"]["book"] == pytest.approx(sigmoid(np.array(-3.0)))
    assert TASK.describe(answer)[0] == TASK.describe_truth(encoded)[0] == "film + good"
    assert TASK.describe_truth(encoded)[1] == "(none)"


def test_each_label_may_have_a_threshold_of_its_own():
    """Labels whose logits lie apart: no single threshold gets them all right."""
    encoded = encoded_as(TASK)
    gold = np.array([[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]])
    logits = np.where(gold, -1.0, -3.0) + np.array([0.0, 3.0, 6.0])
    one, each = TASK, find_task("multilabel:thresholds=each")
    assert each.spec == "multilabel:thresholds=each" and each.spec != one.spec
    decodings = [task.tune(None, logits, encoded) for task in (one, each)]
    scores = [
        task.metrics(task.judge(logits, encoded, decoding))["subset_accuracy"]
        for task, decoding in zip((one, each), decodings, strict=True)
    ]
    assert len(set(decodings[0]["thresholds"])) == 1 and len(set(decodings[1]["thresholds"])) == 3
    assert scores[0] < 1 and scores[1] == 1


def test_sets_are_classes_and_back():
    encoded = encoded_as(SETS)
    assert encoded.labels.names == ("(none)", "book", "book + film + good", "film + good")
    assert encoded.label_ids.tolist() == [3, 0, 2, 1, 0]
    names, members = split_sets(encoded.labels.names)
    assert names == ["book", "film", "good"]
    back = [[names[i] for i in np.flatnonzero(members[s])] for s in encoded.label_ids]
    assert back == [read_labels(row["label"], "label") for row in SOURCE]


def test_marginals_of_sets_are_sums_and_equal_the_sigmoids_of_independent_labels():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.1, 0.9, size=3)
    subsets = [[i for i in range(3) if mask >> i & 1] for mask in range(8)]
    names = [" + ".join("abc"[i] for i in s) or "(none)" for s in subsets]
    likely = [math.prod(p[i] if i in s else 1 - p[i] for i in range(3)) for s in subsets]
    (answer,) = SETS.decode(np.log(np.array([likely])), NO_INPUTS, names, {})
    for i, name in enumerate("abc"):
        assert answer["scores"][name] == pytest.approx(p[i])
    best = subsets[int(np.argmax(likely))]
    assert sorted(answer["labels"]) == ["abc"[i] for i in best]
    assert answer["score"] == pytest.approx(max(likely))
    assert SETS.decode(np.zeros((0, 8)), NO_INPUTS, names, {}) == []


def test_sets_are_judged_label_by_label():
    encoded = encoded_as(SETS)
    logits = np.eye(4)[[1, 0, 2, 1, 0]]  # the first row is answered "book", not "film + good"
    found = SETS.metrics(SETS.judge(logits, encoded, {}))
    gold = np.array([[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]])
    predicted = gold.copy()
    predicted[0] = [1, 0, 0]
    assert found["micro_f1"] == pytest.approx(f1_score(gold, predicted, average="micro"))
    assert found["subset_accuracy"] == 0.8
    assert set(found) == set(SETS.metric_names)
