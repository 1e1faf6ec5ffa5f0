from __future__ import annotations

import json

import numpy as np
import pytest

from bertwright.data.batching import collate
from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.errors import DataError, EmptyTextError, FileFormatError, MissingColumnError
from bertwright.tasks.span_rows import SPAN_SCHEMA, read_answers
from bertwright.tasks.span_windows import SpanEncoder
from span_inputs import CONTEXT, GOOD, with_answers
from tiny import tiny_tokenizer


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_forms_of_answers_give_the_same_rows(tmp_path):
    film = [{"text": "film", "answer_start": 6}, {"text": "good film", "answer_start": 16}]
    sources = [
        with_answers(film),
        with_answers([{"text": a["text"], "start": a["answer_start"], "id": 3} for a in film]),
        with_answers({"text": ["film", "good film"], "answer_start": [6, 16]}),
        with_answers({"text": ["film", "good film"], "start": [6, 16]}),
        *(with_answers(nothing) for nothing in ([], None, {"text": [], "answer_start": []})),
    ]
    rows = load_rows(write(tmp_path / "rows.jsonl", sources), schema=SPAN_SCHEMA)
    assert rows.labels is None
    assert rows.dataset["answer_text"][:] == [["film", "good film"]] * 4 + [[]] * 3
    assert rows.dataset["answer_start"][:] == [[6, 16]] * 4 + [[]] * 3
    assert rows.dataset["context"][:] == [CONTEXT] * 7
    assert all(CONTEXT[a:].startswith(t) for t, a in (("film", 6), ("good film", 16)))
    assert read_answers(film, "answers") == [("film", 6), ("good film", 16)]


def test_columns_have_other_names_too(tmp_path):
    given = GOOD["answers"]
    sources = [{"query": "q", "passage": CONTEXT, "answers": given}, {"answers": given} | GOOD]
    for name in ("paragraph", "document"):
        sources.append({"Question": "q", name: CONTEXT, "answers": given})
    rows = load_rows(sources, schema=SPAN_SCHEMA)
    assert rows.dataset["question"][:] == ["q", "where ?", "q", "q"]
    assert rows.dataset["context"][:] == [CONTEXT] * 4


BAD = {
    "another place": (
        with_answers([{"text": "film", "answer_start": 7}]),
        DataError,
        r"'film' does not stand at 7; 'ilm,' does\n.*it stands at 6, 21: correct",
    ),
    "UTF-16 units": (
        with_answers([GOOD["answers"][0], {"text": "Zürich", "answer_start": 40}]),
        DataError,
        r"'Zürich' does not stand at 40; 'ürich.' does\n.*it stands at 39: correct",
    ),
    "another text": (
        with_answers([{"text": "Zurich", "answer_start": 39}]),
        DataError,
        r"'Zurich' does not stand at 39; 'Zürich' does\n.*nowhere in the context",
    ),
    "runs over the end": (
        with_answers([{"text": "Zürich. And", "answer_start": 39}]),
        DataError,
        r"'Zürich. And' does not stand at 39; 'Zürich.' does",
    ),
    "after the end": (
        with_answers([{"text": "film", "answer_start": 46}]),
        DataError,
        r"answer_start 46 lies outside of the context of 46 characters\n.*stands at 6, 21",
    ),
    "before the beginning": (
        with_answers([{"text": "Zürich", "answer_start": -7}]),
        DataError,
        r"answer_start -7 lies outside",
    ),
    "a fraction": (
        with_answers([{"text": "Zürich", "answer_start": 39.0}]),
        DataError,
        r"answer_start 39.0, which is not a whole number",
    ),
    "a text as start": (
        with_answers({"text": ["Zürich"], "answer_start": ["39"]}),
        DataError,
        r"answer_start '39', which is not a whole number",
    ),
    "true as start": (
        with_answers([{"text": "Zürich", "answer_start": True}]),
        DataError,
        "answer_start True, which is not a whole number",
    ),
    "null as start": (
        with_answers([{"text": "Zürich", "answer_start": None}]),
        DataError,
        "answer_start None, which is not a whole number",
    ),
    "lists of different lengths": (
        with_answers({"text": ["film", "film"], "answer_start": [6]}),
        FileFormatError,
        "2 texts, but 1 answer_starts",
    ),
    "no lists": (
        with_answers({"text": "film", "answer_start": 6}),
        FileFormatError,
        "text and answer_start that are no lists",
    ),
    "no start": (
        with_answers([{"text": "film"}]),
        FileFormatError,
        "an answer without answer_start",
    ),
    "no text": (with_answers({"answer_start": []}), FileFormatError, "an answer without text"),
    "a text alone": (with_answers("film"), FileFormatError, "not a list but str"),
    "texts alone": (with_answers(["film"]), FileFormatError, "holds str in place of an answer"),
    "an empty answer": (
        with_answers([{"text": "", "answer_start": 3}]),
        EmptyTextError,
        r"an answer's text is empty\n.*has an empty list of answers",
    ),
    "a blank answer": (
        with_answers({"text": [" "], "answer_start": [1]}),
        EmptyTextError,
        "an answer's text is empty",
    ),
    "a number as answer": (
        with_answers([{"text": 5, "answer_start": 3}]),
        FileFormatError,
        "an answer's text is not text but int",
    ),
    "an empty question": (GOOD | {"question": " "}, EmptyTextError, "question is empty"),
    "an empty context": (GOOD | {"context": ""}, EmptyTextError, "context is empty"),
    "no answers": (
        {"question": "q", "context": "c"},
        MissingColumnError,
        "no answers column",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_the_first_bad_row_stops_with_file_and_line(tmp_path, case):
    row, error, message = BAD[case]
    path = write(tmp_path / "rows.jsonl", [GOOD, GOOD, row, GOOD])
    with pytest.raises(error, match=message) as caught:
        load_rows(path, schema=SPAN_SCHEMA)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert (caught.value.path, caught.value.line) == (str(path), 3)
    rows = load_rows(path, schema=SPAN_SCHEMA, on_bad_row="skip")
    assert (len(rows), rows.num_rejected) == (3, 1)


def test_messages_stay_short():
    long = "film " * 1000
    with pytest.raises(DataError) as caught:
        source = with_answers([{"text": "o" + long, "answer_start": 1}], context=long)
        load_rows([source], schema=SPAN_SCHEMA)
    assert len(str(caught.value)) < 500
    with pytest.raises(DataError, match=r"it stands at 0, 5, 10, \.\.\.: correct"):
        source = with_answers([{"text": "film", "answer_start": 1}], context=long)
        load_rows([source], schema=SPAN_SCHEMA)


def test_answers_are_not_read_when_not_needed():
    sources = [GOOD, with_answers("whatever"), {"question": "q", "context": "c"}]
    rows = load_rows(sources, schema=SPAN_SCHEMA, need_label=False)
    assert rows.dataset.column_names == ["row", "question", "context"]
    encoded = tokenise(rows, tiny_tokenizer("roberta"), encoder=SpanEncoder())
    assert encoded.targets == {}
    assert set(collate(encoded, [0, 1])) == {"input_ids", "attention_mask", "rows", "indices"}
    assert len(encoded.field("offset_start", np.arange(3))) == 3
