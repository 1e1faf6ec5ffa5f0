"""Other texts made of given ones: words replaced by near words, dropped, cut out, spliced in.

What a variation means is for a teacher to say: it need not mean what the text meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from bertwright.data.words import join_words, split_words

__all__ = ["vary_text", "words_of"]

Neighbours = Mapping[str, Sequence[str]]


CROP_WORDS_MAX = 5


def words_of(text: str) -> list[str]:
    """Return the words of a text in order; see `data.words.split_words`."""
    return [text[begin:end] for begin, end in split_words(text)]


def vary_text(
    words: Sequence[str],
    other: Sequence[str],
    near: Neighbours,
    random: Random,
    *,
    replace: float,
    drop: float,
    crop: float,
    splice: float,
) -> str:
    """Return one variation of a text, with a space between words where their script has one.

    Splicing comes first, then each word is kept, replaced or dropped, then the text is cropped.
    A word without neighbours stays. At least one word is left, unless there was none.

    Args:
        words: those of the text.
        other: those of another text, to splice in.
        near: words that may stand in the place of a word, by its lower-case form.
        random: drawn from; the same state gives the same text.
        replace: probability that a word gives way to one that is near it.
        drop: that a word is left out.
        crop: that only a run of the text's words is left, one to five.
        splice: that the text ends where a word is drawn, and the other goes on from such a place.

    Source: replacing Jiao et al. 2020 (TinyBERT); dropping and runs of words Tang et al. 2019,
    arXiv:1903.12136.
    """
    varied = list(words)
    if random.random() < splice and varied and other:
        head = varied[: random.randint(1, len(varied))]
        varied = head + list(other)[random.randrange(len(other)) :]
    varied = [_vary_word(word, near, replace, random) for word in varied]
    kept = [word for word in varied if random.random() >= drop]
    varied = kept or varied[:1]
    if random.random() < crop and varied:
        length = min(random.randint(1, CROP_WORDS_MAX), len(varied))
        begin = random.randint(0, len(varied) - length)
        varied = varied[begin : begin + length]
    return join_words(varied)[0]


def _vary_word(word: str, near: Neighbours, share: float, random: Random) -> str:
    choices = near.get(word.lower())
    if not choices or random.random() >= share:
        return word
    return random.choice(choices)
