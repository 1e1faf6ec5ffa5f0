"""A schema other than that of classes: lists of labels, class ids in lists, cross-column checks."""

from __future__ import annotations

import dataclasses

import datasets
import pyarrow as pa
import pytest

from bertwright.data import Column, LabelSet, RowSchema, load_rows
from bertwright.data.schema import read_label, read_text
from bertwright.errors import DataError, MissingColumnError, UnknownLabelError


def read_words(value: object, column: str) -> list[str]:
    if not isinstance(value, list):
        raise DataError(f"{column} is no list")
    return [read_text(item, column) for item in value]


def read_tags(value: object, column: str) -> list[str]:
    if not isinstance(value, list):
        raise DataError(f"{column} is no list")
    return [read_label(item, column) for item in value]


def build(values):
    if "tags" in values and len(values["tags"]) != len(values["tokens"]):
        raise DataError(f"{len(values['tokens'])} tokens, but {len(values['tags'])} tags")
    return dict(values)


SCHEMA = RowSchema(
    columns=(
        Column(role="tokens", noun="token list", read=read_words, aliases=("words",)),
        Column(role="tags", noun="tag list", read=read_tags, aliases=("ner_tags",), target=True),
    ),
    stored={"tokens": pa.list_(pa.string()), "tags": pa.list_(pa.int64())},
    label_fields=("tags",),
    build=build,
)
ROWS = [
    {"words": ["b", "c"], "tags": ["Y", "X"]},
    {"words": ["a"], "tags": ["X"]},
    {"words": [], "tags": []},
    {"words": ["d", "e", "f"], "tags": ["Z", "A", "Y"]},
]


def named(rows):
    return [[rows.labels.name_of(i) for i in tags] for tags in rows.dataset["tags"]]


def test_lists_of_labels_get_ids_in_the_order_of_the_list():
    rows = load_rows(ROWS, schema=SCHEMA)
    assert rows.labels == LabelSet(("A", "X", "Y", "Z"))
    assert named(rows) == [row["tags"] for row in ROWS]
    assert rows.dataset["tokens"][:] == [row["words"] for row in ROWS]
    given = load_rows(ROWS, schema=SCHEMA, labels=LabelSet(("Z", "Y", "X", "A", "B")))
    assert named(given) == named(rows) and given.dataset["tags"] != rows.dataset["tags"]


def test_class_ids_in_lists_are_turned_into_names():
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B"])),
        }
    )
    table = datasets.Dataset.from_dict(
        {"tokens": [["x", "y"], ["z"]], "ner_tags": [[1, 0], [0]]}, features=features
    )
    rows = load_rows(table, schema=SCHEMA)
    assert rows.labels == LabelSet(("O", "B"))
    assert named(rows) == [["B", "O"], ["O"]]


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ({"words": ["a"], "tags": []}, DataError, "1 tokens, but 0 tags"),
        ({"words": ["a"], "tags": [None]}, UnknownLabelError, "has no label"),
        ({"words": ["a"], "tags": ["Q"]}, UnknownLabelError, "unknown label 'Q'"),
        ({"words": "a", "tags": ["X"]}, DataError, "words is no list"),
        ({"tags": ["X"]}, MissingColumnError, "no tokens column"),
    ],
)
def test_what_does_not_fit_is_named_by_file_and_line(write_jsonl, row, error, message):
    path = write_jsonl([ROWS[0], row])
    with pytest.raises(error, match=message) as caught:
        load_rows(path, schema=SCHEMA, labels=LabelSet(("X", "Y")))
    assert str(caught.value).startswith(f"{path}:2: ")


def test_targets_are_not_read_when_no_labels_are_needed():
    rows = load_rows([{"tokens": ["a"]}], schema=SCHEMA, need_label=False)
    assert rows.labels is None and rows.dataset.column_names == ["row", "tokens"]


def test_rows_to_learn_from_need_a_target_though_each_of_several_is_optional():
    either = dataclasses.replace(
        SCHEMA,
        columns=(SCHEMA.columns[0], dataclasses.replace(SCHEMA.columns[1], optional=True)),
    )
    with pytest.raises(MissingColumnError, match="has no tags"):
        load_rows([{"tokens": ["a"]}], schema=either)
    rows = load_rows([{"tokens": ["a"]}], schema=either, need_label=False)
    assert rows.label_ids() is None and load_rows(ROWS, schema=SCHEMA).label_ids() is None
