from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from bertwright.data.vary import CROP_WORDS_MAX, vary_text, words_of

NONE = {"replace": 0.0, "drop": 0.0, "crop": 0.0, "splice": 0.0}
WORDS = ["book", "me", "a", "table"]
OTHER = ["play", "some", "music", "now"]
NEAR = {"book": ["reserve", "order"], "table": ["desk"]}


def vary(seed: int = 0, words=WORDS, other=OTHER, near=NEAR, **shares: float) -> str:
    return vary_text(words, other, near, Random(seed), **(NONE | shares))


def test_words_are_those_of_the_text():
    assert words_of("Book me, please: 訂位") == ["Book", "me", ",", "please", ":", "訂", "位"]


def test_nothing_changes_at_probability_nought():
    assert vary() == "book me a table"


def test_only_words_with_neighbours_are_replaced_and_only_by_them():
    seen = {vary(seed, replace=1.0) for seed in range(20)}
    assert seen == {"reserve me a desk", "order me a desk"}
    assert vary(words=["BOOK", "it"], replace=1.0).split()[1] == "it"
    assert vary(words=["BOOK"], replace=1.0) in ("reserve", "order")


def test_every_share_is_the_probability_it_says():
    runs = 4000
    replaced = sum(vary(seed, replace=0.3).endswith("desk") for seed in range(runs))
    dropped = sum("a" not in vary(seed, drop=0.2).split() for seed in range(runs))
    for count, share in ((replaced, 0.3), (dropped, 0.2)):
        assert abs(count / runs - share) < 4 * (share * (1 - share) / runs) ** 0.5


def test_a_text_never_loses_all_its_words():
    assert vary(drop=1.0) == "book"
    assert vary(words=[], drop=1.0, crop=1.0, splice=1.0) == ""


def test_a_crop_is_a_run_of_words_in_their_order():
    words = [f"w{i}" for i in range(9)]
    lengths = Counter()
    for seed in range(300):
        run = vary(seed, words=words, crop=1.0).split()
        begin = words.index(run[0])
        assert run == words[begin : begin + len(run)]
        lengths[len(run)] += 1
    assert sorted(lengths) == list(range(1, CROP_WORDS_MAX + 1))
    assert min(lengths.values()) > 30, "each length is about as likely"


def test_a_splice_is_a_head_of_one_and_a_tail_of_the_other():
    seen = {vary(seed, splice=1.0) for seed in range(400)}
    heads = [WORDS[:n] for n in range(1, 5)]
    tails = [OTHER[n:] for n in range(4)]
    assert seen == {" ".join([*head, *tail]) for head in heads for tail in tails}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_state_gives_the_same_text(seed):
    shares = {"replace": 0.5, "drop": 0.3, "crop": 0.5, "splice": 0.5}
    assert vary(seed, **shares) == vary(seed, **shares)
    assert len({vary(s, **shares) for s in range(50)}) > 10
