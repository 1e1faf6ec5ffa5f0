from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.errors import (
    DataError,
    EmptyTextError,
    FileFormatError,
    MissingColumnError,
    RowTooLongError,
    UnknownLabelError,
)
from bertwright.tasks.embed_rows import EMBED_SCHEMA, TextsEncoder, text_id
from bertwright.training.config import TrainingConfig
from bertwright.training.steps import StepPlan
from tiny import tiny_tokenizer

SCORED = {"text": "a film", "text_b": "the movie", "score": 4.5}
PAIR = {"text": "a film", "text_b": "the movie"}
TRIPLET = {**PAIR, "negative": "a dog"}
LABELLED = {"text": "a film", "label": "film"}
ALONE = {"text": "a film"}


def load(source, **options):
    return load_rows(source, schema=EMBED_SCHEMA, **options)


def encode(rows, *, twice=False, **options):
    encoder = TextsEncoder(twice=twice)
    options = {"max_length": 20, **options}
    return tokenise(load(rows), tiny_tokenizer(), encoder=encoder, **options)


@pytest.mark.parametrize(
    ("row", "stored"),
    [
        (SCORED, SCORED),
        ({**PAIR, "label": "3"}, {**PAIR, "score": 3.0}),
        ({"sentence1": "a", "sentence2": "b", "similarity": 1}, ("a", "b", None, 1.0)),
        ({"query": "a", "text_pair": "b", "similarity_score": 0.5}, ("a", "b", None, 0.5)),
        (PAIR, PAIR),
        ({"anchor": "a", "positive": "b"}, ("a", "b", None, None)),
        (TRIPLET, TRIPLET),
        ({"anchor": "a", "positive": "b", "hard_negative": "c"}, ("a", "b", "c", None)),
        (LABELLED, {"text": "a film", "label": 0}),
        ({"text": "a film", "intent": 7}, {"text": "a film", "label": 0}),
        (ALONE, ALONE),
    ],
)
def test_every_form_is_found_by_name(row, stored):
    if isinstance(stored, tuple):
        names = ("text", "text_b", "negative", "score")
        stored = {n: v for n, v in zip(names, stored, strict=True) if v is not None}
    rows = load([row, row])
    assert [dict(r) for r in rows.dataset] == [{"row": i, **stored} for i in (0, 1)]
    assert (rows.labels is not None) == ("label" in stored)


def test_columns_can_be_named():
    rows = load(
        [{"a": "x", "b": "y", "c": "z", "text": "other"}],
        columns={"text": "a", "text_b": "b", "negative": "c"},
    )
    assert dict(rows.dataset[0]) == {"row": 0, "text": "x", "text_b": "y", "negative": "z"}


def test_labels_and_scores_are_not_read_where_none_are_needed():
    rows = load([SCORED, {**PAIR, "score": "high"}], need_label=False)
    assert rows.dataset.column_names == ["row", "text", "text_b"]
    assert load([LABELLED], need_label=False).dataset.column_names == ["row", "text"]


def test_labels_get_the_ids_of_a_given_list():
    rows = load([LABELLED, {"text": "x", "label": "dog"}])
    assert rows.labels is not None and rows.labels.names == ("dog", "film")
    assert rows.dataset["label"][:] == [1, 0]


@pytest.mark.parametrize(
    ("good", "bad", "error", "words"),
    [
        (SCORED, {**PAIR, "score": "high"}, DataError, "score 'high' is not a number"),
        (SCORED, {**PAIR, "score": None}, DataError, "score None is not a number"),
        (SCORED, {**PAIR, "score": True}, DataError, "score True is not a number"),
        (SCORED, {**PAIR, "score": "inf"}, DataError, "score 'inf' is not a finite number"),
        (SCORED, {**PAIR, "score": [1]}, DataError, r"score \[1\] is not a number"),
        (SCORED, PAIR, MissingColumnError, "has no label"),
        (PAIR, SCORED, MissingColumnError, "has a label, the rows before have none"),
        (PAIR, ALONE, MissingColumnError, "has no second text"),
        (ALONE, PAIR, MissingColumnError, "has a second text, the rows before have none"),
        (TRIPLET, PAIR, MissingColumnError, "has no negative"),
        (PAIR, TRIPLET, MissingColumnError, "has a negative, the rows before have none"),
        (LABELLED, ALONE, MissingColumnError, "has no label"),
        (PAIR, {"text": "x", "text_b": "  "}, EmptyTextError, "text_b is empty"),
        (TRIPLET, {**PAIR, "negative": ""}, EmptyTextError, "negative is empty"),
        (TRIPLET, {**PAIR, "negative": 3}, FileFormatError, "negative is not text but int"),
        (ALONE, {"text": "\n"}, EmptyTextError, "text is empty"),
        (LABELLED, {"text": "x", "label": None}, UnknownLabelError, "has no label"),
        (LABELLED, {"text": "x", "label": 0.5}, UnknownLabelError, "0.5 is neither"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(write_jsonl, good, bad, error, words):
    path = write_jsonl([good, good, bad])
    with pytest.raises(error, match=rf"^{path}:3: .*{words}"):
        load(path)
    rows = load(path, on_bad_row="skip")
    assert len(rows) == 2 and rows.num_rejected == 1


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**TRIPLET, "score": 1}, "has both a score and a negative"),
        ({**ALONE, "negative": "x"}, "has a negative, but no second text"),
        ({**LABELLED, "negative": "x"}, "has a negative, but no second text"),
    ],
)
def test_columns_that_do_not_go_together_are_named(write_jsonl, row, words):
    path = write_jsonl([row])
    with pytest.raises(DataError, match=rf"^{path}:1: {words}"):
        load(path)


