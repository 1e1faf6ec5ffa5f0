"""Words in their texts as features, which know the pieces of the word.

Shapes: L tokens of a feature.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from bertwright.data.encode import IGNORED, Features, RowEncoder, Target, require_rust_tokenizer
from bertwright.errors import DataError
from bertwright.tasks.span_windows import visible_offsets
from bertwright.tasks.tag_pieces import SPACE_MARKS

__all__ = ["SenseEncoder", "share_room", "window_around", "word_pieces"]

SIDES = ("", "_b")
"""What the columns of the two texts of a pair end with."""


@dataclass(frozen=True)
class SenseEncoder(RowEncoder):
    """A row as one feature, its text or its pair of texts; or each text a feature of its own.

    A text that is too long is cut around its word, with as much on both sides as fits; of a pair
    each text gets half of the room, and what the other does not need. The word itself is cut only
    where it does not fit.

    The pieces of the word are those that stand for a character of it, so a piece that covers more
    than the word is one of them. A bare mark of the space before the word is none. A word of which
    the tokenizer leaves nothing has the piece before it; where there is none either, the word has
    no piece (with `strict` that is an error, where the row has a label).
    """

    apart: bool = False
    """Each text is a feature; of a pair they go together, the first text first."""
    strict: bool = False

    @property
    def key(self) -> str:
        """Names it and its options."""
        return f"senses apart={self.apart} strict={self.strict}"

    @property
    def targets(self) -> Mapping[str, Target]:
        """`labels`: the label at each piece of the word, else -100; `weights` of a mean, [L].

        The weighted sum of outputs is the mean over the pieces of the word, of a pair the mean of
        the two words' means. No piece, no weight.
        """
        return {
            "labels": Target(pa.list_(pa.int64()), pad=IGNORED, width="tokens"),
            "weights": Target(pa.list_(pa.float32()), pad=0.0, width="tokens"),
        }

    @property
    def extras(self) -> Mapping[str, pa.DataType]:
        """`pieces`: where the word's pieces are; `pieces_b`: those of the second word of a pair."""
        return {f"pieces{side}": pa.list_(pa.int32()) for side in SIDES}

    @property
    def together(self) -> bool:
        """Say whether a row may have two features, which have to be in one batch."""
        return self.apart

    def makes_pairs(self, columns: Collection[str]) -> bool:
        """Say whether a feature has two texts."""
        return "text_b" in columns and not self.apart

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Mapping[str, Sequence[Any]],
        *,
        max_length: int,
        token_types: bool,
    ) -> Features:
        """Return the features of each row in order; see the class.

        Raises:
            ModelLoadError: the tokenizer cannot say where its tokens stand in a text.
            DataError: `strict`, and the tokenizer leaves nothing of a word with a label.
        """
        backend = require_rust_tokenizer(tokenizer)
        found = (backend.token_to_id(mark) for mark in SPACE_MARKS)
        marks = [mark for mark in found if mark is not None]
        asked = list(self._asked(rows))
        labels = rows.get("label")
        made = []
        inputs = [_texts(words) for _, words in asked]
        for encoding, (row, words) in zip(backend.encode_batch(inputs), asked, strict=True):
            feature = _Feature.of(encoding, words, marks, max_length)
            if self.strict and labels is not None:
                _require_pieces(feature, words, rows["row"][row] if "row" in rows else row)
            made.append(feature)
        sources = [row for row, _ in asked]
        fields: dict[str, list[Any]] = {
            f"pieces{side}": [feature.pieces[place] for feature in made]
            for place, side in enumerate(SIDES)
            if made and place < len(made[0].pieces)
        }
        if labels is not None:
            fields["labels"] = [f.labels(labels[row]) for row, f in zip(sources, made, strict=True)]
            fields["weights"] = [feature.weights() for feature in made]
        return Features(
            input_ids=[feature.ids for feature in made],
            token_type_ids=[feature.types for feature in made] if token_types else None,
            lengths=np.array([feature.length for feature in made], dtype=np.int64),
            sources=sources,
            fields=fields,
        )

    def _asked(self, rows: Mapping[str, Sequence[Any]]) -> Iterable[tuple[int, list[_Word]]]:
        """Yield the row and the words of each feature."""
        columns = [
            [rows[f"{name}{side}"] for name in ("text", "start", "end")]
            for side in SIDES
            if f"text{side}" in rows
        ]
        for row in range(len(rows["text"])):
            words = [_Word(*(column[row] for column in of_side)) for of_side in columns]
            for part in [[word] for word in words] if self.apart else [words]:
                yield row, part


class _Word(NamedTuple):
    """A text, and where its word stands."""

    text: str
    start: int
    end: int


def _texts(words: Sequence[_Word]) -> str | tuple[str, str]:
    return words[0].text if len(words) == 1 else (words[0].text, words[1].text)


