"""Texts with the tags of their words as features, which know the first piece of each word.

Shapes: W words of a row, P word pieces of a row (specials not counted).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from bertwright.config import require
from bertwright.data.encode import IGNORED, Features, RowEncoder, Target, require_rust_tokenizer

__all__ = ["TagEncoder"]

NO_PIECE = -1
"""Stands for the place of a word that has no piece."""
SPACE_MARKS = ("▁", "Ġ")
"""How vocabularies write a space; as a piece of its own it says nothing of the word."""


@dataclass(frozen=True)
class TagEncoder(RowEncoder):
    """The text of a row with a tag at the first piece of each word; long rows in windows.

    A row that is too long becomes several features, cut between words. Two that follow each other
    share `overlap_words` words, or half of a window where that is fewer; the first half of these
    belongs to the earlier window and the other half to the later, so that every word belongs to
    the window that shows most of what stands around it. Only a word that fills more than a window
    by itself is cut.

    A piece that stands for several words counts for the first of them. The others have no piece,
    like words of which the tokenizer leaves nothing.
    """

    overlap_words: int = 16

    def __post_init__(self) -> None:
        require(self.overlap_words >= 0, "overlap_words", self.overlap_words, "at least 0")

    @property
    def key(self) -> str:
        """Names it and its options."""
        return f"tags of chains, overlap_words={self.overlap_words}"

    @property
    def targets(self) -> Mapping[str, Target]:
        """What a loss needs.

        `labels`: the tag at the first piece of each word that the feature owns, else -100.
        `before`: the tag of the word before these, -100 where they are the row's first.
        `goes_on`: 1 where words of the row follow them, else 0.
        """
        return {
            "labels": Target(pa.list_(pa.int64()), pad=IGNORED, width="tokens"),
            "before": Target(pa.int64()),
            "goes_on": Target(pa.int64()),
        }

    @property
    def extras(self) -> Mapping[str, pa.DataType]:
        """`word_piece`: where the first piece of each owned word is, -1 where it has none."""
        return {"word_piece": pa.list_(pa.int32())}

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
        """
        backend = require_rust_tokenizer(tokenizer)
        frame = _Frame.of(backend, max_length)
        made: list[_Feature] = []
        starts, ends = rows["word_start"], rows["word_end"]
        for row, encoding in enumerate(backend.encode_batch(list(rows["text"]))):
            pieces = _Pieces.of(encoding, frame, starts[row], ends[row])
            windows = _windows(pieces.bounds, pieces.count, frame.room, self.overlap_words)
            ids, types = encoding.ids, encoding.type_ids
            for window in windows:
                made.append(
                    _Feature(
                        row=row,
                        window=window,
                        ids=frame.cut(ids, window),
                        types=frame.cut(types, window) if token_types else [],
                        places=_places(pieces.first, window, frame),
                    )
                )
        specials = frame.before + frame.after
        lengths = [feature.window.end - feature.window.begin + specials for feature in made]
        fields: dict[str, list[Any]] = {"word_piece": [feature.places for feature in made]}
        tags = rows.get("tags")
        if tags is not None:
            fields["labels"] = [_labels(feature, tags[feature.row]) for feature in made]
            fields["before"] = [_tag_before(feature, tags[feature.row]) for feature in made]
            fields["goes_on"] = [int(f.window.own_end < len(tags[f.row])) for f in made]
        return Features(
            input_ids=[feature.ids for feature in made],
            token_type_ids=[feature.types for feature in made] if token_types else None,
            lengths=np.asarray(lengths, dtype=np.int64),
            sources=[feature.row for feature in made],
            fields=fields,
        )


class _Window(NamedTuple):
    """Pieces `begin` to `end` of a row, and the words `own` to `own_end` that belong to them."""

    begin: int
    end: int
    own: int
    own_end: int


class _Feature(NamedTuple):
    """A window of a row: its token ids and types, and where its words' first pieces are."""

    row: int
    window: _Window
    ids: list[int]
    types: list[int]
    places: list[int]


class _Frame(NamedTuple):
    """How a tokenizer frames a text.

    Attributes:
        before: specials before the text.
        after: specials after it.
        room: pieces of the text that fit between them.
        marks: ids of the marks of a space.
    """

    before: int
    after: int
    room: int
    marks: list[int]

    @classmethod
    def of(cls, backend: Any, max_length: int) -> _Frame:
        special = backend.encode("a").special_tokens_mask
        before = special.index(0)
        found = (backend.token_to_id(mark) for mark in SPACE_MARKS)
        return cls(
            before=before,
            after=sum(special) - before,
            room=max_length - sum(special),
            marks=[mark for mark in found if mark is not None],
        )

    def cut(self, values: list[int], window: _Window) -> list[int]:
        """Return those of the specials and of a window's pieces, as many as there is room for."""
        begin = self.before + window.begin
        end = self.before + min(window.end, window.begin + self.room)
        return values[: self.before] + values[begin:end] + values[len(values) - self.after :]


