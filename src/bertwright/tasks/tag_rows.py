"""The rows of tagging, given as tokens with tags or as a text with spans, and their features.

Both are stored alike: a text, where its words stand, and the IOB2 tag of each word.

Shapes: W words of a row, P word pieces of a row (specials not counted).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from bertwright.config import require
from bertwright.data.encode import Features, Target
from bertwright.data.labels import LabelSet
from bertwright.data.schema import TEXT, Column, RowSchema, read_label, read_text
from bertwright.data.words import join_words, split_words
from bertwright.errors import (
    DataError,
    EmptyTextError,
    FileFormatError,
    MissingColumnError,
    ModelLoadError,
    UnknownLabelError,
)
from bertwright.tasks.metrics import iob2_problem, tags_of

__all__ = ["TAG_SCHEMA", "TagEncoder", "order_labels", "read_spans", "read_tags", "read_tokens"]

IGNORED = -100
"""Stands where a token has no tag."""
NO_PIECE = -1
"""Stands for the place of a word that has no piece."""
SPACE_MARKS = ("▁", "Ġ")
"""How vocabularies write a space; as a piece of its own it says nothing of the word."""

_FORMS = "a row has tokens with tags, or a text with spans"
_SPAN_FORM = 'give a list of {"start", "end", "label"}; an empty list where there are none'
_OFFSETS = "start and end count characters from 0 (not bytes); end is the one after the last"
_SHOWN = 60


# ---- rows --------------------------------------------------------------------------------------


def read_tokens(value: object, column: str) -> list[str] | None:
    """Return the tokens of a row; None where the row has none because it has a text.

    Raises:
        FileFormatError: it is no list of strings.
        EmptyTextError: the list or one of its tokens is empty.
    """
    if value is None:
        return None
    if not isinstance(value, list):
        raise FileFormatError(
            f"{column} is not a list of tokens but {type(value).__name__}",
            hint="a whole text goes into the text column",
        )
    if not value:
        raise EmptyTextError(
            f"{column} is an empty list", hint="leave such rows out with --on-bad-row skip"
        )
    for index, token in enumerate(value):
        if not isinstance(token, str):
            raise FileFormatError(
                f"the token at index {index} is not text but {type(token).__name__}"
            )
        if not token:
            raise EmptyTextError(
                f"the token at index {index} is empty", hint="leave it out, and its tag"
            )
    return value


def read_tags(value: object, column: str) -> list[str] | None:
    """Return the names of the tags of a row; None where the row has none.

    Raises:
        FileFormatError: it is no list.
        UnknownLabelError: a tag is no name.
    """
    if value is None:
        return None
    if not isinstance(value, list):
        raise FileFormatError(
            f"{column} is not a list of tags but {type(value).__name__}",
            hint="give each token a tag",
        )
    for index, tag in enumerate(value):
        if not isinstance(tag, str) or not tag.strip():
            raise UnknownLabelError(
                f"the tag at index {index} is {tag!r}, not the name of a tag",
                hint="name the tags: O, B-PER, I-PER (numbers are read where a table declares "
                "their names)",
            )
    return [read_label(tag, column) for tag in value]


class _Given(NamedTuple):
    """A span as a row has it: offsets of characters, end exclusive."""

    start: int
    end: int
    label: str


def read_spans(value: object, column: str) -> list[_Given] | None:
    """Return the spans of a row as (start, end, label); None where the row has none.

    Raises:
        FileFormatError: it is no list of objects with start, end, and label or type.
        DataError: a start or an end is no integer.
        UnknownLabelError: a span has no label.
    """
    if value is None:
        return None
    if not isinstance(value, list):
        raise FileFormatError(
            f"{column} is not a list of spans but {type(value).__name__}", hint=_SPAN_FORM
        )
    return [_read_span(item, f"the span at index {i}", column) for i, item in enumerate(value)]


def _read_span(item: object, what: str, column: str) -> _Given:
    if not isinstance(item, Mapping):
        raise FileFormatError(f"{what} is not an object but {type(item).__name__}", hint=_SPAN_FORM)
    names = [name for name in ("label", "type") if name in item]
    needed = ("start", "end", *(names or ("label",)))
    missing = [name for name in needed if name not in item]
    if missing:
        raise FileFormatError(f"{what} has no {missing[0]}", hint=_SPAN_FORM)
    if len(names) > 1:
        raise FileFormatError(f"{what} has both a label and a type", hint="keep one of them")
    unknown = [name for name in item if name not in needed]
    if unknown:
        raise FileFormatError(f"{what} has an unknown field {unknown[0]!r}", hint=_SPAN_FORM)
    for name in ("start", "end"):
        if isinstance(item[name], bool) or not isinstance(item[name], int):
            raise DataError(f"{what} has the {name} {item[name]!r}, no integer", hint=_OFFSETS)
    try:
        label = read_label(item[names[0]], column)
    except UnknownLabelError as error:
        raise UnknownLabelError(f"{what}: {error.message}", hint="give it a label") from None
    return _Given(item["start"], item["end"], label)


def _read_text(value: object, column: str) -> str | None:
    return None if value is None else read_text(value, column)


def _build(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored fields of a row of either form."""
    tokens, text = values.get("tokens"), values.get("text")
    if tokens is not None and text is not None:
        raise DataError("has both tokens and a text", hint=f"keep one of them: {_FORMS}")
    if tokens is not None:
        text, words = join_words(tokens)
        read_text(text, "tokens")
    elif text is not None:
        words = split_words(text)
    else:
        raise _no_input(values)
    if not words:
        raise EmptyTextError("text has no words", hint="leave it out with --on-bad-row skip")
    stored = {
        "text": text,
        "word_start": [start for start, _ in words],
        "word_end": [end for _, end in words],
    }
    if "tags" in values or "spans" in values:
        _check_target(values, "tags" if tokens is not None else "spans")
        if tokens is not None:
            _check_tags(values["tags"], tokens)
            stored["tags"] = values["tags"]
        else:
            stored["tags"] = _tags_of_spans(values["spans"], text, words)
    return stored


