from __future__ import annotations

import json
from itertools import pairwise

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bertwright.data.batching import collate
from bertwright.data.encode import uses_token_types
from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.errors import (
    ConfigError,
    DataError,
    EmptyTextError,
    FileFormatError,
    MissingColumnError,
    ModelLoadError,
    RowTooLongError,
    UnknownLabelError,
)
from bertwright.tasks.tag_rows import TAG_SCHEMA, TagEncoder, order_labels
from tiny import FAMILY_NAMES, tiny_tokenizer

TOKENS = ["the", "zebra", "of", "New", "York", "!", "中", "国", "dog"]
TAGS = ["O", "O", "O", "B-LOC", "I-LOC", "O", "B-LOC", "I-LOC", "O"]
ROW = {"tokens": TOKENS, "tags": TAGS}
TEXT_ROW = {
    "text": "Ann's in  New York, 北京!",
    "spans": [
        {"start": 10, "end": 18, "label": "LOC"},
        {"start": 0, "end": 3, "label": "PER"},
        {"start": 20, "end": 22, "type": "LOC"},
    ],
}
BPE_MERGES = ["Ġ z", "Ġz e", "e r", "Ġ .", "o m"]


def load(rows, **options):
    return load_rows(rows, schema=TAG_SCHEMA, **options)


def words_of(row):
    return [row["text"][a:b] for a, b in zip(row["word_start"], row["word_end"], strict=True)]


def names_of(rows, position):
    return [rows.labels.name_of(tag) for tag in rows.dataset[position]["tags"]]


def wrap(core, specials, pad="<pad>", **names):
    single = f"{specials[0]} $A {specials[1]}"
    ids = [(token, core.token_to_id(token)) for token in specials]
    if core.post_processor is None:
        core.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=pad, **names)


def byte_level(trim: bool = True):
    """A byte-level BPE tokenizer in the style of RoBERTa."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = [pair.replace(" ", "") for pair in BPE_MERGES]
    pieces = ["<s>", "</s>", "<pad>", *alphabet, *merged]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = [(a, b) for a, b in (pair.split() for pair in BPE_MERGES)]
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.post_processor = processors.RobertaProcessing(
        ("</s>", 1), ("<s>", 0), trim_offsets=trim, add_prefix_space=True
    )
    return wrap(core, ("<s>", "</s>"))


def sentence_piece(split_spaces: bool = True):
    """A unigram tokenizer in the style of XLM-R, or of ALBERT where spaces are not split off."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!'"
    pieces = [("<s>", 0.0), ("</s>", 0.0), ("<pad>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [("▁the", -1.0), ("▁zeb", -1.5), ("▁New", -1.0), ("中国", -1.0), ("国", -3.0)]
    pieces += [(letter, -6.0) for letter in letters]
    core = Tokenizer(models.Unigram(pieces, unk_id=3))
    core.normalizer = normalizers.NFKC()
    space = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), space])
        if split_spaces
        else space
    )
    return wrap(core, ("<s>", "</s>"), unk_token="<unk>")


OTHERS = {
    "byte_level": byte_level,
    "byte_level_untrimmed": lambda: byte_level(trim=False),
    "sentence_piece": sentence_piece,
    "sentence_piece_whole": lambda: sentence_piece(split_spaces=False),
}


def any_tokenizer(name):
    return OTHERS[name]() if name in OTHERS else tiny_tokenizer(name)


def encode(rows, tokenizer, max_length=10_000, overlap_words=16, token_types=False):
    encoder = TagEncoder(overlap_words)
    return encoder.encode(tokenizer, rows, max_length=max_length, token_types=token_types)


def batch_of(token_lists, tags=None):
    rows = load([{"tokens": tokens} for tokens in token_lists], need_label=False).dataset
    columns = {name: rows[name][:] for name in ("text", "word_start", "word_end")}
    return columns if tags is None else columns | {"tags": tags}


