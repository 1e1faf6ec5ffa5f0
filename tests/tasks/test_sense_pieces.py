from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders

from bertwright.data.batching import collate
from bertwright.data.encode import uses_token_types
from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.errors import DataError, ModelLoadError, RowTooLongError
from bertwright.tasks.sense_pieces import SenseEncoder, share_room, window_around
from bertwright.tasks.sense_rows import SENSE_SCHEMA
from span_inputs import BYTES, NAMES, byte_tokenizer, tokenizer_of
from tag_inputs import OTHERS, any_tokenizer, byte_level, sentence_piece, spelling_tokenizer
from tiny import FAMILY_NAMES, tiny_tokenizer

EVERY = [*FAMILY_NAMES, *OTHERS]
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"


def place_of(text, word):
    start = text.index(word)
    return start, start + len(word)


def columns_of(*rows):
    """Return columns of (text, word) or (text, word, text_b, word_b) rows."""
    columns = {"text": [], "start": [], "end": []}
    if len(rows[0]) == 4:
        columns |= {"text_b": [], "start_b": [], "end_b": []}
    for row in rows:
        for side, text, word in zip(("", "_b"), row[::2], row[1::2], strict=False):
            start, end = place_of(text, word)
            values = {"text": text, "start": start, "end": end}
            for name, value in values.items():
                columns[f"{name}{side}"].append(value)
    return columns


def encode(tokenizer, *rows, max_length=10_000, labels=None, token_types=False, **options):
    columns = columns_of(*rows) | ({} if labels is None else {"label": labels})
    encoder = SenseEncoder(**options)
    return encoder.encode(tokenizer, columns, max_length=max_length, token_types=token_types)


def pieces_of(tokenizer, features, feature=0, side=""):
    tokens = tokenizer.convert_ids_to_tokens(features.input_ids[feature])
    return [tokens[place] for place in features.fields[f"pieces{side}"][feature]]


# ---- the pieces of the word --------------------------------------------------------------------

PLAIN = "the zebra of dog"
MIXED = f"😀 the ＡＢ café cafe\u0301s 中国 👍🏽, {FAMILY}! e\u0301\u0323 dog"


@pytest.mark.parametrize(
    ("name", "text", "word", "expected"),
    [
        ("bert", PLAIN, "zebra", ["z", "##e", "##b", "##r", "##a"]),
        ("bert", PLAIN, "zebra of", ["z", "##e", "##b", "##r", "##a", "of"]),
        ("bert", PLAIN, "br", ["##b", "##r"]),
        ("bert", PLAIN, " dog", ["dog"]),
        ("bert", MIXED, "😀", ["[UNK]"]),
        ("bert", MIXED, "ＡＢ", ["[UNK]"]),
        ("bert", MIXED, "café", ["c", "##a", "##f", "##e"]),
        ("bert", MIXED, "cafe\u0301", ["c", "##a", "##f", "##e"]),
        ("bert", MIXED, "\u0301s", ["##e", "##s"]),
        ("bert", MIXED, "e\u0301\u0323", ["e"]),
        ("bert", MIXED, "dog", ["dog"]),
        ("roberta", PLAIN, "zebra", ["z", "##e", "##b", "##r", "##a"]),
        ("xlnet", PLAIN, "dog", ["dog"]),
        ("spelling", "在中国人", "国", ["国"]),
        ("spelling", "在中国人", "中国", ["中", "国"]),
        ("byte_level", PLAIN, "zebra", ["Ġze", "b", "r", "a"]),
        ("byte_level", PLAIN, "dog", ["d", "o", "g"]),
        ("byte_level_untrimmed", PLAIN, "dog", ["d", "o", "g"]),
        ("byte_level_untrimmed", PLAIN, "the", ["t", "h", "e"]),
        ("byte_level", MIXED, "😀", ["ð", "Ł", "ĺ", "Ģ"]),
        ("byte_level", MIXED, "中国", ["ä", "¸", "Ń", "å", "Ľ", "½"]),
        ("byte_level", MIXED, "ＡＢ", ["ï", "¼", "¡", "ï", "¼", "¢"]),
        ("byte_level", MIXED, "e\u0301\u0323", ["e", "Ì", "ģ", "Ì", "£"]),
        ("byte_level_untrimmed", MIXED, "👍🏽", list("ðŁĳįðŁı½")),
        ("sentence_piece", PLAIN, "zebra", ["▁zeb", "r", "a"]),
        ("sentence_piece", PLAIN, "the", ["▁the"]),
        ("sentence_piece", PLAIN, "dog", ["d", "o", "g"]),
        ("sentence_piece_whole", PLAIN, "of dog", ["o", "f", "d", "o", "g"]),
        ("sentence_piece", MIXED, "ＡＢ", ["A", "B"]),
        ("sentence_piece", MIXED, "cafe\u0301", ["c", "a", "f", "<unk>"]),
        ("sentence_piece", MIXED, "😀", ["<unk>"]),
        ("sentence_piece", MIXED, "国", ["中国"]),
        ("sentence_piece_whole", MIXED, "中国", ["中国"]),
        ("sentence_piece_whole", MIXED, FAMILY, ["<unk>"]),
    ],
)
def test_pieces_by_hand(name, text, word, expected):
    tokenizer = spelling_tokenizer(["在中国人"]) if name == "spelling" else any_tokenizer(name)
    features = encode(tokenizer, (text, word))
    assert pieces_of(tokenizer, features) == expected


