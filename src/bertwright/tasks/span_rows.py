"""Rows of questions about a text whose answers stand in it.

Offsets count characters of the context.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from bertwright.data.schema import Column, RowSchema, read_text
from bertwright.errors import DataError, EmptyTextError, FileFormatError

__all__ = ["SPAN_SCHEMA", "read_answers"]

_FORM = 'give a list of {"text", "answer_start"}; an empty list where there is no answer'
_SKIP = "or leave such rows out with --on-bad-row skip"
_SHOWN = 60


def read_answers(value: object, column: str) -> list[tuple[str, int]]:
    """Return the answers of a question as (text, first character); none where there is no answer.

    They are a list of `{"text", "answer_start"}`, or `{"text": [...], "answer_start": [...]}`;
    `start` is read as `answer_start`. Nothing at all and empty lists mean that there is no answer.

    Raises:
        EmptyTextError: an answer is empty.
        DataError: the first character of one is no whole number.
        FileFormatError: the value has another form.
    """
    if value is None:
        return []
    if isinstance(value, Mapping):
        return _read_columns(value, column)
    if not isinstance(value, list):
        raise FileFormatError(f"{column} is not a list but {type(value).__name__}", hint=_FORM)
    answers = []
    for item in value:
        if not isinstance(item, Mapping):
            raise FileFormatError(
                f"{column} holds {type(item).__name__} in place of an answer", hint=_FORM
            )
        answers.append((_member(item, "text", column), _member(item, "answer_start", column)))
    return [_read_answer(text, start, column) for text, start in answers]


def _read_columns(value: Mapping[str, Any], column: str) -> list[tuple[str, int]]:
    texts, starts = _member(value, "text", column), _member(value, "answer_start", column)
    if not isinstance(texts, list) or not isinstance(starts, list):
        raise FileFormatError(f"{column} has text and answer_start that are no lists", hint=_FORM)
    if len(texts) != len(starts):
        raise FileFormatError(
            f"{column} has {len(texts)} texts, but {len(starts)} answer_starts",
            hint=f"give each answer a text and an answer_start, {_SKIP}",
        )
    return [_read_answer(text, start, column) for text, start in zip(texts, starts, strict=True)]


def _member(item: Mapping[str, Any], name: str, column: str) -> Any:
    if name not in item and name == "answer_start":
        name = "start"
    if name not in item:
        what = "answer_start" if name == "start" else name
        raise FileFormatError(f"{column} has an answer without {what}", hint=_FORM)
    return item[name]


def _read_answer(text: object, start: object, column: str) -> tuple[str, int]:
    try:
        answer = read_text(text, "an answer's text")
    except EmptyTextError as error:
        raise EmptyTextError(
            error.message, hint="a question without an answer has an empty list of answers"
        ) from None
    if isinstance(start, bool) or not isinstance(start, int | np.integer):
        raise DataError(
            f"{column} has the answer_start {start!r}, which is not a whole number",
            hint="it counts the characters of the context before the answer",
        )
    return answer, int(start)


def _build(values: Mapping[str, Any]) -> dict[str, Any]:
    stored = {"question": values["question"], "context": values["context"]}
    if "answers" in values:
        for text, start in values["answers"]:
            _check_place(stored["context"], text, start)
        stored["answer_text"] = [text for text, _ in values["answers"]]
        stored["answer_start"] = [start for _, start in values["answers"]]
    return stored


def _check_place(context: str, text: str, start: int) -> None:
    """Raise unless the answer stands in the context where it is said to."""
    if not 0 <= start < len(context):
        raise DataError(
            f"answer_start {start} lies outside of the context of {len(context)} characters",
            hint=_elsewhere(context, text),
        )
    there = context[start : start + len(text)]
    if there != text:
        raise DataError(
            f"the answer {_short(text)} does not stand at {start}; {_short(there)} does",
            hint=_elsewhere(context, text),
        )


def _elsewhere(context: str, text: str) -> str:
    places: list[str] = []
    place = context.find(text)
    while place >= 0 and len(places) < 3:
        places.append(str(place))
        place = context.find(text, place + 1)
    if not places:
        return f"it stands nowhere in the context: correct it, {_SKIP}"
    more = ", ..." if place >= 0 else ""
    return f"it stands at {', '.join(places)}{more}: correct answer_start, {_SKIP}"


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


SPAN_SCHEMA = RowSchema(
    columns=(
        Column(role="question", noun="question", read=read_text, aliases=("query",)),
        Column(
            role="context",
            noun="context",
            read=read_text,
            aliases=("passage", "paragraph", "document"),
        ),
        Column(role="answers", noun="answer list", read=read_answers, target=True),
    ),
    stored={
        "question": pa.string(),
        "context": pa.string(),
        "answer_text": pa.list_(pa.string()),
        "answer_start": pa.list_(pa.int32()),
    },
    build=_build,
)
"""A question, a context, and answers that stand in the context."""