# ---- rows --------------------------------------------------------------------------------------


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
    with pytest.raises(MissingColumnError, match="rows.jsonl:1: has neither tokens nor a text"):
        load(path)


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


# ---- words and pieces --------------------------------------------------------------------------

SAMPLE = [
    TOKENS,
    ["New", "York"],
    ["a"],
    ["zebra", ".", "'s", "it's", "the", "12:30", "U.S.", "e-mail", "42"],
    ["Zoé", "naïve", "ﬁsh", "ＡＢ", "café", "ten"],
    ["\U0001f602", "the", "\U0001f468\u200d\U0001f469", "dog", "http://t.co/x"],
]


def referee(tokenizer, tokens):
    """Return the ids and each word's first piece where the words are given to the tokenizer."""
    found = tokenizer(tokens, is_split_into_words=True)
    places = found.word_ids()
    first = [places.index(w) if w in places else -1 for w in range(len(tokens))]
    return found["input_ids"], first


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_first_pieces_are_those_of_a_text_split_into_words(name):
    tokenizer = tiny_tokenizer(name)
    found = encode(batch_of(SAMPLE), tokenizer)
    for tokens, ids, places in zip(
        SAMPLE, found.input_ids, found.fields["word_piece"], strict=True
    ):
        assert (ids, places) == referee(tokenizer, tokens)
        assert min(places) >= 0 and len(places) == len(tokens)


@pytest.mark.parametrize("name", OTHERS)
def test_first_pieces_of_other_tokenizers_begin_at_the_word(name):
    tokenizer = any_tokenizer(name)
    batch = batch_of(SAMPLE)
    found = encode(batch, tokenizer)
    for row, places in enumerate(found.fields["word_piece"]):
        text, starts = batch["text"][row], batch["word_start"][row]
        encoding = tokenizer(text, return_offsets_mapping=True)
        assert found.input_ids[row] == encoding["input_ids"]
        for word, (place, start) in enumerate(zip(places, starts, strict=True)):
            if SAMPLE[row][word] == "国" and name.startswith("sentence_piece"):
                assert place == -1, "中国 is one piece and stands for its first word"
                continue
            begin, end = encoding["offset_mapping"][place]
            assert text[begin:end].lstrip() and begin + (text[begin] == " ") == start
            # What comes right before ends where the word begins, or is a mark of the space.
            earlier = tokenizer.convert_ids_to_tokens(found.input_ids[row][place - 1])
            assert encoding["offset_mapping"][place - 1][1] <= start or earlier in ("▁", "Ġ")


@pytest.mark.parametrize("name", ["byte_level", "sentence_piece"])
def test_other_tokenizers_agree_with_words_given_to_them(name):
    tokenizer = any_tokenizer(name)
    rows = [["the", "zebra", "New", "York", "."], ["zebra", "a", "the"]]
    found = encode(batch_of(rows), tokenizer)
    for tokens, ids, places in zip(rows, found.input_ids, found.fields["word_piece"], strict=True):
        expected_ids, first = referee(tokenizer, tokens)
        assert ids == expected_ids
        pieces = tokenizer.convert_ids_to_tokens(ids)
        assert places == [place + (pieces[place] in ("▁", "Ġ")) for place in first]


def test_a_mark_of_a_space_alone_is_no_first_piece():
    tokenizer = sentence_piece()
    batch = batch_of([["中国"], ["York", "12"], ["▁"]])
    found = encode(batch, tokenizer)
    pieces = [tokenizer.convert_ids_to_tokens(ids) for ids in found.input_ids]
    assert pieces[0] == ["<s>", "▁", "中国", "</s>"]
    assert pieces[1] == ["<s>", "▁", "Y", "o", "r", "k", "▁", "1", "2", "</s>"]
    assert found.fields["word_piece"][:2] == [[2], [2, 7]]
    (place,) = found.fields["word_piece"][2]
    assert place > 0 and pieces[2][place] == "▁"


