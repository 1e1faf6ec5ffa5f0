"""Where the words of a text stand, and a text of given words.

Offsets count characters of the text as it is (Python's code points); nothing is normalised. Letters
without spaces between them are one word in every script but Chinese and Japanese, so a phrase of
Thai or Khmer is one word unless its words are given.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

__all__ = ["join_words", "split_words"]

_CJK = (
    "\u2e80-\u2fd5\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303b\u3041-\u3096\u309d-\u309f"
    "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d"
    "\U0001aff0-\U0001b16f\U00020000-\U0003fffd"
)
"""Han and kana, with their marks of repetition and length; no Hangul, no punctuation."""
_CJK_MARKS = (
    "\u3001-\u3004\u3008-\u3020\u302a-\u3030\u3036\u3037\u303c-\u303f\u3099-\u309c\u30a0\u30fb"
    "\ufe30-\ufe4f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uff9e\uff9f\uffe0-\uffe6"
)
"""Punctuation, symbols and voicing marks that stand beside these without a space."""

_SCRIPT = re.compile(f"[{_CJK}]")
_UNSPACED = re.compile(f"[{_CJK}{_CJK_MARKS}]")

_WORD = re.compile(
    r"""
      [am]+ (?: [jz]+ [am]+ )*                                        # letters, digits, their marks
    | c [mv]*                                                         # one character of CJK
    | (?: rr | [rst] ) m* t? m* f* (?: j [st] m* t? m* f* )*          # a symbol, a flag, an emoji
    | [pv] m*                                                         # a mark of punctuation
    """,
    re.VERBOSE,
)
"""Reads the kinds of the characters in place of the characters; see `_kind_of`."""


class _Kinds(dict[int, str]):
    """The kind of each character met so far, by code point; for `str.translate`."""

    def __missing__(self, code: int) -> str:
        kind = self[code] = _kind_of(chr(code))
        return kind


_KINDS = _Kinds()
_SPECIAL_KINDS = (
    ("\u200d", "\u200d", "j"),  # zero-width joiner
    ("\u200c", "\u200c", "z"),  # zero-width non-joiner
    ("\u00ad", "\u00ad", "z"),  # soft hyphen
    ("\uff9e", "\uff9f", "v"),  # half-width voicing marks
    ("\U0001f1e6", "\U0001f1ff", "r"),  # regional indicators
    ("\U0001f3fb", "\U0001f3ff", "t"),  # skin tones
    ("\U000e0020", "\U000e007f", "f"),  # tags that spell the flag of a region
)
_KIND_OF_CATEGORY = {"L": "a", "N": "a", "M": "m", "S": "s", "P": "p", "Z": " "}


def _kind_of(character: str) -> str:
    """Return one letter.

    Letter or digit a, mark m, CJK c, symbol s, punctuation p, and those of `_SPECIAL_KINDS`; a
    space for what is part of no word.
    """
    for first, last, kind in _SPECIAL_KINDS:
        if first <= character <= last:
            return kind
    if _SCRIPT.match(character):
        return "c"
    category = unicodedata.category(character)
    if character.isspace() or category in ("Cc", "Cf"):
        return " "
    return _KIND_OF_CATEGORY.get(category[0], "s")


def split_words(text: str) -> list[tuple[int, int]]:
    """Return where the words of a text begin and end (exclusive), in order.

    A word is

    - a run of letters, digits and combining marks (a zero-width joiner, a non-joiner or a soft
      hyphen between two of them is inside the word),
    - one Chinese character or one kana, with its marks,
    - any other symbol by itself, with its marks. An apostrophe, a hyphen and an underscore are
      words too: "don't" has three. An emoji is one word with its skin tone, variation selector and
      all that joiners join to it; so is a flag.

    White space and control characters (also invisible format characters, such as a byte order mark)
    are in no word; they end one.
    """
    return [match.span() for match in _WORD.finditer(text.translate(_KINDS))]


def join_words(words: Iterable[str]) -> tuple[str, list[tuple[int, int]]]:
    """Return one text of the words, and where each begins and ends (exclusive).

    A space stands between two words, but not between two characters of Chinese or Japanese,
    their punctuation included.

    Raises:
        ValueError: a word is empty.
    """
    parts: list[str] = []
    offsets: list[tuple[int, int]] = []
    position, previous = 0, ""
    for word in words:
        if not word:
            raise ValueError(f"word {len(offsets)} is empty")
        if previous and not (_UNSPACED.match(previous[-1]) and _UNSPACED.match(word[0])):
            parts.append(" ")
            position += 1
        parts.append(word)
        offsets.append((position, position + len(word)))
        position += len(word)
        previous = word
    return "".join(parts), offsets