def test_tables_are_read_and_their_bad_rows_named(tmp_path):
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("sentence1", "sentence2", "score"), ("a", "b", "0.5"), ("a\nb", "c", "x")]
        )
    with pytest.raises(DataError, match=rf"^{path}:3: score 'x' is not a number"):
        load(path)
    (row,) = load(path, on_bad_row="skip").dataset
    assert row == {"row": 0, "text": "a", "text_b": "b", "score": 0.5}
    path.write_text("title,rest\nx,y\n")
    with pytest.raises(MissingColumnError, match="no text column among 'title', 'rest'"):
        load(path)


@given(st.lists(st.text(), min_size=2, max_size=20))
def test_the_same_text_has_the_same_number_and_others_have_others(texts):
    ids = [text_id(text) for text in texts]
    assert all(0 <= number < 2**63 for number in ids)
    assert len(set(ids)) == len(set(texts))


def test_each_text_is_a_feature_and_knows_its_row():
    tokenizer = tiny_tokenizer()
    rows = [TRIPLET, {"text": "dog", "text_b": "a film", "negative": "house house"}]
    encoded = encode(rows)
    texts = ["a film", "the movie", "a dog", "dog", "a film", "house house"]
    ids = [tokens.tolist() for tokens in encoded.tokens(np.arange(6))]
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == texts
    assert encoded.row_numbers.tolist() == [0, 0, 0, 1, 1, 1]
    batch = encoded.collate(np.array([3, 4, 5, 0, 1, 2]))
    assert batch["places"].tolist() == [0, 1, 2, 0, 1, 2]
    assert batch["text_ids"].dtype == torch.int64
    assert batch["text_ids"].tolist() == [text_id(texts[i]) for i in (3, 4, 5, 0, 1, 2)]
    assert batch["text_ids"][1] == batch["text_ids"][3] != batch["text_ids"][0]
    assert "token_type_ids" not in batch and "scores" not in batch and "groups" not in batch
    assert [p.tolist() for p in encoded.inputs().features_of_rows()] == [[0, 1, 2], [3, 4, 5]]


def test_scores_and_labels_stand_on_every_text_of_the_row():
    scored = encode([SCORED, {**SCORED, "score": -1}]).collate(np.arange(4))
    assert scored["scores"].dtype == torch.float32
    assert scored["scores"].tolist() == [4.5, 4.5, -1, -1] and "groups" not in scored
    labelled = encode([LABELLED, {"text": "x", "label": "dog"}]).collate(np.arange(2))
    assert labelled["groups"].tolist() == [1, 0] and labelled["places"].tolist() == [0, 0]


def test_texts_alone_are_given_twice_for_training_only():
    rows = [ALONE, {"text": "dog"}]
    once, twice = encode(rows), encode(rows, twice=True)
    assert len(once) == 2 and once.collate(np.arange(2))["places"].tolist() == [0, 0]
    batch = twice.collate(np.arange(4))
    assert batch["places"].tolist() == [0, 1, 0, 1] and twice.row_numbers.tolist() == [0, 0, 1, 1]
    assert batch["text_ids"].tolist() == [text_id(t) for t in ("a film", "a film", "dog", "dog")]
    assert torch.equal(batch["input_ids"][0], batch["input_ids"][1])
    assert once.fingerprint != twice.fingerprint
    for row in (PAIR, TRIPLET, LABELLED, SCORED):
        assert len(encode([row], twice=True)) == len(encode([row]))


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 3),
    st.integers(1, 7),
    st.sampled_from([24, 48, 96, 10_000]),
    st.integers(0, 1000),
)
def test_the_texts_of_a_row_stay_together_in_every_batch(per_row, batch_size, tokens, seed):
    rng = np.random.default_rng(seed)
    names = ("text", "text_b", "negative")[:per_row]
    rows = [{name: "film " * int(rng.integers(1, 16)) for name in names} for _ in range(23)]
    encoded = encode(rows, twice=per_row == 1)
    count = max(per_row, 2)
    config = TrainingConfig(batch_size=batch_size, batch_tokens=tokens, epochs=2, seed=seed)
    seen = []
    for step in StepPlan(encoded, config).steps_after(0):
        for indices in step.batches:
            batch = encoded.collate(indices)
            owners = batch["rows"].reshape(-1, count)
            assert len(owners) <= batch_size and (owners == owners[:, :1]).all()
            assert batch["places"].reshape(-1, count).tolist() == [list(range(count))] * len(owners)
            seen += owners[:, 0].tolist()
    assert sorted(seen) == sorted([*range(23)] * 2)


def test_long_texts_are_cut_each_by_itself_or_stop(write_jsonl):
    path = write_jsonl([PAIR, {"text": "dog", "text_b": "film " * 30}])
    encoded = encode(path)
    assert encoded.num_truncated == 1 and encoded.lengths.tolist() == [4, 4, 3, 20]
    with pytest.raises(RowTooLongError, match=rf"{path}:2: the row has 32 tokens"):
        encode(path, long_rows="stop")


def test_the_encoder_names_itself_and_makes_no_pairs_of_texts():
    once, twice = TextsEncoder(), TextsEncoder(twice=True)
    assert once.key != twice.key and once.together and twice.together
    assert not once.makes_pairs(["text", "text_b"])
