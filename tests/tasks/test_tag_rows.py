from __future__ import annotations

import json
import re

import datasets
import pytest

from bertwright.cli.parse import parse_command_line
from bertwright.data.labels import LabelSet
from bertwright.errors import (
    DataError,
    EmptyTextError,
    FileFormatError,
    MissingColumnError,
    UnknownLabelError,
)
from bertwright.tasks.tag_rows import TAG_SCHEMA, order_labels
from bertwright.verbs import VERBS
from tag_inputs import ROW, TAGS, TOKENS, load, words_of

TEXT_ROW = {
    "text": "Ann's in  New York, 北京!",
    "spans": [
        {"start": 10, "end": 18, "label": "LOC"},
        {"start": 0, "end": 3, "label": "PER"},
        {"start": 20, "end": 22, "type": "LOC"},
    ],
}


def names_of(rows, position):
    return [rows.labels.name_of(tag) for tag in rows.dataset[position]["tags"]]


def test_tokens_with_tags():
    rows = load([ROW])
    row = rows.dataset[0]
    assert row["text"] == "the zebra of New York ! 中国 dog"
    assert words_of(row) == TOKENS
    assert names_of(rows, 0) == TAGS
    assert rows.labels.names == ("O", "B-LOC", "I-LOC")
    assert rows.dataset.column_names == ["row", "text", "word_start", "word_end", "tags"]


def test_a_text_with_spans():
    rows = load([TEXT_ROW])
    row = rows.dataset[0]
    assert row["text"] == TEXT_ROW["text"]
    tagged = list(zip(words_of(row), names_of(rows, 0), strict=True))
    assert tagged == [
        *[("Ann", "B-PER"), ("'", "O"), ("s", "O"), ("in", "O"), ("New", "B-LOC")],
        *[("York", "I-LOC"), (",", "O"), ("北", "B-LOC"), ("京", "I-LOC"), ("!", "O")],
    ]
    assert rows.labels.names == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def test_spans_may_hold_the_spaces_around_their_words():
    rows = load([{"text": " a  b c ", "spans": [{"start": 0, "end": 5, "label": "X"}]}])
    assert names_of(rows, 0) == ["B-X", "I-X", "O"]
    touching = [{"start": 0, "end": 1, "label": "X"}, {"start": 1, "end": 2, "label": "X"}]
    rows = load([{"text": "中国", "spans": touching}, {"text": "a b", "spans": []}])
    assert names_of(rows, 0) == ["B-X", "B-X"]
    assert names_of(rows, 1) == ["O", "O"]


@pytest.mark.parametrize("target", ["tags", "ner_tags", "labels", "ner"])
@pytest.mark.parametrize("source", ["tokens", "words"])
def test_other_names_of_tokens_and_tags(source, target):
    assert load([{source: TOKENS, target: TAGS}]).fingerprint == load([ROW]).fingerprint


@pytest.mark.parametrize("target", ["spans", "entities", "annotations"])
@pytest.mark.parametrize("source", ["text", "sentence"])
def test_other_names_of_texts_and_spans(source, target):
    row = {source: TEXT_ROW["text"], target: TEXT_ROW["spans"]}
    assert load([row]).fingerprint == load([TEXT_ROW]).fingerprint


def test_without_targets_only_the_input_is_read():
    broken = {"tokens": ["a", "b"], "tags": "nonsense", "spans": 7}
    rows = load([broken], need_label=False)
    assert rows.labels is None
    assert rows.dataset[0] == {"row": 0, "text": "a b", "word_start": [0, 2], "word_end": [1, 3]}
    with pytest.raises(MissingColumnError, match="has no tags or spans"):
        load([{"text": "It's"}])
    rows = load([{"text": "It's"}], need_label=False)
    assert rows.labels is None and words_of(rows.dataset[0]) == ["It", "'", "s"]