def _no_input(values: Mapping[str, Any]) -> DataError:
    if "tokens" in values or "text" in values:
        return EmptyTextError("tokens and text are empty", hint=_FORMS)
    return MissingColumnError(
        "has neither tokens nor a text",
        hint="name the column with --tokens-column or --text-column, or call it so",
    )


def _check_target(values: Mapping[str, Any], wanted: str) -> None:
    """Raise unless the row has the target that goes with its input, and only that."""
    other = "spans" if wanted == "tags" else "tags"
    if values.get(other) is not None:
        owner = "a text" if other == "spans" else "tokens"
        raise DataError(f"has {other}, which go with {owner}", hint=_FORMS)
    if values.get(wanted) is None:
        raise UnknownLabelError(f"has no {wanted}", hint=_FORMS)


def _check_tags(tags: Sequence[str], tokens: Sequence[str]) -> None:
    """Raise unless there is a tag for each token and they are valid IOB2."""
    if len(tags) != len(tokens):
        raise DataError(
            f"has {len(tokens)} tokens, but {len(tags)} tags", hint="give each token one tag"
        )
    problem = iob2_problem(tags)
    if problem is not None:
        index, reason = problem
        raise DataError(
            f"the tag at index {index}, of {_shown(tokens[index])}: {reason}",
            hint=_scheme_hint(tags, tags[index]),
        )


def _scheme_hint(tags: Sequence[str], bad: str) -> str:
    """Say how to write what the tags look like as IOB2."""
    if any(tag.startswith(("S-", "E-", "U-", "L-", "M-")) for tag in tags):
        return "this looks like BIOES or BILOU: write S- and U- as B-, and E-, L- and M- as I-"
    if bad.startswith("I-"):
        return "this looks like IOB1: in IOB2 the first word of every span has B-"
    return "tags are O, B-TYPE at the first word of a span, and I-TYPE at its other words"


