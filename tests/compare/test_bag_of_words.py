"""Referees: scikit-learn's own pipeline and its probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from bertwright.compare.bag_of_words import TfidfContender, are_unspaced, fit_logistic
from bertwright.compare.contender import LabelledTexts
from bertwright.errors import ConfigError
from compare_texts import keyed_texts, ordered_texts


def right_share(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


@pytest.mark.parametrize("num_classes", [2, 5])
def test_it_is_scikit_learns_own_logistic_regression(num_classes):
    train, dev = keyed_texts(120, num_classes, 0), keyed_texts(60, num_classes, 1)
    vectorizer = TfidfVectorizer()
    x, y = vectorizer.fit_transform(train.texts), vectorizer.transform(dev.texts)
    linear, strength = fit_logistic(
        x, train.labels, y, dev.labels, num_classes=num_classes, strengths=(2.0,)
    )
    own = LogisticRegression(C=2.0, tol=2e-5).fit(x, train.labels)
    ours = log_softmax(linear.logits(y), axis=1)
    assert strength == 2.0 and ours.std() > 0.1
    np.testing.assert_allclose(ours, own.predict_log_proba(y), atol=2e-3)


def test_the_strength_is_chosen_on_dev():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 30)).astype(np.float32)
    labels = (features[:, 0] + rng.normal(size=40) > 0).astype(np.int64)
    dev = rng.normal(size=(400, 30)).astype(np.float32)
    dev_labels = (dev[:, 0] > 0).astype(np.int64)
    grid = (1e-3, 1e-1, 1e3)

    def score(strengths: tuple[float, ...]) -> tuple[float, float]:
        linear, chosen = fit_logistic(
            features, labels, dev, dev_labels, num_classes=2, strengths=strengths
        )
        return right_share(linear.logits(dev), dev_labels), chosen

    alone = {strength: score((strength,))[0] for strength in grid}
    best, chosen = score(grid)
    assert len(set(alone.values())) > 1
    assert chosen == max(alone, key=lambda strength: alone[strength])
    assert best == pytest.approx(max(alone.values()), abs=0.02)


def test_classes_without_rows_are_never_chosen():
    train = keyed_texts(60, 3, 0)
    model = TfidfContender().fit(train, train, num_classes=6, seed=0)
    logits = model.logits(train.texts)
    assert logits.shape == (60, 6) and logits.dtype == np.float32
    assert right_share(logits, train.labels) == 1 and logits[:, 3:].max() < -50
    only = LabelledTexts(texts=["a b", "b c"], labels=np.array([2, 2]))
    assert TfidfContender().fit(only, only, num_classes=4, seed=0).logits(["x"]).argmax() == 2


def test_pairs_of_words_tell_what_words_do_not():
    train, test = ordered_texts(200, 0), ordered_texts(100, 1)
    scores = [
        right_share(
            TfidfContender(words=words).fit(train, test, num_classes=2, seed=0).logits(test.texts),
            test.labels,
        )
        for words in (1, 2)
    ]
    assert scores[0] < 0.7 and scores[1] > 0.95


def test_chinese_is_counted_by_characters():
    train = LabelledTexts(
        texts=["酒店很好", "房间很好", "酒店不好", "房间不好"] * 5,
        labels=np.array([1, 1, 0, 0] * 5),
    )
    model = TfidfContender().fit(train, train, num_classes=2, seed=0)
    assert "很好" in model.vectorizer.vocabulary_
    assert model.logits(["早餐很好", "早餐不好"]).argmax(axis=1).tolist() == [1, 0]
    assert are_unspaced(["酒店 very nice"]) is False and are_unspaced(["ホテルはgood"]) is True
    assert are_unspaced(["a house", "ein Haus"]) is False


def test_rare_words_are_kept_unless_weights_are_many_or_it_is_asked_for():
    texts = ["often " + word for word in "one two three four".split()]
    train = LabelledTexts(texts=texts, labels=np.array([0, 1, 0, 1]))
    all_words = TfidfContender(words=1).fit(train, train, num_classes=2, seed=0)
    assert len(all_words.vectorizer.vocabulary_) == 5
    for contender, num_classes in (
        (TfidfContender(words=1, min_rows=2), 2),
        (TfidfContender(words=1), 300_000),
    ):
        few = contender._vectorizer(texts, num_classes)
        assert list(few.vocabulary_) == ["often"]
    # weights 2 x 5 and biases 2, idf 5, and the words with an end each
    assert (
        all_words.num_bytes
        == 4 * (10 + 2 + 5) + sum(map(len, "often one two three four".split())) + 5
    )


def test_options_out_of_range():
    with pytest.raises(ConfigError, match="--words 0"):
        TfidfContender(words=0)
