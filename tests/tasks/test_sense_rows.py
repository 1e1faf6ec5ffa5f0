from __future__ import annotations

import re

import pytest

from bertwright.data.load import load_rows
from bertwright.errors import (
    DataError,
    EmptyTextError,
    FileFormatError,
    MissingColumnError,
    UnknownLabelError,
)
from bertwright.tasks.sense_rows import SENSE_SCHEMA, find_word, read_offset, read_word

ROW = {"text": "😀 The Bank of the river", "start": 6, "end": 10, "label": "shore"}
PAIR = {
    **{"text": "a bank of a river", "start": 2, "end": 6},
    **{"text_b": "the banks lend", "start_b": 4, "end_b": 9, "label": "F"},
}


def load(rows, **options):
    return load_rows(rows, schema=SENSE_SCHEMA, **options)


def without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


def test_a_text_with_a_place():
    rows = load([ROW])
    assert rows.dataset[0] == {**ROW, "row": 0, "word": "bank", "label": 0}
    assert rows.labels.names == ("shore",)
    assert ROW["text"][6:10] == "Bank"


def test_a_pair():
    rows = load([PAIR])
    assert rows.dataset[0] == {**PAIR, "row": 0, "word": "bank", "label": 0}
    assert rows.has_pairs


@pytest.mark.parametrize("name", ["word", "lemma", "target"])
def test_the_word_may_have_a_name_of_its_own(name):
    (word,) = load([{**ROW, name: " Bank (river) "}]).dataset["word"]
    assert word == "Bank (river)"


@pytest.mark.parametrize("name", ["label", "labels", "sense", "sense_id"])
def test_the_label_may_be_called_a_sense(name):
    rows = load([{**without(ROW, "label"), name: "shore", "target": "x"}])
    assert rows.labels.names == ("shore",) and rows.dataset["word"][0] == "x"


def test_without_labels_only_the_input_is_read():
    rows = load([{**ROW, "label": None}], need_label=False)
    assert rows.labels is None and "label" not in rows.dataset.column_names


def test_offsets_of_tables_are_texts_or_floats(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,start,end,label\na bank,2,6,shore\na bank, 2 ,6.0,shore\n", "utf-8")
    with pytest.raises(DataError, match=r"rows.csv:3: end is '6.0', not a whole number"):
        load(path)
    path.write_text("text,start,end,label\na bank, 2 ,6,shore\n", "utf-8")
    assert load(path).dataset[0]["end"] == 6
    assert read_offset(7.0, "end") == 7
    for nothing in (None, "", " ", float("nan")):
        assert read_offset(nothing, "end") is None


@pytest.mark.parametrize("value", [1.5, True, "one", "0x1", [1], {"a": 1}, float("inf")])
def test_what_is_no_whole_number(value):
    with pytest.raises(DataError, match=r"start is .*, not a whole number"):
        read_offset(value, "start")


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"end": 24}, DataError, r"\(start 6, end 24\) is outside the text of 23 characters"),
        ({"start": -1}, DataError, "is outside the text"),
        ({"start": 10}, DataError, r"the word of text \(start 10, end 10\) is empty"),
        ({"start": 11}, DataError, "is empty"),
        ({"start": 5, "end": 6}, DataError, "covers only spaces"),
        ({"start": "six"}, DataError, "start is 'six', not a whole number"),
        ({"end": 10.5}, DataError, "end is 10.5, not a whole number"),
        ({"end": None}, MissingColumnError, "has start, but no end"),
        ({"start": None}, MissingColumnError, "has end, but no start"),
        ({"start": None, "end": None}, MissingColumnError, "has no start and end"),
        ({"text": " "}, EmptyTextError, "text is empty"),
        ({"word": 5}, FileFormatError, "word is not text but int"),
        ({"label": ""}, UnknownLabelError, "has no label"),
        ({"start_b": 1}, MissingColumnError, "has start_b or end_b, but no second text"),
    ],
)
def test_errors_name_file_and_line(write_jsonl, changes, kind, message):
    whole = {**ROW, "word": None, "start_b": None}
    path = write_jsonl([whole, {**whole, **changes}])
    with pytest.raises(kind, match=re.escape(f"{path}:2: ") + ".*" + message) as caught:
        load(path)
    assert caught.value.hint or kind in (FileFormatError, UnknownLabelError)
    kept = load(path, on_bad_row="skip")
    assert (len(kept), kept.num_rejected) == (1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"end_b": 15}, r"of text_b \(start_b 4, end_b 15\) is outside the text of 14"),
        ({"start_b": None}, "has end_b, but no start_b"),
        ({"start_b": None, "end_b": None}, "has no start_b and end_b"),
        ({"start_b": 3, "end_b": 4}, "covers only spaces"),
    ],
)
def test_the_second_text_has_the_same_errors(write_jsonl, changes, message):
    path = write_jsonl([PAIR, {**PAIR, **changes}])
    with pytest.raises(DataError, match=re.escape(f"{path}:2: ") + ".*" + message):
        load(path)