def test_pieces_of_a_tokenizer_that_puts_the_space_before_the_word():
    for trims in (True, False):
        tokenizer = byte_tokenizer(trim_offsets=trims)
        features = encode(tokenizer, ("the film was good", "film"))
        assert pieces_of(tokenizer, features) == ["Ġfilm"]
        features = encode(tokenizer, ("the film was good", "the"))
        assert "".join(pieces_of(tokenizer, features)) == "the"


@pytest.mark.parametrize("name", EVERY)
def test_pieces_stand_for_all_of_the_word_and_for_nothing_else(name):
    """Every piece that is not the word's stands for no character of it, by the tokenizer."""
    tokenizer = any_tokenizer(name)
    for word in ("😀", "the", "ＡＢ", "café", "cafe\u0301", "中国", "👍🏽", FAMILY, "dog"):
        start, end = place_of(MIXED, word)
        found = encode(tokenizer, (MIXED, word)).fields["pieces"][0]
        encoding = tokenizer(MIXED, return_offsets_mapping=True)
        tokens = tokenizer.convert_ids_to_tokens(encoding["input_ids"])
        assert found == list(range(found[0], found[-1] + 1))
        for place, (a, b) in enumerate(encoding["offset_mapping"]):
            overlaps = a < b and a < end and start < b and tokens[place] not in ("▁", "Ġ")
            assert (place in found) == overlaps
        a, b = encoding["offset_mapping"][found[0]][0], encoding["offset_mapping"][found[-1]][1]
        assert MIXED[a:b].strip("\u0301 ") == word.strip("\u0301")


def test_the_piece_of_a_joined_word_and_of_a_word_that_is_gone():
    tokenizer = tiny_tokenizer("bert")
    tokenizer.add_tokens(["dog . a"])
    joined = encode(tokenizer, ("the dog . a car", "."), ("the dog . a car", "a"))
    assert [pieces_of(tokenizer, joined, i) for i in (0, 1)] == [["dog . a"]] * 2
    gone = encode(tokenizer, ("the \u200d car", "\u200d"), ("the\u0301 car", "\u0301"))
    assert [pieces_of(tokenizer, gone, i) for i in (0, 1)] == [["the"]] * 2


def test_a_bare_mark_is_a_piece_where_it_is_the_word():
    tokenizer = sentence_piece()
    assert pieces_of(tokenizer, encode(tokenizer, ("the ▁ car", "▁"))) == ["▁"]
    tokenizer = byte_level()
    assert pieces_of(tokenizer, encode(tokenizer, ("aĠb", "Ġ"))) == ["Ä", "ł"]


def test_a_word_without_any_piece():
    tokenizer = tiny_tokenizer("bert")
    rows = [("the dog", "dog"), ("\u200d dog", "\u200d")]
    found = encode(tokenizer, *rows, labels=[1, 0])
    assert found.fields["pieces"] == [[2], []]
    assert [values.tolist() for values in found.fields["labels"]] == [
        [-100, -100, 1, -100], [-100, -100, -100],
    ]  # fmt: skip
    assert found.fields["weights"][1].tolist() == [0, 0, 0]
    with pytest.raises(DataError, match=r"row 1: the tokenizer leaves nothing of the word"):
        encode(tokenizer, *rows, labels=[1, 0], strict=True)
    assert encode(tokenizer, *rows, strict=True).fields["pieces"] == [[2], []]
    pair = ("\u200d dog", "\u200d", "a dog", "dog")
    found = encode(tokenizer, pair, labels=[1])
    assert (found.fields["pieces"], found.fields["pieces_b"]) == ([[]], [[4]])
    assert found.fields["weights"][0].tolist() == [0, 0, 0, 0, 1, 0]
    with pytest.raises(DataError, match="row 0"):
        encode(tokenizer, pair, labels=[1], strict=True)
    nothing = encode(tokenizer, ("\u200d", "\u200d"), max_length=3)
    assert nothing.fields["pieces"] == [[]] and len(nothing.input_ids[0]) == 2