class _Pieces(NamedTuple):
    """Which pieces of a row stand for which word.

    Attributes:
        first: the first piece of each word, [W]; -1 for a word without one.
        bounds: pieces bounds[w] to bounds[w + 1] go with word w, [W + 1], rising.
        count: P.
    """

    first: np.ndarray
    bounds: list[int]
    count: int

    @classmethod
    def of(
        cls, encoding: Any, frame: _Frame, word_start: Sequence[int], word_end: Sequence[int]
    ) -> _Pieces:
        """Match pieces and words by their offsets.

        A piece stands for the first word it shares a character with (a piece of white space for
        none); it may begin in the white space before. Pieces that stand for none go with the word
        before them.
        """
        inner = slice(frame.before, len(encoding) - frame.after)
        begin, end = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)[inner].T
        num_words, count = len(word_start), len(begin)
        if num_words == 0:
            return cls(np.zeros(0, dtype=np.int64), [0], count)
        word = np.searchsorted(np.asarray(word_end), begin, side="right")
        known = np.minimum(word, num_words - 1)
        stands = (word < num_words) & (begin < end) & (np.asarray(word_start)[known] < end)
        word = np.maximum.accumulate(np.where(stands, word, 0))
        standing = np.flatnonzero(stands)
        words, places = np.unique(word[standing], return_index=True)
        first = np.full(num_words, NO_PIECE)
        first[words] = standing[places]
        ids = np.asarray(encoding.ids)[inner]
        for mark in frame.marks:
            _skip_marks(first, words, ids == mark, stands, word, begin)
        bounds = np.searchsorted(word, np.arange(num_words)).tolist()
        return cls(first, [*bounds, count], count)


def _skip_marks(
    first: np.ndarray,
    words: np.ndarray,
    is_mark: np.ndarray,
    stands: np.ndarray,
    word: np.ndarray,
    begin: np.ndarray,
) -> None:
    """Move words whose first piece is a bare mark of the space before them to the next piece.

    Some tokenizers put such a mark before a text or a word that has no space there, and say that
    it stands at the word's first character.
    """
    piece = first[words]
    following = np.minimum(piece + 1, len(begin) - 1)
    same = stands[following] & (word[following] == words) & (begin[following] == begin[piece])
    first[words] = np.where(is_mark[piece] & same, following, piece)


def _windows(bounds: Sequence[int], count: int, room: int, overlap_words: int) -> Iterator[_Window]:
    """Yield the windows of a row, each of at most `room` pieces unless it has but one word.

    Args:
        bounds: pieces bounds[w] to bounds[w + 1] go with word w, [W + 1].
        count: P.
        room: most pieces of a window.
        overlap_words: most words that two windows share.
    """
    num_words = len(bounds) - 1
    if count <= room or num_words < 2:
        yield _Window(0, count, 0, num_words)
        return
    begin, own = 0, 0
    while True:
        one_word = bounds[bisect_right(bounds, bounds[begin])]
        end = bisect_right(bounds, max(bounds[begin] + room, one_word)) - 1
        if end == num_words:
            yield _Window(bounds[begin], count, own, num_words)
            return
        shared = min(overlap_words, (end - begin) // 2)
        fits_another = bisect_left(bounds, bounds[end + 1] - room)
        following = min(end, max(end - shared, fits_another))
        middle = (following + end) // 2
        yield _Window(bounds[begin], bounds[end], own, middle)
        begin, own = following, middle


def _places(first: np.ndarray, window: _Window, frame: _Frame) -> list[int]:
    """Return where the first piece of each owned word is in the feature, -1 where nowhere."""
    first = first[window.own : window.own_end]
    seen = (first != NO_PIECE) & (first < window.begin + frame.room)
    return np.where(seen, first - window.begin + frame.before, NO_PIECE).tolist()


def _labels(feature: _Feature, tags: Sequence[int]) -> list[int]:
    labels = [IGNORED] * len(feature.ids)
    own = tags[feature.window.own : feature.window.own_end]
    for place, tag in zip(feature.places, own, strict=True):
        if place != NO_PIECE:
            labels[place] = tag
    return labels


def _tag_before(feature: _Feature, tags: Sequence[int]) -> int:
    return tags[feature.window.own - 1] if feature.window.own else IGNORED
