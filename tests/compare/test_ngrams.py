"""Referees: hashes worked out elsewhere, bags made by a loop, the mean of vectors by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertwright.compare.contender import LabelledTexts
from bertwright.compare.ngrams import NgramIndex, NgramsContender, hash_text
from bertwright.errors import ConfigError
from compare_texts import keyed_texts, ordered_texts

TEXTS = ["the red car", "a car", "", "The RED house is a house", "red"]


def test_the_hash_is_fnv_1a_which_no_salt_changes():
    # from the authors' test vectors
    assert hash_text("") == 0xCBF29CE484222325
    assert hash_text("a") == 0xAF63DC4C8601EC8C
    assert hash_text("foobar") == 0x85944171F73967E8
    assert hash_text("é") == hash_by_loop([0xC3, 0xA9]) != hash_text("e")


def hash_by_loop(data: list[int]) -> int:
    value = 14695981039346656037
    for byte in data:
        value = (value ^ byte) * 1099511628211 % 2**64
    return value


def bags_by_loop(index: NgramIndex, text: str) -> list[int]:
    """Return the sorted keys of the known words, n-grams and parts of a text of plain words."""
    words = text.lower().split()
    keys = [hash_text(word) | 1 << 63 for word in words]
    for size in range(2, index.words + 1):
        for start in range(len(words) - size + 1):
            value = 0
            for word in words[start : start + size]:
                value = (value * 116049371 + hash_text(word)) % 2**64
            keys.append(value % index.buckets)
    for word in words:
        for size in range(3, index.characters + 1):
            for start in range(len(word) + 2 - size + 1):
                keys.append(hash_text(f"<{word}>"[start : start + size]) % index.buckets)
    return sorted(key for key in keys if key in set(index.keys.tolist()))


@pytest.mark.parametrize(("words", "characters"), [(1, 0), (2, 0), (3, 4)])
def test_bags_are_those_of_a_loop(words, characters):
    index = NgramIndex(TEXTS, words=words, characters=characters, buckets=1000)
    new_texts = [*TEXTS, "a red car flies", "nothing known"]
    rows, starts = index.encode(new_texts)
    ends = [*starts[1:], len(rows)]
    for text, start, end in zip(new_texts, starts, ends, strict=True):
        assert sorted(index.keys[rows[start:end]].tolist()) == bags_by_loop(index, text), text
    assert len(rows) > 10 and index.num_bytes == 8 * len(index)
    assert index.encode([])[0].size == 0


def test_an_empty_index_knows_nothing():
    rows, starts = NgramIndex(["", " "], words=2, buckets=10).encode(["a b", "c"])
    assert rows.size == 0 and starts.tolist() == [0, 0]


def test_logits_are_weights_times_the_mean_of_vectors():
    train = keyed_texts(40, 3, 0)
    model = NgramsContender(epochs=2, width=8).fit(train, train, num_classes=3, seed=0)
    texts = ["film red house", "unheard-of", "car"]
    rows, starts = model.index.encode(texts)
    vectors, output = model.network.vectors.weight, model.network.output
    assert output is not None
    for row, (start, end) in enumerate(zip(starts, [*starts[1:], len(rows)], strict=True)):
        mean = vectors[rows[start:end]].sum(dim=0) / max(1, end - start)
        expected = (output.weight @ mean).detach().numpy()
        np.testing.assert_allclose(model.logits(texts)[row], expected, atol=1e-5)
    assert np.abs(model.logits(texts)[1]).max() == 0
    assert model.num_bytes == 4 * 8 * (len(model.index) + 3) + 8 * len(model.index)


@pytest.mark.parametrize("softmax", ["full", "hierarchical"])
def test_a_toy_task_is_learned(softmax):
    train, test = keyed_texts(300, 5, 0), keyed_texts(100, 5, 1)
    contender = NgramsContender(softmax=softmax, width=16)
    model = contender.fit(train, test, num_classes=6, seed=0)
    logits = model.logits(test.texts)
    assert logits.shape == (100, 6) and logits.dtype == np.float32
    assert (logits.argmax(axis=1) == test.labels).mean() > 0.95
    again = contender.fit(train, test, num_classes=6, seed=0)
    np.testing.assert_array_equal(logits, again.logits(test.texts))
    assert (model.network.tree is None) == (softmax == "full")


def test_pairs_of_words_tell_what_words_do_not():
    train, test = ordered_texts(300, 0), ordered_texts(100, 1)
    scores = []
    for words in (1, 2):
        model = NgramsContender(words=words, width=16).fit(train, test, num_classes=2, seed=0)
        scores.append((model.logits(test.texts).argmax(axis=1) == test.labels).mean())
    assert scores[0] < 0.7 and scores[1] > 0.95


def test_many_classes_have_a_tree():
    labels = np.arange(1001) % 3
    train = LabelledTexts(texts=["one", "two", "three"] * 333 + ["one", "two"], labels=labels)
    model = NgramsContender(epochs=3, width=4).fit(train, train, num_classes=1001, seed=0)
    assert model.network.tree is not None
    logits = model.logits(["one", "two", "three"])
    assert logits.argmax(axis=1).tolist() == [0, 1, 2]
    np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1, atol=1e-4)


def test_the_best_epoch_on_dev_is_kept():
    train = keyed_texts(60, 3, 0)
    wrong = LabelledTexts(texts=train.texts, labels=(train.labels + 1) % 3)
    scores = {}
    for name, dev in (("right", train), ("wrong", wrong)):
        model = NgramsContender(width=8).fit(train, dev, num_classes=3, seed=0)
        scores[name] = (model.logits(train.texts).argmax(axis=1) == train.labels).mean()
    assert scores["right"] == 1 and scores["wrong"] < 0.9


def test_the_callers_random_numbers_are_left_alone_and_progress_is_told():
    train = keyed_texts(30, 3, 0)
    before, told = torch.get_rng_state(), []
    NgramsContender(epochs=2, width=4).fit(
        train, train, num_classes=3, seed=0, progress=lambda what, share: told.append(share)
    )
    assert torch.equal(before, torch.get_rng_state()) and told == [0.5, 1.0]


@pytest.mark.parametrize("option", [{"width": 0}, {"characters": 2}, {"lr": 0.0}, {"words": 0}])
def test_options_out_of_range(option):
    with pytest.raises(ConfigError, match=f"--{next(iter(option))}"):
        NgramsContender(**option)