# ---- features ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_what_fits_is_what_the_tokenizer_makes_of_it(name):
    tokenizer = tokenizer_of(name)
    types = uses_token_types(tokenizer, pairs=True)
    rows = [("the film, good", "film", "a zebra x", "x"), ("the", "the", "zebra", "zebra")]
    found = encode(tokenizer, *rows, token_types=types)
    for row, (text, word, text_b, word_b) in enumerate(rows):
        expected = tokenizer(text, text_b)
        assert found.input_ids[row] == expected["input_ids"]
        if found.token_type_ids is not None:
            assert found.token_type_ids[row] == expected["token_type_ids"]
        for side, of_text in (("", word), ("_b", word_b)):
            tokens = pieces_of(tokenizer, found, row, side)
            assert "".join(token.strip("#▁Ġ") for token in tokens) == of_text
    assert (found.token_type_ids is not None) == types
    assert found.sources == [0, 1]
    assert found.lengths.tolist() == list(map(len, found.input_ids))
    single = encode(tokenizer, *((text, word) for text, word, _, _ in rows))
    assert single.input_ids == [tokenizer(text)["input_ids"] for text, *_ in rows]
    assert single.fields.keys() == {"pieces"}


def test_apart_a_pair_has_a_feature_for_each_text():
    tokenizer = tiny_tokenizer("bert")
    rows = [("the film", "film", "a zebra", "zebra"), ("the", "the", "dog", "dog")]
    found = encode(tokenizer, *rows, labels=[1, 0], apart=True)
    texts = [text for row in rows for text in row[::2]]
    assert found.input_ids == [tokenizer(text)["input_ids"] for text in texts]
    assert found.sources == [0, 0, 1, 1]
    assert found.fields["pieces"] == [[2], [2, 3, 4, 5, 6], [1], [1]]
    assert [values.max() for values in found.fields["labels"]] == [1, 1, 0, 0]
    assert found.fields.keys() == {"pieces", "labels", "weights"}
    encoders = SenseEncoder(), SenseEncoder(apart=True), SenseEncoder(strict=True)
    assert len({encoder.key for encoder in encoders}) == 3
    assert [encoder.together for encoder in encoders] == [False, True, False]
    assert [encoder.makes_pairs({"text", "text_b"}) for encoder in encoders] == [True, False, True]


def test_targets_by_hand():
    tokenizer = tiny_tokenizer("bert")
    row = ("the zoo was good", "zoo", "a film and car", "film")
    found = encode(tokenizer, row, labels=[7])
    assert tokenizer.convert_ids_to_tokens(found.input_ids[0])[:6] == [
        "[CLS]", "the", "z", "##o", "##o", "was",
    ]  # fmt: skip
    (labels,), (weights,) = found.fields["labels"], found.fields["weights"]
    assert found.fields["pieces"] == [[2, 3, 4]] and found.fields["pieces_b"] == [[9]]
    assert labels.tolist() == [-100, -100, 7, 7, 7, *[-100] * 4, 7, *[-100] * 3]
    third = np.float32(1 / 6)
    assert weights.tolist() == [0, 0, third, third, third, 0, 0, 0, 0, 0.5, 0, 0, 0]


# ---- windows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "count", "room", "expected"),
    [
        ((5, 6), 11, 5, (3, 8)),
        ((5, 6), 11, 4, (4, 8)),
        ((5, 7), 11, 5, (4, 9)),
        ((0, 1), 11, 5, (0, 5)),
        ((1, 2), 11, 5, (0, 5)),
        ((10, 11), 11, 5, (6, 11)),
        ((9, 10), 11, 5, (6, 11)),
        ((2, 9), 11, 5, (2, 7)),
        ((6, 11), 11, 4, (6, 10)),
        ((2, 3), 4, 9, (0, 4)),
        ((0, 0), 9, 3, (0, 3)),
        ((0, 0), 0, 3, (0, 0)),
    ],
)
def test_windows_by_hand(span, count, room, expected):
    assert window_around(span, count, room) == expected