def test_words_of_which_nothing_is_left_have_no_piece():
    tokenizer = tiny_tokenizer("bert")
    tokens = ["\ufe0f", "the", "\u0301", "\u200d", "dog", "\u00a0", "\ufe0f"]
    found = encode(batch_of([tokens], tags=[[1, 2, 3, 4, 5, 6, 7]]), tokenizer)
    assert tokenizer.convert_ids_to_tokens(found.input_ids[0]) == ["[CLS]", "the", "dog", "[SEP]"]
    assert found.fields["word_piece"] == [[-1, 1, -1, -1, 2, -1, -1]]
    assert found.fields["labels"] == [[-100, 2, 5, -100]]
    nothing = encode(batch_of([["\ufe0f", "\u0301"]], tags=[[1, 1]]), tokenizer)
    assert nothing.fields == {"word_piece": [[-1, -1]], "labels": [[-100, -100]]}


def test_a_word_in_the_piece_of_the_word_before_has_none():
    tokenizer = tiny_tokenizer("bert")
    tokenizer.add_tokens(["dog . a", "x y"])
    tokens = ["the", "dog", ".", "a", "car", "b", "x", "yes"]
    found = encode(batch_of([tokens]), tokenizer)
    pieces = tokenizer.convert_ids_to_tokens(found.input_ids[0])
    assert pieces[1:6] == ["the", "dog . a", "car", "b", "x y"]
    assert found.fields["word_piece"] == [[1, 2, -1, -1, 3, 4, 5, 6]]


@pytest.mark.parametrize("name", [*FAMILY_NAMES, *OTHERS])
def test_a_row_that_fits_is_what_the_tokenizer_makes_of_the_text(name):
    tokenizer = any_tokenizer(name)
    batch = batch_of(SAMPLE)
    types = uses_token_types(tokenizer, pairs=False)
    lengths = [len(tokenizer(text)["input_ids"]) for text in batch["text"]]
    found = encode(batch, tokenizer, max(lengths), token_types=types)
    for row, text in enumerate(batch["text"]):
        expected = tokenizer(text)
        assert found.input_ids[row] == expected["input_ids"]
        if found.token_type_ids is not None:
            assert found.token_type_ids[row] == expected["token_type_ids"]
    assert found.lengths.tolist() == lengths
    assert found.sources == list(range(len(SAMPLE)))
    assert (found.token_type_ids is not None) == types == (name == "xlnet")
    assert found.fields.keys() == {"word_piece"}


# ---- windows -----------------------------------------------------------------------------------


def check_windows(tokens, tokenizer, max_length, overlap_words):
    """Check all that holds of the windows of a row; return the owned words of each."""
    batch = batch_of([tokens], tags=[list(range(len(tokens)))])
    found = encode(batch, tokenizer, max_length, overlap_words, token_types=True)
    whole = tokenizer(batch["text"][0], return_token_type_ids=True)
    specials = tokenizer.num_special_tokens_to_add(pair=False)
    before = 0 if tokenizer.padding_side == "left" else 1
    inner = whole["input_ids"][before : len(whole["input_ids"]) - (specials - before)]
    (expected,) = encode(batch, tokenizer).fields["word_piece"]
    assert found.sources == [0] * len(found.input_ids)
    assert found.token_type_ids is not None
    num_owned, owned, begin = 0, [], 0
    columns = (found.input_ids, found.token_type_ids, found.lengths.tolist())
    fields = (found.fields["word_piece"], found.fields["labels"])
    for ids, types, length, places, labels in zip(*columns, *fields, strict=True):
        assert len(ids) == len(types) == len(labels) == min(length, max_length)
        assert ids[:before] == whole["input_ids"][:before]
        assert ids[len(ids) - (specials - before) :] == whole["input_ids"][-(specials - before) :]
        assert (
            types[len(ids) - (specials - before) :]
            == whole["token_type_ids"][-(specials - before) :]
        )
        text = ids[before : len(ids) - (specials - before)]
        assert text, "a window has some of the text"
        seen = [(place, expected[num_owned + i]) for i, place in enumerate(places) if place >= 0]
        if seen:
            begin = seen[0][1] - seen[0][0] + before
        assert all(place - before + begin == first for place, first in seen)
        assert inner[begin - before : begin - before + len(text)] == text or not seen
        assert [i for i, label in enumerate(labels) if label != -100] == [p for p, _ in seen]
        own = range(num_owned, num_owned + len(places))
        assert [label for label in labels if label != -100] == [
            word for word, place in zip(own, places, strict=True) if place >= 0
        ]
        missing = [word for word, place in zip(own, places, strict=True) if place < 0]
        if length <= max_length:
            assert all(expected[word] == -1 for word in missing)
        assert places, "a window owns a word"
        owned.append(own)
        num_owned += len(places)
    assert num_owned == len(tokens), "every word is in exactly one window, in order"
    return found, owned