def _require_pieces(feature: _Feature, words: Sequence[_Word], row: int) -> None:
    for pieces, word in zip(feature.pieces, words, strict=True):
        if not pieces:
            raise DataError(
                f"row {row}: the tokenizer leaves nothing of the word "
                f"{word.text[word.start : word.end]!r}",
                hint="correct its place, or leave the row out",
            )


class _Feature(NamedTuple):
    """A feature: its token ids and types, and where the pieces of each word are.

    `length` are its tokens before it was cut.
    """

    ids: list[int]
    types: list[int]
    pieces: list[list[int]]
    length: int

    @classmethod
    def of(
        cls, encoding: Any, words: Sequence[_Word], marks: Sequence[int], max_length: int
    ) -> _Feature:
        """Make it of what the tokenizer made of the text, or the pair of texts."""
        ids, types = np.asarray(encoding.ids), np.asarray(encoding.type_ids)
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        sides = np.array([-1 if side is None else side for side in encoding.sequence_ids])
        places = [np.flatnonzero(sides == side) for side in range(len(words))]
        inner = [
            word_pieces(word, offsets[place], np.isin(ids[place], marks))
            for word, place in zip(words, places, strict=True)
        ]
        if len(ids) > max_length:
            kept = sides < 0
            counts = [len(place) for place in places]
            spans = [(int(p[0]), int(p[-1]) + 1) if len(p) else (0, 0) for p in inner]
            rooms = share_room(counts, [b - a for a, b in spans], max_length - int(kept.sum()))
            for place, span, room in zip(places, spans, rooms, strict=True):
                begin, end = window_around(span, len(place), room)
                kept[place[begin:end]] = True
        else:
            kept = np.ones(len(ids), dtype=bool)
        moved = np.cumsum(kept) - 1
        of_words = [place[pieces] for place, pieces in zip(places, inner, strict=True)]
        return cls(
            ids=ids[kept].tolist(),
            types=types[kept].tolist(),
            pieces=[moved[pieces[kept[pieces]]].tolist() for pieces in of_words],
            length=len(ids),
        )

    def labels(self, label: int) -> np.ndarray:
        """Return the label at the words' pieces, else -100, [L]."""
        values = np.full(len(self.ids), IGNORED, dtype=np.int64)
        for pieces in self.pieces:
            values[pieces] = label
        return values

    def weights(self) -> np.ndarray:
        """Return the share of each token in the mean of the words' means, [L]."""
        values = np.zeros(len(self.ids), dtype=np.float32)
        held = [pieces for pieces in self.pieces if pieces]
        for pieces in held:
            values[pieces] = 1 / (len(pieces) * len(held))
        return values


def word_pieces(word: _Word, offsets: np.ndarray, is_mark: np.ndarray) -> np.ndarray:
    """Return which pieces of a text stand for its word, rising; see `SenseEncoder`.

    Args:
        word: text, start and end.
        offsets: the characters of each piece as the tokenizer has them, [P,2].
        is_mark: whether a piece is but the mark of a space, bool [P].
    """
    starts, ends = visible_offsets(word.text, offsets)  # type: ignore[arg-type]
    covers = (starts < word.end) & (ends > word.start)
    if (covers & ~is_mark).any():
        covers &= ~is_mark
    if covers.any():
        return np.flatnonzero(covers)
    before = np.flatnonzero((starts >= 0) & (ends <= word.start) & ~is_mark)
    return before[-1:]


def share_room(counts: Sequence[int], spans: Sequence[int], room: int) -> list[int]:
    """Return how many of its pieces each text keeps: as many as there is room for, in all.

    Of two texts each gets half, and what the other does not need; before that, what its word
    needs.

    Args:
        counts: the pieces of each text, one or two.
        spans: how many of them the word takes, from its first to its last.
        room: at least one a text.
    """
    if len(counts) == 1:
        return [min(counts[0], room)]
    half = room // 2
    least_b = spans[1] if sum(spans) <= room else min(spans[1], max(half, room - spans[0]))
    least_a = min(spans[0], room - least_b)
    first = max(min(counts[0], max(half, room - counts[1])), least_a)
    first = min(first, room - least_b)
    return [first, min(counts[1], room - first)]


def window_around(span: tuple[int, int], count: int, room: int) -> tuple[int, int]:
    """Return the first piece to keep and the one after the last, at most `room`.

    The pieces of the span are in the middle, but where the text ends before. Of a span that does
    not fit its first pieces are kept.

    Args:
        span: the word's first piece and the one after its last.
        count: the pieces of the text.
        room: how many may be kept.
    """
    begin, end = span
    around = max(room - (end - begin), 0)
    first = max(min(begin - around // 2, count - room), 0)
    return first, min(first + room, count)