@settings(deadline=None, max_examples=300)
@given(st.data(), st.integers(1, 60), st.integers(1, 40))
def test_a_window_holds_its_word_with_context_on_both_sides(data, count, room):
    begin = data.draw(st.integers(0, count - 1))
    end = data.draw(st.integers(begin + 1, count))
    first, last = window_around((begin, end), count, room)
    assert last - first == min(count, room) and first >= 0 and last <= count
    if end - begin > room:
        assert first == begin
        return
    assert first <= begin and end <= last
    before, after = begin - first, last - end
    if abs(before - after) > 1:  # one side is short only because the text ends there
        assert first == 0 if before < after else last == count


@pytest.mark.parametrize(
    ("counts", "spans", "room", "expected"),
    [
        ([20], [3], 10, [10]),
        ([5], [3], 10, [5]),
        ([20, 20], [1, 1], 10, [5, 5]),
        ([20, 20], [1, 1], 11, [5, 6]),
        ([20, 3], [1, 1], 10, [7, 3]),
        ([3, 20], [1, 1], 10, [3, 7]),
        ([20, 20], [8, 1], 10, [8, 2]),
        ([20, 20], [1, 8], 10, [2, 8]),
        ([20, 20], [9, 9], 10, [5, 5]),
        ([20, 20], [2, 20], 10, [2, 8]),
        ([20, 20], [20, 2], 10, [8, 2]),
        ([2, 4], [1, 1], 10, [2, 4]),
        ([0, 20], [0, 1], 10, [0, 10]),
        ([20, 20], [20, 20], 2, [1, 1]),
    ],
)
def test_shares_by_hand(counts, spans, room, expected):
    assert share_room(counts, spans, room) == expected


@settings(deadline=None, max_examples=300)
@given(st.data(), st.integers(1, 40), st.integers(1, 40), st.integers(2, 60))
def test_shares_hold_the_words_and_use_all_the_room(data, count_a, count_b, room):
    counts = [count_a, count_b]
    spans = [data.draw(st.integers(1, count)) for count in counts]
    shares = share_room(counts, spans, room)
    assert sum(shares) == min(room, sum(counts))
    assert all(1 <= share <= count for share, count in zip(shares, counts, strict=True))
    if sum(spans) <= room:
        assert all(span <= share for span, share in zip(spans, shares, strict=True))
        easy = max(spans) <= room // 2
        if easy and min(counts) > room // 2:
            assert abs(shares[0] - shares[1]) <= 1


WORDS = ["the", "a", "dog", "zebra", "中", "abcdefghijkl", "!", "😀", "cafe\u0301"]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=40)


@pytest.mark.parametrize("name", ["bert", "xlnet", "roberta", *OTHERS])
@settings(deadline=None, max_examples=60)
@given(st.data(), TEXTS, st.integers(20, 60))
def test_a_long_text_is_cut_around_its_word(name, data, words, max_length):
    tokenizer = any_tokenizer(name)
    at = data.draw(st.integers(0, len(words) - 1))
    text, start = " ".join(words), len(" ".join([*words[:at], ""]))
    columns = {"text": [text], "start": [start], "end": [start + len(words[at])]}
    encoder = SenseEncoder()
    whole = encoder.encode(tokenizer, columns, max_length=10_000, token_types=True)
    found = encoder.encode(tokenizer, columns, max_length=max_length, token_types=True)
    (all_ids,), (ids,) = whole.input_ids, found.input_ids
    assert found.lengths.tolist() == [len(all_ids)]
    assert len(ids) == len(found.token_type_ids[0]) == min(len(all_ids), max_length)
    (before,), (after,) = whole.fields["pieces"], found.fields["pieces"]
    assert [ids[place] for place in after] == [all_ids[place] for place in before] != []
    if len(all_ids) <= max_length:
        assert ids == all_ids
        return
    shift = before[0] - after[0]
    specials = tokenizer(text, return_special_tokens_mask=True)["special_tokens_mask"]
    head, tail = specials.index(0), specials[::-1].index(0)
    inner = ids[head : len(ids) - tail]
    assert ids[:head] == all_ids[:head] and ids[len(ids) - tail :] == all_ids[len(all_ids) - tail :]
    assert all_ids[head + shift : head + shift + len(inner)] == inner
    left, right = after[0] - head, len(ids) - tail - 1 - after[-1]
    if abs(left - right) > 1:
        assert shift == 0 if left < right else head + shift + len(inner) == len(all_ids) - tail