def test_both_forms_in_one_table_where_the_other_is_null():
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "tags": datasets.List(datasets.Value("string")),
            "text": datasets.Value("string"),
            "spans": datasets.List(
                {
                    "start": datasets.Value("int64"),
                    "end": datasets.Value("int64"),
                    "label": datasets.Value("string"),
                }
            ),
        }
    )
    spans = [{"start": 0, "end": 3, "label": "PER"}]
    table = datasets.Dataset.from_list(
        [
            {"tokens": ["Ann", "!"], "tags": ["B-PER", "O"], "text": None, "spans": None},
            {"tokens": None, "tags": None, "text": "Ann!", "spans": spans},
        ],
        features=features,
    )
    rows = load(table)
    assert names_of(rows, 0) == names_of(rows, 1) == ["B-PER", "O"]


def test_tags_that_a_table_declares():
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=names)),
        }
    )
    table = datasets.Dataset.from_dict(
        {"tokens": [["Ann", "Lee"], ["x"]], "ner_tags": [[1, 2], [0]]}, features=features
    )
    rows = load(table)
    assert rows.labels.names == tuple(names)
    assert names_of(rows, 0) == ["B-PER", "I-PER"]


def test_labels_have_both_tags_of_every_type_and_outside_first():
    names = ("O", "B-A", "I-A", "B-B-2", "I-B-2", "B-Z", "I-Z")
    assert order_labels(["I-B-2", "B-B-2", "B-Z", "B-A"]).names == names
    assert order_labels(["O"]).names == ("O",)
    assert load([{"tokens": ["a", "b"], "tags": ["B-X", "B-X"]}]).labels.names == (
        "O", "B-X", "I-X",
    )  # fmt: skip


def test_given_labels_keep_their_order():
    labels = LabelSet(("I-LOC", "B-LOC", "B-PER", "I-PER", "O"))
    rows = load([ROW, {"tokens": ["x"], "tags": ["O"]}], labels=labels)
    assert rows.labels is labels
    assert names_of(rows, 0) == TAGS
    assert rows.dataset[0]["tags"][:4] == [4, 4, 4, 1]


def test_blank_tokens_are_words_too():
    row = load([{"tokens": ["a", "\u00a0", "b"], "tags": ["O", "O", "O"]}]).dataset[0]
    assert words_of(row) == ["a", "\u00a0", "b"]


# ---- bad rows ----------------------------------------------------------------------------------


def spans(*items, text="Ann in New York"):
    return {"text": text, "spans": list(items)}


def span(start, end, label="LOC"):
    return {"start": start, "end": end, "label": label}


