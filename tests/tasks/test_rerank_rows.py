from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
import torch

from bertwright.data.batching import collate
from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.errors import (
    DataError,
    EmptyTextError,
    FileFormatError,
    MissingColumnError,
    RowTooLongError,
)
from bertwright.tasks import rerank_rows
from bertwright.tasks.rerank_rows import RERANK_SCHEMA, RerankEncoder, read_relevance, read_texts
from tiny import FAMILY_NAMES, tiny_tokenizer

GOOD = {
    "query": "good film",
    "candidates": ["a film", "not a film", "the dog"],
    "relevance": [2, 0.5, 0],
}
SIDES = {"query": "good film", "positives": ["a film", "not a film"], "negatives": ["the dog"]}


def load(source, **options):
    return load_rows(source, schema=RERANK_SCHEMA, **options)


def test_rows_are_stored_as_candidates_with_a_relevance_each():
    rows = load([GOOD, GOOD | {"candidates": ["x", "y"], "relevance": [0, 1]}])
    assert rows.labels is None
    assert rows.dataset[0] == {"row": 0} | GOOD
    assert rows.dataset[1]["relevance"] == [0.0, 1.0]
    assert {"x", "y"} == set(rows.dataset[1]["candidates"])


def test_positives_and_negatives_give_the_same_rows():
    same = GOOD | {"relevance": [1, 1, 0]}
    assert load([SIDES]).fingerprint == load([same]).fingerprint
    one = load([{"query": "q", "positives": "yes", "negatives": ["no", "never"]}]).dataset[0]
    assert one["candidates"] == ["yes", "no", "never"] and one["relevance"] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("query", ["query", "question", "search", "q", "Anchor"])
def test_columns_have_other_names_too(query):
    for candidates in ("candidates", "passages", "documents", "docs"):
        for relevance in ("relevance", "relevances", "labels", "label", "scores"):
            names = {"query": query, "candidates": candidates, "relevance": relevance}
            row = {names[role]: value for role, value in GOOD.items()}
            assert load([row]).fingerprint == load([GOOD]).fingerprint
    for positives, negatives in (("positive", "negative"), ("pos", "neg"), ("pos", "negatives")):
        names = {"query": query, "positives": positives, "negatives": negatives}
        row = {names[role]: value for role, value in SIDES.items()}
        assert load([row]).fingerprint == load([SIDES]).fingerprint


def test_columns_with_names_of_their_own_are_given():
    row = {"query": "q", "yes": ["a"], "no": ["b"]}
    columns = {"positives": "yes", "negatives": "no", "relevance": "yes"}
    assert load([row], columns=columns).dataset[0]["relevance"] == [1.0, 0.0]