@pytest.mark.parametrize("name", ["bert", "xlnet", "roberta", BYTES])
@settings(deadline=None, max_examples=60)
@given(st.data(), TEXTS, TEXTS, st.integers(40, 70))
def test_of_a_long_pair_both_words_are_kept(name, data, words_a, words_b, max_length):
    tokenizer = tokenizer_of(name)
    columns, texts = {}, []
    for side, words in (("", words_a), ("_b", words_b)):
        at = data.draw(st.integers(0, len(words) - 1))
        text, start = " ".join(words), len(" ".join([*words[:at], ""]))
        values = {"text": text, "start": start, "end": start + len(words[at])}
        columns |= {f"{key}{side}": [value] for key, value in values.items()}
        texts.append(text)
    encoder = SenseEncoder()
    whole = encoder.encode(tokenizer, columns, max_length=10_000, token_types=True)
    found = encoder.encode(tokenizer, columns, max_length=max_length, token_types=True)
    (all_ids,), (ids,) = whole.input_ids, found.input_ids
    assert len(ids) == min(len(all_ids), max_length)
    for side in ("pieces", "pieces_b"):
        (before,), (after,) = whole.fields[side], found.fields[side]
        assert [ids[place] for place in after] == [all_ids[place] for place in before] != []
        types = whole.token_type_ids[0][before[0]], found.token_type_ids[0][after[0]]
        assert types[0] == types[1]
    specials = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    kept = [[i for i in row if i in specials] for row in (all_ids, ids)]
    assert kept[0] == kept[1]


def test_only_a_word_longer_than_the_window_is_cut():
    tokenizer = tiny_tokenizer("bert")
    giant = "abcdefghijklmnopqrstuvwxyz"
    found = encode(tokenizer, (f"the dog {giant} cat", giant), max_length=12)
    assert pieces_of(tokenizer, found) == ["a", *(f"##{letter}" for letter in "bcdefghij")]
    assert len(found.input_ids[0]) == 12 and found.lengths.tolist() == [31]
    pair = (f"the {giant} dog", giant, "a dog and a cat and a man", "cat")
    found = encode(tokenizer, pair, max_length=13, token_types=True)
    tokens = tokenizer.convert_ids_to_tokens(found.input_ids[0])
    assert " ".join(tokens) == "[CLS] a ##b ##c ##d ##e ##f ##g ##h ##i [SEP] cat [SEP]"
    assert found.token_type_ids == [[*[0] * 11, 1, 1]]
    least = encode(tokenizer, pair, max_length=5)
    assert tokenizer.convert_ids_to_tokens(least.input_ids[0]) == [
        "[CLS]", "a", "[SEP]", "cat", "[SEP]",
    ]  # fmt: skip


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_least_length_leaves_a_piece_of_each_word(name):
    tokenizer = tiny_tokenizer(name)
    for row, pairs in ((("the dog", "dog"), False), (("a dog", "dog", "the cat", "cat"), True)):
        least = SenseEncoder().least_length(tokenizer, pairs=pairs)
        found = encode(tokenizer, row, max_length=least)
        assert len(found.input_ids[0]) == least
        assert pieces_of(tokenizer, found) == ["dog"]
        if pairs:
            assert pieces_of(tokenizer, found, side="_b") == ["cat"]


# ---- the whole way -----------------------------------------------------------------------------


def rows_of(*rows, **options):
    columns = columns_of(*rows)
    labels = [str(i % 2) for i in range(len(rows))]
    found = [
        {**{name: column[i] for name, column in columns.items()}, "label": labels[i]}
        for i in range(len(rows))
    ]
    return load_rows(found, schema=SENSE_SCHEMA, **options)