WORDS = st.sampled_from(
    ["the", "a", "dog", "zebra", "中", "国", "abcdefghijklmnopqrstuvwxyz", "!", "\ufe0f", "x1"]
)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(WORDS, min_size=1, max_size=60).filter(lambda tokens: set(tokens) != {"\ufe0f"}),
    st.integers(3, 40),
    st.integers(0, 20),
    st.sampled_from(["bert", "xlnet", "roberta"]),
)
def test_every_word_belongs_to_one_window(tokens, max_length, overlap_words, name):
    tokenizer = tiny_tokenizer(name)
    found, _ = check_windows(tokens, tokenizer, max_length, overlap_words)
    if max_length >= 28:
        assert found.lengths.max() <= max_length, "nothing needs to be cut"
    total = len(tokenizer(batch_of([tokens])["text"][0])["input_ids"])
    assert (total <= max_length) == (len(found.input_ids) == 1 and found.lengths[0] <= max_length)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(WORDS, min_size=1, max_size=40).filter(lambda tokens: set(tokens) != {"\ufe0f"}),
    st.integers(3, 40),
    st.sampled_from([*OTHERS]),
)
def test_windows_of_other_tokenizers(tokens, max_length, name):
    batch = batch_of([tokens], tags=[list(range(len(tokens)))])
    tokenizer = any_tokenizer(name)
    found = encode(batch, tokenizer, max_length, 4)
    (expected,) = encode(batch, tokenizer).fields["word_piece"]
    places = [place for row in found.fields["word_piece"] for place in row]
    assert len(places) == len(tokens)
    assert all(len(ids) <= max_length for ids in found.input_ids)
    if found.lengths.max() <= max_length:
        assert [place >= 0 for place in places] == [place >= 0 for place in expected]
    labels = [label for row in found.fields["labels"] for label in row if label != -100]
    assert labels == [word for word, place in enumerate(places) if place >= 0]


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 300), st.integers(4, 60), st.integers(0, 30))
def test_windows_show_what_stands_around_their_words(num_words, max_length, overlap_words):
    tokenizer = tiny_tokenizer("bert")
    found, owned = check_windows(["dog"] * num_words, tokenizer, max_length, overlap_words)
    room = max_length - 2
    shared = min(overlap_words, room // 2)
    for number, (own, places) in enumerate(zip(owned, found.fields["word_piece"], strict=True)):
        begin = own.start - (places[0] - 1)
        end = begin + len(found.input_ids[number]) - 2
        first, last = number == 0, number == len(owned) - 1
        assert own.start - begin == (0 if first else shared // 2)
        assert end - own.stop == (0 if last else shared - shared // 2)
        assert last or end - begin == room, "no window but the last has room left"
    starts = [own.start for own in owned]
    assert all(a < b for a, b in pairwise(starts))


def test_windows_by_hand():
    tokenizer = tiny_tokenizer("bert")
    letters = list("abcdefghijklmnopq")
    found = encode(batch_of([letters, ["dog"]], tags=[[1] * 17, [2]]), tokenizer, 10, 4)
    pieces = [tokenizer.convert_ids_to_tokens(ids)[1:-1] for ids in found.input_ids]
    assert ["".join(row) for row in pieces] == ["abcdefgh", "efghijkl", "ijklmnop", "mnopq", "dog"]
    assert found.sources == [0, 0, 0, 0, 1]
    places = found.fields["word_piece"]
    owned = [
        "".join(row[place - 1] for place in of_row)
        for row, of_row in zip(pieces, places, strict=True)
    ]
    assert owned == ["abcdef", "ghij", "klmn", "opq", "dog"]
    assert found.fields["labels"][1] == [-100, -100, -100, 1, 1, 1, 1, -100, -100, -100]
    assert found.lengths.tolist() == [10, 10, 10, 7, 3]


def test_only_a_word_longer_than_a_window_is_cut():
    tokenizer = tiny_tokenizer("bert")
    giant = "abcdefghijklmnopqrstuvwxyz"
    batch = batch_of([["the", "dog", giant, "a", "cat"]], tags=[[1, 2, 3, 4, 5]])
    found = encode(batch, tokenizer, 12)
    assert [len(ids) for ids in found.input_ids] == [4, 12, 4]
    assert found.lengths.tolist() == [4, 28, 4]
    assert found.fields["labels"] == [
        [-100, 1, 2, -100], [-100, 3, *[-100] * 10], [-100, 4, 5, -100],
    ]  # fmt: skip
    assert found.fields["word_piece"] == [[1, 2], [1], [1, 2]]
    alone = encode(batch_of([[giant]]), tokenizer, 12)
    assert (len(alone.input_ids[0]), alone.lengths.tolist()) == (12, [28])


def test_words_without_pieces_next_to_a_word_that_is_cut():
    tokenizer = tiny_tokenizer("bert")
    giant, gone = "abcdefghijklmnopqrstuvwxyz", "\ufe0f"
    for tokens in ([gone, giant, gone], [giant, gone, gone], ["a", gone, giant, gone, "b"]):
        check_windows(tokens, tokenizer, 12, 16)
        check_windows(tokens, tokenizer, 3, 1)


def test_the_least_length_leaves_room_for_a_piece():
    for name in FAMILY_NAMES:
        tokenizer = tiny_tokenizer(name)
        least = TagEncoder().least_length(tokenizer, pairs=False)
        assert least == 3
        check_windows(["the", "zebra", "中"], tokenizer, least, 16)


# ---- the whole way -----------------------------------------------------------------------------


def tags_back(encoded):
    """Return the tags of the words of each row, from the features; None for one without a piece."""
    found: dict[int, list[str | None]] = {}
    everything = np.arange(len(encoded))
    columns = (encoded.field("labels", everything), encoded.field("word_piece", everything))
    for row, labels, places in zip(encoded.row_numbers.tolist(), *columns, strict=True):
        names = [encoded.labels.name_of(int(labels[p])) if p >= 0 else None for p in places]
        found.setdefault(row, []).extend(names)
    return found


def test_features_go_through_the_cache_into_batches():
    long = {"tokens": ["dog"] * 30, "tags": ["B-X", "I-X"] * 15}
    rows = load([ROW, long])
    encoded = tokenise(rows, tiny_tokenizer("bert"), encoder=TagEncoder(4), max_length=20)
    assert encoded.row_numbers.tolist() == [0, 1, 1]
    assert encoded.num_truncated == 0
    assert encoded.lengths.tolist() == [18, 20, 18]
    assert tags_back(encoded) == {0: TAGS, 1: long["tags"]}
    batch = collate(encoded, range(3))
    assert batch["labels"].shape == batch["input_ids"].shape
    counted = (batch["labels"] != -100).sum(dim=1).tolist()
    assert counted == [len(places) for places in encoded.field("word_piece", np.arange(3))]
    assert "word_piece" not in batch
    assert encoded.targets.keys() == {"labels"}


def test_features_without_tags_have_no_labels():
    rows = load([ROW], need_label=False)
    encoded = tokenise(rows, tiny_tokenizer("bert"), encoder=TagEncoder(), max_length=32)
    assert encoded.targets == {} and encoded.labels is None
    assert "labels" not in collate(encoded, [0])
    assert len(encoded.field("word_piece", np.arange(1))[0]) == len(TOKENS)


def test_a_row_of_windows_is_not_too_long_but_a_giant_word_is(tmp_path):
    path = tmp_path / "rows.jsonl"
    long, giant = ["dog"] * 50, ["abcdefghijklmnopqrstuvwxyz"]
    options = {"encoder": TagEncoder(), "max_length": 16, "long_rows": "stop"}
    path.write_text(json.dumps({"tokens": long}) + "\n")
    tokenizer = tiny_tokenizer("bert")
    encoded = tokenise(load(path, need_label=False), tokenizer, **options)
    assert encoded.num_truncated == 0 and len(encoded) > 3
    path.write_text(f"{json.dumps({'tokens': long})}\n{json.dumps({'tokens': giant})}\n")
    with pytest.raises(RowTooLongError, match=r"rows\.jsonl:2: the row has 28 tokens"):
        tokenise(load(path, need_label=False), tokenizer, **options)
    options["long_rows"] = "truncate"
    assert tokenise(load(path, need_label=False), tokenizer, **options).num_truncated == 1


def test_the_key_holds_the_options():
    assert TagEncoder().key == TagEncoder(16).key != TagEncoder(8).key
    with pytest.raises(ConfigError, match="--overlap-words -1"):
        TagEncoder(-1)


def test_a_tokenizer_without_offsets_is_refused():
    with pytest.raises(ModelLoadError, match="cannot say where its tokens stand"):
        encode(batch_of([["a"]]), object())


def test_the_tokenizer_may_have_cut_and_padded_before():
    tokenizer = tiny_tokenizer("bert")
    tokenizer(["the dog", "a"], padding=True, truncation=True, max_length=3)
    fresh = encode(batch_of(SAMPLE), tiny_tokenizer("bert"))
    assert encode(batch_of(SAMPLE), tokenizer).input_ids == fresh.input_ids


def spelling_tokenizer(tokens):
    """A WordPiece tokenizer that knows each character of these tokens."""
    characters = sorted({character for token in tokens for character in token})
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = [*specials, *characters, *(f"##{character}" for character in characters)]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=False)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return wrap(core, ("[CLS]", "[SEP]"), pad="[PAD]", unk_token="[UNK]")


REAL = {
    "wnut17": (3394, ["corporation", "creative-work", "group", "location", "person"]),
    "resume_ner_zh": (3821, ["CONT", "EDU", "LOC", "NAME", "ORG"]),
}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("max_length", [24, 128])
def test_real_tags_come_back_from_the_features(shared_data, name, max_length):
    num_rows, types = REAL[name]
    path = shared_data(name) / "train.jsonl"
    with path.open(encoding="utf-8") as file:
        source = [json.loads(line) for line in file]
    rows = load(path)
    assert len(rows) == len(source) == num_rows
    assert {f"{prefix}-{type_}" for type_ in types for prefix in "BI"} < set(rows.labels)
    assert rows.labels.names[0] == "O" and len(rows.labels) % 2 == 1
    tokenizer = spelling_tokenizer([token for row in source for token in row["tokens"]])
    encoded = tokenise(rows, tokenizer, encoder=TagEncoder(4), max_length=max_length)
    back = tags_back(encoded)
    assert len(encoded) > num_rows or max_length == 128
    for number, row in enumerate(source):
        assert words_of(rows.dataset[number]) == row["tokens"]
        assert len(back[number]) == len(row["tags"])
        for word, tag, gold in zip(row["tokens"], back[number], row["tags"], strict=True):
            assert tag == gold or (tag is None and not tokenizer.tokenize(word))