def test_triplets_of_a_table_of_texts(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("anchor,positive,negative\ngood film,a film,the dog\nx,y,z\n")
    rows = load(path)
    assert rows.dataset["candidates"][:] == [["a film", "the dog"], ["y", "z"]]
    assert rows.dataset["relevance"][:] == [[1.0, 0.0]] * 2


def test_both_forms_in_one_table_where_the_other_is_null():
    texts = datasets.List(datasets.Value("string"))
    features = datasets.Features(
        {
            **{"query": datasets.Value("string"), "candidates": texts},
            **{"relevance": datasets.List(datasets.Value("float32"))},
            **{"positives": texts, "negatives": texts},
        }
    )
    empty = dict.fromkeys(features)
    table = datasets.Dataset.from_list([empty | GOOD, empty | SIDES], features=features)
    rows = load(table)
    assert rows.dataset["candidates"][:] == [GOOD["candidates"]] * 2
    assert rows.dataset["relevance"][:] == [[2.0, 0.5, 0.0], [1.0, 1.0, 0.0]]


def test_relevance_is_not_read_when_not_needed():
    plain = {"query": "q", "candidates": ["only one"]}
    rows = load([plain, plain | {"relevance": "nonsense"}], need_label=False)
    assert rows.dataset.column_names == ["row", "query", "candidates"]
    rows = load([SIDES, {"query": "q", "positives": [], "negatives": "b"}], need_label=False)
    assert rows.dataset.column_names == ["row", "query", "candidates"]
    assert rows.dataset["candidates"][:] == [GOOD["candidates"], ["b"]]
    encoded = tokenise(rows, tiny_tokenizer(), encoder=RerankEncoder())
    assert encoded.targets == {} and len(encoded) == 4
    assert encoded.row_numbers.tolist() == [0, 0, 0, 1]


BAD = {
    "no query": ({k: GOOD[k] for k in ("candidates", "relevance")}, MissingColumnError, "no query"),
    "an empty query": (GOOD | {"query": " "}, EmptyTextError, "query is empty"),
    "no relevance": (
        {k: GOOD[k] for k in ("query", "candidates")},
        MissingColumnError,
        r"no relevance column among 'query', 'candidates'\n",
    ),
    "no relevance in this row": (GOOD | {"relevance": None}, DataError, "relevance is empty"),
    "a text as candidates": (
        GOOD | {"candidates": "a film"},
        FileFormatError,
        "candidates is not a list of texts but str",
    ),
    "an empty list": (
        GOOD | {"candidates": [], "relevance": []},
        EmptyTextError,
        "candidates is an empty list",
    ),
    "null as candidates": (GOOD | {"candidates": None}, EmptyTextError, "has no candidates"),
    "an empty candidate": (
        GOOD | {"candidates": ["a", "", "c"]},
        EmptyTextError,
        "text at index 1 of candidates is empty",
    ),
    "a number as candidate": (
        GOOD | {"candidates": ["a", "b", 5]},
        FileFormatError,
        "text at index 2 of candidates is not text but int",
    ),
    "one number for all": (
        GOOD | {"relevance": 1},
        FileFormatError,
        "relevance is not a list of numbers but int",
    ),
    "too few numbers": (
        GOOD | {"relevance": [1, 0]},
        DataError,
        "has 3 candidates, but 2 numbers in relevance",
    ),
    "a text as number": (
        GOOD | {"relevance": [1, "high", 0]},
        DataError,
        "number at index 1 of relevance is 'high', which is not a number",
    ),
    "true as number": (
        GOOD | {"relevance": [True, False, False]},
        DataError,
        "index 0 of relevance is True, which is not a number",
    ),
    "null as number": (GOOD | {"relevance": [1, None, 0]}, DataError, "is None, which is not a nu"),
    "below 0": (
        GOOD | {"relevance": [1, 0, -0.5]},
        DataError,
        "number at index 2 of relevance is -0.5, which is below 0",
    ),
    "not a number": (GOOD | {"relevance": [1, float("nan"), 0]}, DataError, "is nan, .* not finit"),
    "infinite": (GOOD | {"relevance": [float("inf"), 1, 0]}, DataError, "is inf, .* not finite"),
    "too large": (GOOD | {"relevance": [1, 0, 10**400]}, DataError, r"index 2 .* above 1e\+30"),
    "all equally relevant": (
        GOOD | {"relevance": [2, 2, 2]},
        DataError,
        "all 3 candidates have the relevance 2, so there is nothing to rank\n",
    ),
    "none relevant": (
        GOOD | {"relevance": [0, 0, 0]},
        DataError,
        "all 3 candidates have the relevance 0, so there is nothing to rank\n",
    ),
    "a single candidate": (
        GOOD | {"candidates": ["a"], "relevance": [1]},
        DataError,
        "has a single candidate",
    ),
}
BAD_SIDES = {
    "no negatives": (SIDES | {"negatives": []}, DataError, "has no negatives, so there is nothing"),
    "null negatives": (SIDES | {"negatives": None}, DataError, "has no negatives, so"),
    "no positives": (SIDES | {"positives": []}, DataError, "has no positives, so there is nothing"),
    "neither": (SIDES | {"positives": [], "negatives": []}, EmptyTextError, "has no candidates"),
    "an empty one": (
        SIDES | {"negatives": ["a", " "]},
        EmptyTextError,
        "text at index 1 of negatives is empty",
    ),
    "no list": (
        SIDES | {"positives": {"text": "a"}},
        FileFormatError,
        "positives is not a list of texts but dict",
    ),
    "another form": (GOOD, MissingColumnError, "has a candidate list, the rows before have none"),
    "a form too many": (
        {"query": "q", "candidates": ["a"], "positives": ["a"], "negatives": ["b"]},
        MissingColumnError,
        "has a candidate list",
    ),
}


def check_bad(tmp_path, good, row, error, message):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in [good, good, row, good]))
    with pytest.raises(error, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert (caught.value.path, caught.value.line) == (str(path), 3)
    rows = load(path, on_bad_row="skip")
    assert (len(rows), rows.num_rejected) == (3, 1)


@pytest.mark.parametrize("case", BAD)
def test_the_first_bad_row_stops_with_file_and_line(tmp_path, case):
    check_bad(tmp_path, GOOD, *BAD[case])


@pytest.mark.parametrize("case", BAD_SIDES)
def test_the_first_bad_row_of_positives_and_negatives_stops_with_file_and_line(tmp_path, case):
    check_bad(tmp_path, SIDES, *BAD_SIDES[case])


def test_what_does_not_go_together_in_any_row():
    with pytest.raises(DataError, match="has candidates, and positives or negatives too"):
        load([GOOD | {"negatives": ["b"]}])
    with pytest.raises(DataError, match="has relevance, which goes with candidates"):
        load([SIDES | {"relevance": [1, 1, 0]}])
    with pytest.raises(FileFormatError, match="'positives', 'label' could each be the relevance"):
        load([SIDES | {"label": 1}])
    with pytest.raises(MissingColumnError, match="has neither candidates nor positives"):
        load([{"query": "q", "relevance": [1]}])
    with pytest.raises(MissingColumnError, match="no relevance column"):
        load([{"query": "q", "negatives": ["b"]}])


def test_values_are_read():
    assert read_texts(["a", "b "], "x") == ["a", "b "]
    assert read_relevance([1, 0, 2.5, 0.0, 1e30], "x") == [1.0, 0.0, 2.5, 0.0, 1e30]


def encode(tokenizer, rows, *, max_length=64, token_types=True):
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return RerankEncoder().encode(
        tokenizer, columns, max_length=max_length, token_types=token_types
    )


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_feature_is_the_tokenizers_own_pair(family):
    tokenizer = tiny_tokenizer(family)
    rows = [GOOD, {"query": "a dog", "candidates": ["the house", "no"], "relevance": [0, 3]}]
    features = encode(tokenizer, rows)
    pairs = [(row["query"], text) for row in rows for text in row["candidates"]]
    expected = [tokenizer(*pair, return_token_type_ids=True) for pair in pairs]
    assert features.input_ids == [one["input_ids"] for one in expected]
    assert features.token_type_ids == [one["token_type_ids"] for one in expected]
    assert features.sources == [0, 0, 0, 1, 1]
    assert features.lengths.tolist() == list(map(len, features.input_ids))
    assert features.fields == {"labels": [2, 0.5, 0, 0, 3]}
    assert encode(tokenizer, rows, token_types=False).token_type_ids is None


@pytest.mark.parametrize("family", ["bert", "roberta", "xlnet", "modernbert"])
@pytest.mark.parametrize("num_query", [1, 3, 8, 9, 10, 11, 40])
def test_a_long_candidate_is_cut_and_the_query_stays_whole(family, num_query):
    tokenizer = tiny_tokenizer(family)
    room = 10
    max_length = room + tokenizer.num_special_tokens_to_add(pair=True)
    words = "the film was good and the food was not bad or fine".split()
    query = " ".join((words * 4)[:num_query])
    assert len(tokenizer.tokenize(query)) == num_query
    candidates = [" ".join((words * 4)[:count]) for count in (1, 2, 7, 12, 40)]
    row = {"query": query, "candidates": candidates}
    features = encode(tokenizer, [row], max_length=max_length)
    assert features.fields == {}
    types = features.token_type_ids
    assert types is not None
    for place, (candidate, ids) in enumerate(zip(candidates, features.input_ids, strict=True)):
        whole = len(candidate.split())
        assert features.lengths[place] - (max_length - room) == num_query + whole
        assert len(ids) == len(types[place]) == min(max_length, int(features.lengths[place]))
        if num_query < room:
            shorter = " ".join(candidate.split()[: room - num_query])
            expected = tokenizer(query, shorter, return_token_type_ids=True)
        else:
            expected = tokenizer(
                query,
                candidate,
                truncation="longest_first",
                max_length=max_length,
                return_token_type_ids=True,
            )
            assert len(tokenizer(query, candidate)["input_ids"]) > max_length
        assert (ids, types[place]) == (expected["input_ids"], expected["token_type_ids"])


def test_the_cut_of_the_longer_text_first_would_take_from_the_query():
    tokenizer = tiny_tokenizer()
    row = {"query": "the film was good and bad", "candidates": ["a dog at the house"]}
    (ids,) = encode(tokenizer, [row], max_length=11).input_ids
    other = tokenizer(row["query"], row["candidates"][0], truncation=True, max_length=11)
    assert tokenizer.decode(ids) == "[CLS] the film was good and bad [SEP] a dog [SEP]"
    assert tokenizer.decode(other["input_ids"]) != tokenizer.decode(ids)


def test_many_pairs_are_tokenised_part_by_part(monkeypatch):
    tokenizer = tiny_tokenizer()
    rows = [GOOD, GOOD | {"query": "the " * 9, "candidates": ["b", "film " * 9, "a a"]}] * 2
    whole = encode(tokenizer, rows, max_length=9)
    monkeypatch.setattr(rerank_rows, "_PAIRS_AT_ONCE", 4)
    parts = encode(tokenizer, rows, max_length=9)
    assert whole.input_ids == parts.input_ids and len(parts.input_ids) == 12
    assert whole.token_type_ids == parts.token_type_ids
    assert whole.lengths.tolist() == parts.lengths.tolist() and max(whole.lengths) > 9
    assert whole.sources == parts.sources and whole.fields == parts.fields


def test_the_candidates_of_a_row_go_together_into_batches():
    encoder = RerankEncoder()
    rows = load([GOOD, GOOD | {"candidates": ["x", "y"], "relevance": [0, 1]}])
    encoded = tokenise(rows, tiny_tokenizer(), encoder=encoder, max_length=8)
    assert encoder.makes_pairs([]) and encoder.makes_pairs(["query", "candidates"])
    assert encoded.groups is not None and encoded.groups.tolist() == [0, 0, 0, 1, 1]
    batch = collate(encoded, [3, 0, 4, 2])
    assert batch["labels"].dtype == torch.float32 and batch["labels"].tolist() == [0, 2, 1, 0]
    assert batch["rows"].tolist() == [1, 0, 1, 0]
    assert batch["token_type_ids"].sum() > 0
    assert encoded.inputs().rows["candidates"] == [GOOD["candidates"], ["x", "y"]]
    assert [p.tolist() for p in encoded.inputs().features_of_rows()] == [[0, 1, 2], [3, 4]]


def test_long_rows_are_counted_or_stop(tmp_path):
    path = tmp_path / "rows.jsonl"
    long = GOOD | {"candidates": ["a film", "film " * 50, "dog " * 60]}
    path.write_text("".join(json.dumps(row) + "\n" for row in (GOOD, long)))
    options = {"encoder": RerankEncoder(), "max_length": 20}
    encoded = tokenise(load(path), tiny_tokenizer(), **options)
    assert encoded.num_truncated == 2 and encoded.lengths.max() == 20
    assert np.flatnonzero(encoded.lengths == 20).tolist() == [4, 5]
    with pytest.raises(RowTooLongError, match=rf"{path}:2: the row has 55 tokens"):
        tokenise(load(path), tiny_tokenizer(), long_rows="stop", **options)