def _tags_of_spans(
    spans: Sequence[_Given], text: str, words: Sequence[tuple[int, int]]
) -> list[str]:
    """Return the IOB2 tags of the words that the spans cover."""
    starts, ends = [start for start, _ in words], [end for _, end in words]
    placed: list[tuple[str, int, int]] = []
    before: tuple[int, str] = (0, "")
    for index, span in sorted(enumerate(spans), key=lambda pair: pair[1]):
        what = f"the span at index {index}"
        _check_place(span, len(text), what)
        what += f", {_shown(text[span.start : span.end])},"
        if span.start < before[0]:
            raise DataError(f"{what} overlaps {before[1]}", hint="give each word one span at most")
        first, after = bisect_right(ends, span.start), bisect_left(starts, span.end)
        if first >= after:
            raise DataError(f"{what} holds no word", hint=_OFFSETS)
        for word in (first, after - 1):
            if starts[word] < span.start or span.end < ends[word]:
                whole = _shown(text[starts[word] : ends[word]])
                raise DataError(
                    f"{what} cuts the word {whole}",
                    hint="let spans begin and end where words do, or give tokens with tags",
                )
        placed.append((span.label, first, after))
        before = (span.end, what.rstrip(","))
    return tags_of(placed, len(words))


def _check_place(span: _Given, length: int, what: str) -> None:
    where = f"{what} ({span.start} to {span.end})"
    if span.start >= span.end:
        raise DataError(f"{where} is empty", hint=_OFFSETS)
    if span.start < 0 or span.end > length:
        raise DataError(f"{where} is outside the text of {length} characters", hint=_OFFSETS)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}...")


def order_labels(seen: Iterable[str]) -> LabelSet:
    """Return `O`, then `B-` and `I-` of every entity type, types in alphabetical order.

    Both are there even where the rows have only one of them.
    """
    types = sorted({tag.partition("-")[2] for tag in seen if tag != "O"})
    return LabelSet(("O", *(f"{prefix}-{type_}" for type_ in types for prefix in "BI")))


TAG_SCHEMA = RowSchema(
    columns=(
        Column(
            role="tokens", noun="token list", read=read_tokens, aliases=("words",), optional=True
        ),
        replace(TEXT, read=_read_text, optional=True),
        Column(
            role="tags",
            noun="tag list",
            read=read_tags,
            aliases=("ner_tags", "labels", "ner"),
            optional=True,
            target=True,
        ),
        Column(
            role="spans",
            noun="span list",
            read=read_spans,
            aliases=("entities", "annotations"),
            optional=True,
            target=True,
        ),
    ),
    stored={
        "text": pa.string(),
        "word_start": pa.list_(pa.int32()),
        "word_end": pa.list_(pa.int32()),
        "tags": pa.list_(pa.int64()),
    },
    label_fields=("tags",),
    build=_build,
    order_labels=order_labels,
)


# ---- features ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TagEncoder:
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
        return f"tags overlap_words={self.overlap_words}"

    @property
    def targets(self) -> Mapping[str, Target]:
        """`labels`: the tag at the first piece of each word that the feature owns, else -100."""
        return {"labels": Target(pa.list_(pa.int64()), pad=IGNORED, width="tokens")}

    @property
    def extras(self) -> Mapping[str, pa.DataType]:
        """`word_piece`: where the first piece of each owned word is, -1 where it has none."""
        return {"word_piece": pa.list_(pa.int32())}

    def makes_pairs(self, columns: Collection[str]) -> bool:
        """No: it is one text."""
        return False

    def least_length(self, tokenizer: PreTrainedTokenizerBase, *, pairs: bool) -> int:
        """Return the specials and a token of the text."""
        return tokenizer.num_special_tokens_to_add(pair=False) + 1

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
        backend = _backend(tokenizer)
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
        return Features(
            input_ids=[feature.ids for feature in made],
            token_type_ids=[feature.types for feature in made] if token_types else None,
            lengths=np.asarray(lengths, dtype=np.int64),
            sources=[feature.row for feature in made],
            fields=fields,
        )


def _backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the Rust tokenizer, which neither cuts nor pads from here on."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelLoadError(
            "the tokenizer cannot say where its tokens stand in a text",
            hint="give a model with a tokenizer.json",
        )
    backend.no_truncation()
    backend.no_padding()
    return backend


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
