"""Rows of a word in its context: a text and where the word stands in it, or two of them.

Offsets count characters of the text from 0, the end exclusive. A word that is given instead of
offsets stands in the text once, or the text has in its place the sign that dictionaries write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa

from bertwright.data.schema import LABEL, TEXT, TEXT_B, Column, RowSchema, read_text
from bertwright.data.words import split_words
from bertwright.errors import DataError, MissingColumnError

__all__ = ["SENSE_SCHEMA", "find_word", "read_offset", "read_word"]

SIGN = re.compile(r"～(?!(?<=\d～)\d)")
"""What dictionaries write in place of the word itself; between two digits it is a range."""

_OFFSETS = "start and end count characters from 0 (not bytes); end is the one after the last"
_SHOWN = 60


def read_offset(value: object, column: str) -> int | None:
    """Return the number of a character; None where the row has none.

    Tables may write it as text, or as 7.0.

    Raises:
        DataError: it is no whole number.
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]+\s*", value):
        return int(value)
    raise DataError(f"{column} is {value!r}, not a whole number", hint=_OFFSETS)


def read_word(value: object, column: str) -> str | None:
    """Return a word without the spaces around it; None where the row has none.

    Raises:
        FileFormatError: it is no text.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return read_text(value, column).strip()


class _Placed(NamedTuple):
    """A text and where its word stands."""

    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        return self.text[self.start : self.end]


def find_word(text: str, word: str, column: str = "text") -> _Placed:
    """Return the text and where its one `word` stands.

    Where the text has the sign `～` in place of the word, the word is put there, and the first of
    them is meant. Otherwise whole words come before parts of words, and what is spelt the same
    before what differs in capitals.

    Raises:
        DataError: the word stands nowhere in the text, or several times.
    """
    sign = SIGN.search(text)
    if sign is not None:
        text = SIGN.sub(lambda _: word, text)
        return _Placed(text, sign.start(), sign.start() + len(word))
    places = _occurrences(text, word)
    if len(places) == 1:
        return _Placed(text, places[0], places[0] + len(word))
    if not places:
        raise DataError(
            f"the word {_shown(word)} does not stand in {column}",
            hint="say with start and end where its form stands",
        )
    listed = ", ".join(map(str, places[:3])) + (", ..." if len(places) > 3 else "")
    raise DataError(
        f"the word {_shown(word)} stands {len(places)} times in {column}, at {listed}",
        hint="say with start and end which is meant",
    )


def _occurrences(text: str, word: str) -> list[int]:
    """Return the first characters of the word's occurrences of the best kind there is."""
    pattern = f"(?={re.escape(word)})"
    same, alike = (
        [match.start() for match in re.finditer(pattern, text, flags)]
        for flags in (re.NOFLAG, re.IGNORECASE)
    )
    words = split_words(text)
    starts, ends = {start for start, _ in words}, {end for _, end in words}

    def whole(places: Sequence[int]) -> list[int]:
        return [place for place in places if place in starts and place + len(word) in ends]

    return whole(same) or whole(alike) or same or alike


def _place(values: Mapping[str, Any], names: tuple[str, str, str], word: str | None) -> _Placed:
    """Return a text of a row with the place of its word.

    Args:
        values: of the row, by role.
        names: the roles of the text, the start and the end.
        word: to look for where there is no place.
    """
    text: str = values[names[0]]
    start, end = values.get(names[1]), values.get(names[2])
    if start is None and end is None:
        if word is None:
            raise MissingColumnError(
                f"has no {names[1]} and {names[2]}",
                hint=f"{_OFFSETS}. Or give the word itself as word, where it stands once in the "
                "text",
            )
        return find_word(text, word, names[0])
    if start is None or end is None:
        given, missing = names[1:] if end is None else names[:0:-1]
        raise MissingColumnError(f"has {given}, but no {missing}", hint=_OFFSETS)
    where = f"the word of {names[0]} ({names[1]} {start}, {names[2]} {end})"
    if start >= end:
        raise DataError(f"{where} is empty", hint=_OFFSETS)
    if start < 0 or end > len(text):
        raise DataError(f"{where} is outside the text of {len(text)} characters", hint=_OFFSETS)
    placed = _Placed(text, start, end)
    if placed.word.isspace():
        raise DataError(f"{where} covers only spaces", hint=_OFFSETS)
    return placed


def _build(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored fields: the texts, the places of the words, and the word's name."""
    given = values.get("word")
    first = _place(values, ("text", "start", "end"), given)
    word = first.word.strip().lower() if given is None else given
    stored = {**first._asdict(), "word": word}
    if "text_b" in values:
        second = _place(values, ("text_b", "start_b", "end_b"), given)
        stored |= {f"{name}_b": value for name, value in second._asdict().items()}
    elif values.get("start_b") is not None or values.get("end_b") is not None:
        raise MissingColumnError(
            "has start_b or end_b, but no second text",
            hint="name its column with --text-b-column, or call it text_b",
        )
    if "label" in values:
        stored["label"] = values["label"]
    return stored


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}...")


def _offset(role: str, noun: str, *aliases: str) -> Column:
    return Column(role=role, noun=noun, read=read_offset, aliases=aliases, optional=True)


SENSE_SCHEMA = RowSchema(
    columns=(
        TEXT,
        _offset("start", "start of the word", "start_a", "start1", "start_1", "word_start"),
        _offset("end", "end of the word", "end_a", "end1", "end_1", "word_end"),
        Column(
            role="word", noun="word", read=read_word, aliases=("lemma", "target"), optional=True
        ),
        TEXT_B,
        _offset("start_b", "start of the second word", "start2", "start_2"),
        _offset("end_b", "end of the second word", "end2", "end_2"),
        replace(LABEL, aliases=("labels", "sense", "sense_id", "class")),
    ),
    stored={
        "text": pa.string(),
        "start": pa.int32(),
        "end": pa.int32(),
        "word": pa.string(),
        "text_b": pa.string(),
        "start_b": pa.int32(),
        "end_b": pa.int32(),
        "label": pa.int64(),
    },
    label_fields=("label",),
    open_labels=lambda fields: "text_b" not in fields,
    build=_build,
)
"""A word in a text, or in two, and its sense, or whether the two are the same."""
