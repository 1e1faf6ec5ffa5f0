"""Referee: texts drawn from topics that are known."""

from __future__ import annotations

import numpy as np

from bertwright.compare.contender import LabelledTexts
from bertwright.compare.topics import LdaContender, learn_topics

NUM_TOPICS, WORDS_A_TOPIC = 4, 12


def planted(num: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Return texts of 30 words, 9 of 10 from the topic of the text, and the topics."""
    rng = np.random.default_rng(seed)
    owners = rng.integers(NUM_TOPICS, size=num)
    texts = []
    for owner in owners:
        topics = np.where(rng.random(30) < 0.9, owner, rng.integers(NUM_TOPICS, size=30))
        words = rng.integers(WORDS_A_TOPIC, size=30)
        texts.append(" ".join(f"t{t}w{w}" for t, w in zip(topics, words, strict=True)))
    return texts, owners


def purity(clusters: np.ndarray, truth: np.ndarray) -> float:
    return sum(np.bincount(truth[clusters == c]).max() for c in np.unique(clusters)) / len(truth)


def test_planted_topics_are_found_and_new_texts_do_not_change_them():
    texts, owners = planted(300, 0)
    model = learn_topics(texts, num_topics=NUM_TOPICS, passes=5, seed=0)
    before = model.phi.copy()
    new_texts, new_owners = planted(200, 1)
    shares = model.shares(new_texts)
    assert shares.shape == (200, NUM_TOPICS)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert purity(shares.argmax(axis=1), new_owners) > 0.9
    assert purity(model.shares(texts).argmax(axis=1), owners) > 0.9
    assert purity(shares.argmax(axis=1), np.random.default_rng(0).permutation(new_owners)) < 0.5
    np.testing.assert_array_equal(model.phi, before)
    np.testing.assert_allclose(before.sum(axis=1), 1)
    # a row of phi is one planted topic
    words = np.array([word[1] for word in sorted(model.vectorizer.vocabulary_)], dtype=int)
    assert sorted(words[row.argsort()[-WORDS_A_TOPIC:]].std() for row in before)[-1] == 0


def test_a_text_has_the_same_shares_alone_and_unknown_words_have_equal_ones():
    texts, _ = planted(60, 0)
    model = learn_topics(texts, num_topics=3, passes=2, seed=0)
    together = model.shares(texts)
    np.testing.assert_allclose(model.shares(texts[7:8])[0], together[7], atol=1e-3)
    np.testing.assert_allclose(model.shares(["nothing known"]), 1 / 3, atol=1e-6)


def test_there_are_never_more_topics_than_texts_and_words_allow():
    texts, _ = planted(20, 0)
    assert learn_topics(texts, num_topics=100, passes=1, seed=0).phi.shape[0] == 4
    assert learn_topics(["a b"] * 50, num_topics=100, passes=1, seed=0).phi.shape == (2, 2)


def test_classes_follow_topics_and_the_seed_decides():
    texts, owners = planted(200, 0)
    train = LabelledTexts(texts=texts, labels=owners)
    new_texts, new_owners = planted(100, 1)
    dev = LabelledTexts(texts=new_texts, labels=new_owners)
    contender = LdaContender(topics=NUM_TOPICS, passes=3)
    model = contender.fit(train, dev, num_classes=NUM_TOPICS, seed=3)
    logits = model.logits(new_texts)
    assert (logits.argmax(axis=1) == new_owners).mean() > 0.9
    again = contender.fit(train, dev, num_classes=NUM_TOPICS, seed=3).logits(new_texts)
    np.testing.assert_array_equal(logits, again)
    other = contender.fit(train, dev, num_classes=NUM_TOPICS, seed=4).logits(new_texts)
    assert np.abs(other - logits).max() > 0
    assert model.num_bytes > 4 * NUM_TOPICS * NUM_TOPICS * WORDS_A_TOPIC