BAD_TOKENS = {
    "both inputs": (
        {**ROW, "text": "x"},
        DataError,
        "has both tokens and a text\n.*keep one of them",
    ),
    "null tokens": ({"tokens": None, "tags": TAGS}, EmptyTextError, "are empty"),
    "tokens a text": (
        {"tokens": "a b", "tags": ["O"]},
        FileFormatError,
        "tokens is not a list of tokens but str\n.*text column",
    ),
    "no tokens": ({"tokens": [], "tags": []}, EmptyTextError, "tokens is an empty list"),
    "token a number": (
        {"tokens": ["a", 5], "tags": ["O", "O"]},
        FileFormatError,
        "the token at index 1 is not text but int",
    ),
    "token null": (
        {"tokens": [None], "tags": ["O"]},
        FileFormatError,
        "index 0 is not text but NoneType",
    ),
    "token empty": (
        {"tokens": ["a", ""], "tags": ["O", "O"]},
        EmptyTextError,
        "the token at index 1 is empty",
    ),
    "tokens blank": ({"tokens": [" ", "\t"], "tags": ["O", "O"]}, EmptyTextError, "is empty"),
    "half a character": (
        '{"tokens": ["a", "\\ud83d"], "tags": ["O", "O"]}',
        FileFormatError,
        "tokens is not valid UTF-8",
    ),
    "tags null": ({"tokens": ["a"], "tags": None}, UnknownLabelError, "has no tags"),
    "tags a text": (
        {"tokens": ["a"], "tags": "O"},
        FileFormatError,
        "tags is not a list of tags but str",
    ),
    "tag a number": (
        {"tokens": ["a", "b"], "tags": ["O", 3]},
        UnknownLabelError,
        "the tag at index 1 is 3, not the name of a tag",
    ),
    "tag null": ({"tokens": ["a"], "tags": [None]}, UnknownLabelError, "index 0 is None"),
    "tag blank": ({"tokens": ["a"], "tags": [" "]}, UnknownLabelError, "index 0 is ' '"),
    "lengths": (
        {"tokens": ["a", "b"], "tags": ["O"]},
        DataError,
        "has 2 tokens, but 1 tags",
    ),
    "no prefix": (
        {"tokens": ["a", "Ann"], "tags": ["O", "PER"]},
        DataError,
        "the tag at index 1, of 'Ann': 'PER' is neither O nor begins with B- or I-"
        "\n.*tags are O, B-TYPE",
    ),
    "no type": (
        {"tokens": ["a", "Ann"], "tags": ["O", "B-"]},
        DataError,
        "index 1, of 'Ann': 'B-' has an empty type",
    ),
    "BIOES": (
        {"tokens": ["a", "Ann"], "tags": ["O", "S-PER"]},
        DataError,
        "index 1, of 'Ann': 'S-PER' is neither.*\n.*looks like BIOES or BILOU",
    ),
    "BIOES later": (
        {"tokens": ["A", "B", "C"], "tags": ["B-PER", "I-PER", "E-PER"]},
        DataError,
        "index 2, of 'C'.*\n.*looks like BIOES",
    ),
    "IOB1": (
        {"tokens": ["a", "Ann"], "tags": ["O", "I-PER"]},
        DataError,
        "index 1, of 'Ann': 'I-PER' follows neither B-PER nor I-PER\n.*looks like IOB1",
    ),
    "another type goes on": (
        {"tokens": ["a", "b"], "tags": ["B-LOC", "I-PER"]},
        DataError,
        "index 1, of 'b': 'I-PER' follows neither",
    ),
    "unknown tag": (
        {"tokens": ["a"], "tags": ["B-GPE"]},
        UnknownLabelError,
        "unknown label 'B-GPE'",
    ),
}
BAD_SPANS = {
    "both inputs": (
        {**spans(), "tokens": ["a"]},
        DataError,
        "has both tokens and a text",
    ),
    "null text": ({"text": None, "spans": []}, EmptyTextError, "are empty"),
    "text empty": ({"text": " ", "spans": []}, EmptyTextError, "text is empty"),
    "text a list": ({"text": ["a"], "spans": []}, FileFormatError, "text is not text but list"),
    "no words": ({"text": "\u200b\x00", "spans": []}, EmptyTextError, "text has no words"),
    "spans null": ({"text": "a", "spans": None}, UnknownLabelError, "has no spans"),
    "spans an object": (
        {"text": "a", "spans": {"start": [0], "end": [1], "label": ["X"]}},
        FileFormatError,
        "spans is not a list of spans but dict",
    ),
    "span a list": (spans([0, 3, "PER"]), FileFormatError, "index 0 is not an object but list"),
    "no start": (spans({"end": 3, "label": "PER"}), FileFormatError, "index 0 has no start"),
    "no end": (spans({"start": 3, "label": "PER"}), FileFormatError, "index 0 has no end"),
    "no label": (
        spans(span(0, 3), {"start": 4, "end": 6}),
        FileFormatError,
        "the span at index 1 has no label",
    ),
    "two labels": (
        spans({**span(0, 3), "type": "PER"}),
        FileFormatError,
        "index 0 has both a label and a type",
    ),
    "unknown field": (
        spans({**span(0, 3), "score": 1}),
        FileFormatError,
        "index 0 has an unknown field 'score'",
    ),
    "start a text": (spans(span("0", 3)), DataError, "index 0 has the start '0', no integer"),
    "end a fraction": (spans(span(0, 3.0)), DataError, "index 0 has the end 3.0, no integer"),
    "start a bool": (spans(span(True, 3)), DataError, "index 0 has the start True, no integer"),
    "label null": (spans(span(0, 3, None)), UnknownLabelError, "index 0: has no label"),
    "label a list": (spans(span(0, 3, ["X"])), UnknownLabelError, "index 0: label .* is neither"),
    "before the text": (
        spans(span(-1, 3)),
        DataError,
        r"index 0 \(-1 to 3\) is outside the text of 15 characters\n.*count characters",
    ),
    "after the text": (spans(span(7, 16)), DataError, r"\(7 to 16\) is outside the text of 15"),
    "empty": (spans(span(3, 3)), DataError, r"index 0 \(3 to 3\) is empty"),
    "backwards": (spans(span(3, 0)), DataError, r"index 0 \(3 to 0\) is empty"),
    "overlap": (
        spans(span(7, 15), span(0, 3, "PER"), span(11, 15)),
        DataError,
        "the span at index 2, 'York', overlaps the span at index 0, 'New York'",
    ),
    "twice": (spans(span(0, 3), span(0, 3)), DataError, "index 1, 'Ann', overlaps .* index 0"),
    "no word": (spans(span(3, 4)), DataError, "the span at index 0, ' ', holds no word"),
    "cut at its end": (
        spans(span(7, 13)),
        DataError,
        "the span at index 0, 'New Yo', cuts the word 'York'",
    ),
    "cut at its start": (spans(span(1, 3)), DataError, "index 0, 'nn', cuts the word 'Ann'"),
    "inside a word": (spans(span(12, 14)), DataError, "index 0, 'or', cuts the word 'York'"),
    "unknown type": (spans(span(0, 3, "GPE")), UnknownLabelError, "unknown label 'B-GPE'"),
}
LABELS = LabelSet(("O", "B-LOC", "I-LOC", "B-PER", "I-PER"))