def test_features_go_through_the_cache_into_batches():
    rows = rows_of(("the zoo", "zoo", "a dog", "dog"), ("the", "the", "the cat is " * 9, "cat"))
    tokenizer = tiny_tokenizer("bert")
    encoded = tokenise(rows, tokenizer, encoder=SenseEncoder(), max_length=20)
    assert encoded.targets.keys() == {"labels", "weights"}
    assert encoded.lengths.tolist() == [9, 20] and encoded.num_truncated == 1
    batch = collate(encoded, range(2))
    assert batch["labels"].shape == batch["weights"].shape == batch["input_ids"].shape
    assert batch["labels"].amax(dim=1).tolist() == [0, 1]
    assert batch["weights"].sum(dim=1).tolist() == pytest.approx([1, 1])
    assert "pieces" not in batch
    fields = encoded.inputs().fields
    assert [pieces.tolist() for pieces in fields["pieces"]] == [[2, 3, 4], [1]]
    assert [pieces.tolist() for pieces in fields["pieces_b"]] == [[7], [4]]
    with pytest.raises(RowTooLongError, match="more than 20"):
        tokenise(rows, tokenizer, encoder=SenseEncoder(), max_length=20, long_rows="stop")
    apart = tokenise(rows, tokenizer, encoder=SenseEncoder(apart=True), max_length=20)
    assert apart.row_numbers.tolist() == apart.groups.tolist() == [0, 0, 1, 1]
    assert [pieces.tolist() for pieces in apart.inputs().fields["pieces"]] == [
        [2, 3, 4], [2], [1], [2],
    ]  # fmt: skip


def test_rows_without_labels_have_no_targets():
    rows = rows_of(("the zoo", "zoo"), need_label=False)
    encoded = tokenise(rows, tiny_tokenizer("bert"), encoder=SenseEncoder(strict=True))
    assert not encoded.targets and [p.tolist() for p in encoded.field("pieces", [0])] == [[2, 3, 4]]


def test_a_word_that_is_gone_stops_training_with_its_row():
    rows = rows_of(("the zoo", "zoo"), ("\u200d zoo", "\u200d"))
    tokenizer = tiny_tokenizer("bert")
    assert len(tokenise(rows, tokenizer, encoder=SenseEncoder())) == 2
    with pytest.raises(DataError, match="row 1"):
        tokenise(rows.select([1]), tokenizer, encoder=SenseEncoder(strict=True))


def test_what_the_tokenizer_was_told_before_does_not_matter():
    tokenizer = tiny_tokenizer()
    fresh = encode(tokenizer, ("the zebra " * 9, "zebra"))
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    assert encode(tokenizer, ("the zebra " * 9, "zebra")).input_ids == fresh.input_ids


def test_a_tokenizer_without_offsets_is_refused():
    with pytest.raises(ModelLoadError, match="where its tokens stand"):
        encode(SimpleNamespace(backend_tokenizer=None), ("the film", "film"))


def spelt(tokens, name):
    """Return what these tokens spell, in small letters."""
    if name == BYTES:
        return decoders.ByteLevel().decode(tokens).strip().lower()
    return "".join(token.removeprefix("##") for token in tokens).lower()


@pytest.mark.parametrize("name", ["bert", "xlnet", BYTES, "spelling"])
@pytest.mark.parametrize("data", ["mcl_wic_en", "mcl_wic_zh", "morsense_zh"])
def test_words_of_real_rows_come_back_from_their_pieces(shared_data, data, name):
    rows = load_rows(shared_data(data) / "dev.jsonl", schema=SENSE_SCHEMA).select(range(200))
    texts = [*rows.texts(), *(rows.texts_b() or [])]
    tokenizer = spelling_tokenizer(texts) if name == "spelling" else tokenizer_of(name)
    encoder = SenseEncoder(apart=True, strict=True)
    encoded = tokenise(rows, tokenizer, encoder=encoder, max_length=40)
    assert encoded.num_truncated > 0 or (data, name) == ("morsense_zh", "bert")
    columns = rows.columns(SENSE_SCHEMA.stored)
    sides = [""] if data == "morsense_zh" else ["", "_b"]
    words = [
        columns[f"text{side}"][row][columns[f"start{side}"][row] : columns[f"end{side}"][row]]
        for row in range(200)
        for side in sides
    ]
    everything = np.arange(len(encoded))
    fields = encoded.tokens(everything), encoded.field("pieces", everything)
    num_known = 0
    for word, ids, pieces in zip(words, *fields, strict=True):
        assert len(pieces)
        if tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids[pieces]:
            num_known += 1
            assert spelt(tokenizer.convert_ids_to_tokens(ids[pieces]), name) == word.lower()
    assert num_known > 150 or (name != "spelling" and data != "mcl_wic_en")
