"""The rows of tagging, given as tokens with tags or as a text with spans.

Both are stored alike: a text, where its words stand, and the IOB2 tag of each word.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa

from bertwright.data.labels import LabelSet
from bertwright.data.schema import TEXT, Column, RowSchema, read_label, read_text
from bertwright.data.words import join_words, split_words
from bertwright.errors import (
    DataError,
    EmptyTextError,
    FileFormatError,
    MissingColumnError,
    UnknownLabelError,
)
from bertwright.tasks.metrics import iob2_problem, tags_of

__all__ = ["TAG_SCHEMA", "order_labels", "read_spans", "read_tags", "read_tokens"]

_FORMS = "a row has tokens with tags, or a text with spans"
_SPAN_FORM = 'give a list of {"start", "end", "label"}; an empty list where there are none'
_OFFSETS = "start and end count characters from 0 (not bytes); end is the one after the last"
_SHOWN = 60


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
        hint="name the column with --column tokens=NAME or --text-column NAME, or call it so",
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
