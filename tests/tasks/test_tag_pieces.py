from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.data.batching import collate
from bertwright.data.encode import uses_token_types
from bertwright.data.tokenise import tokenise
from bertwright.errors import ConfigError, ModelLoadError, RowTooLongError
from bertwright.tasks.tag_pieces import TagEncoder
from tag_inputs import (
    OTHERS,
    ROW,
    TAGS,
    TOKENS,
    any_tokenizer,
    batch_of,
    encode,
    load,
    sentence_piece,
    spelling_tokenizer,
    words_of,
)
from tiny import FAMILY_NAMES, tiny_tokenizer

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
    assert nothing.fields == {
        **{"word_piece": [[-1, -1]], "labels": [[-100, -100]]},
        **{"before": [-100], "goes_on": [0]},
    }


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
    assert encoded.targets.keys() == {"labels", "before", "goes_on"}


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