def check_bad(path, good, case):
    row, error, message = case
    lines = [row if isinstance(row, str) else json.dumps(row) for row in (good, good, row, good)]
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(error, match=message) as caught:
        load(path, labels=LABELS)
    assert type(caught.value) is error
    assert (caught.value.path, caught.value.line) == (str(path), 3)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert len(load(path, labels=LABELS, on_bad_row="skip")) == 3


@pytest.mark.parametrize("case", BAD_TOKENS)
def test_bad_tokens_stop_with_file_and_line(tmp_path, case):
    good = {"text": None, **ROW} if case == "both inputs" else ROW
    check_bad(tmp_path / "rows.jsonl", good, BAD_TOKENS[case])


def test_a_row_without_any_input(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"tags": TAGS}) + "\n")
    message = "rows.jsonl:1: has neither tokens nor a text"
    with pytest.raises(MissingColumnError, match=message) as caught:
        load(path)
    options = re.findall(r"--[a-z-]+ [^ ,]+", caught.value.hint)
    assert options == ["--column tokens=NAME", "--text-column NAME"]
    words = ["--data", str(path), "--out", "run", *" ".join(options).split()]
    config = parse_command_line(VERBS["finetune"].config_type, words, prog="finetune")
    assert (config.reading.column, config.reading.text_column) == (("tokens=NAME",), "NAME")
    assert "tokens" in TAG_SCHEMA.roles


@pytest.mark.parametrize("case", BAD_SPANS)
def test_bad_spans_stop_with_file_and_line(tmp_path, case):
    good = {"tokens": None, **TEXT_ROW} if case == "both inputs" else TEXT_ROW
    check_bad(tmp_path / "rows.jsonl", good, BAD_SPANS[case])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a"], "spans": [span(0, 1)]}, "has spans, which go with a text"),
        ({"text": "a", "tags": ["O"]}, "has tags, which go with tokens"),
        ({**ROW, "spans": []}, "has spans, which go with a text"),
        ({**TEXT_ROW, "tags": []}, "has tags, which go with tokens"),
    ],
)
def test_targets_go_with_their_own_input(tmp_path, row, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=f"{message}\n.*tokens with tags, or a text with spans"):
        load(path)
    with pytest.raises(DataError, match="rows.jsonl:1: "):
        load(path)


def test_every_row_has_the_columns_of_the_first(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(ROW)}\n{json.dumps({'tokens': ['a']})}\n")
    with pytest.raises(MissingColumnError, match="rows.jsonl:2: has no tag list"):
        load(path)