# ---- words without a place ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "word", "start"),
    [
        ("the bank", "bank", 4),
        ("The banker's bank", "bank", 13),
        ("banks and banking, Bank", "bank", 19),
        ("the Bank; the bank", "bank", 14),
        ("superiors", "superior", 0),
        ("Superiors", "superior", 0),
        ("Superiors of the superiors", "superior", 17),
        ("he will take off", "take off", 8),
        ("审判程序以及", "程序", 2),
        ("a.b axb", "a.b", 0),
        ("İstanbul'da İt", "it", 12),
        ("😀 cafe\u0301", "cafe\u0301", 2),
    ],
)
def test_a_word_that_stands_once_is_found(text, word, start):
    found = find_word(text, word)
    assert (found.text, found.start) == (text, start)
    assert found.word.lower() == text[start : start + len(word)].lower()
    assert len(found.word) == len(word)


@pytest.mark.parametrize(
    ("text", "word", "message"),
    [
        ("the river", "bank", "'bank' does not stand in text"),
        ("bank or bank", "bank", "stands 2 times in text, at 0, 8\n"),
        ("banks, banker, banked, banking", "bank", "stands 4 times in text, at 0, 7, 15, ..."),
        ("程序的程序", "程序", "stands 2 times"),
        ("aaa", "aa", "stands 2 times in text, at 0, 1"),
    ],
)
def test_a_word_that_does_not_stand_once_is_not_guessed(text, word, message):
    with pytest.raises(DataError, match=message):
        find_word(text, word)


@pytest.mark.parametrize(
    ("text", "word", "full", "start"),
    [
        ("听不～。", "够", "听不够。", 2),
        ("～喜，～喜!", "随", "随喜，随喜!", 0),
        ("～辞严谨。也作措词。", "措", "措辞严谨。也作措词。", 0),
        ("一～，两～", "下子", "一下子，两下子", 1),
        ("3～5人看", "看", "3～5人看", 4),
        ("3～5人～", "看", "3～5人看", 4),
        ("3～人", "个", "3个人", 1),
        ("a～", r"\1", r"a\1", 1),
    ],
)
def test_the_sign_of_dictionaries_is_the_word(text, word, full, start):
    found = find_word(text, word)
    assert (found.text, found.start, found.word) == (full, start, word)


def test_rows_with_words_in_place_of_offsets(write_jsonl):
    rows = load([{"text": "听不～。", "target": "够", "label": "足"}])
    assert rows.dataset[0] == {
        **{"row": 0, "text": "听不够。", "start": 2, "end": 3},
        **{"word": "够", "label": 0},
    }
    pair = {**without(PAIR, "start", "end", "start_b", "end_b"), "lemma": "bank"}
    assert load([pair]).dataset[0] == {**load([PAIR]).dataset[0], "end_b": 8}
    path = write_jsonl([pair, {**pair, "text_b": "a river"}])
    with pytest.raises(DataError, match=r":2: the word 'bank' does not stand in text_b"):
        load(path)


def test_offsets_win_over_the_word():
    row = load([{**ROW, "text": "bank the bank ～", "start": 9, "end": 13, "word": "b"}]).dataset[0]
    assert (row["text"], row["start"], row["end"]) == ("bank the bank ～", 9, 13)


def test_words_are_texts():
    assert read_word("  ", "word") is None
    with pytest.raises(FileFormatError, match="not valid UTF-8"):
        read_word("\ud800", "word")


# ---- real data ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file", "num_rows", "num_labels"),
    [
        ("mcl_wic_en", "train.jsonl.gz", 8000, 2),
        ("mcl_wic_en", "dev.jsonl", 800, 2),
        ("mcl_wic_zh", "dev.jsonl", 800, 2),
        ("morsense_zh", "train.jsonl.gz", 18221, 6237),
        ("morsense_zh", "dev.jsonl", 1837, 1479),
    ],
)
def test_real_rows(shared_data, name, file, num_rows, num_labels):
    rows = load(shared_data(name) / file)
    assert (len(rows), len(rows.labels)) == (num_rows, num_labels)
    columns = rows.columns(SENSE_SCHEMA.stored)
    for text, start, end in zip(columns["text"], columns["start"], columns["end"], strict=True):
        assert text[start:end].strip() == text[start:end] != ""
    if name == "morsense_zh":
        assert columns["word"] == [
            text[start:end]
            for text, start, end in zip(
                columns["text"], columns["start"], columns["end"], strict=True
            )
        ]
        assert not any("～" in text for text in columns["text"])
    else:
        assert rows.has_pairs and set(rows.labels.names) == {"T", "F"}
        words = zip(columns["word"], columns["text_b"], columns["start_b"], strict=True)
        begins = [word[:2].lower() == text[start:][:2].lower() for word, text, start in words]
        assert sum(begins) > 0.9 * len(begins)
