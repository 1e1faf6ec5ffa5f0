"""Referees: the tokenizer's own overflow, and plain loops over characters."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bertwright.data.batching import collate
from bertwright.data.encode import uses_token_types
from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.errors import ConfigError, ModelLoadError, RowTooLongError
from bertwright.tasks.span_rows import SPAN_SCHEMA
from bertwright.tasks.span_windows import SpanEncoder, visible_offsets
from span_inputs import (
    BYTES,
    GOOD,
    NAMES,
    PIECES,
    PLAIN,
    SPACES,
    WORDS,
    byte_tokenizer,
    encode,
    pairs_of,
    row_of,
    tokenizer_of,
    with_answers,
)
from tiny import FAMILY_NAMES, tiny_tokenizer


def whole(tokenizer, context):
    """Return the (first, last) characters of all visible tokens, from one long window."""
    features = encode(tokenizer, [row_of(context)], max_length=100_000)
    assert len(features.input_ids) == 1
    return pairs_of(features, 0)


def check_answer(features, context, start, end, all_pairs):
    """Check the targets of one row's windows; return how many windows hold the answer.

    `all_pairs` has the tokens of the whole context: a window that has as many of the answer's
    tokens as that holds the answer.
    """

    def inside(pairs):
        return sum(a < end and b > start for a, b in pairs)

    assert inside(all_pairs) > 0
    held = 0
    for window, ids in enumerate(features.input_ids):
        first = features.fields["start_positions"][window]
        last = features.fields["end_positions"][window]
        null = features.fields["null_position"][window]
        assert 0 <= first <= last < len(ids)
        if inside(pairs_of(features, window)) < inside(all_pairs):
            assert (first, last) == (null, null), "a window without the whole answer has none"
            continue
        held += 1
        a = features.fields["offset_start"][window][first]
        b = features.fields["offset_end"][window][last]
        assert context[a:b] == context[start:end]
    return held


@st.composite
def questions_and_answers(draw, words=tuple(WORDS)):
    """Draw a context with the place of an answer of whole words."""
    parts = draw(st.lists(st.sampled_from(words), min_size=1, max_size=40))
    spaces = draw(st.lists(st.sampled_from(SPACES), min_size=len(parts), max_size=len(parts)))
    first = draw(st.integers(0, len(parts) - 1))
    last = draw(st.integers(first, min(first + 4, len(parts) - 1)))
    context, places = draw(st.sampled_from(["", " "])), []
    for part, space in zip(parts, spaces, strict=True):
        places.append((len(context), len(context) + len(part)))
        context += part + space
    return context, places[first][0], places[last][1]


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(questions_and_answers(), st.integers(24, 80), st.integers(0, 30), st.integers(1, 9))
def test_targets_point_at_the_answer(name, drawn, max_length, stride, num_question):
    context, start, end = drawn
    tokenizer = tokenizer_of(name)
    features = encode(
        tokenizer,
        [row_of(context, start, end)],
        max_length=max_length,
        stride_tokens=stride,
        max_question_tokens=num_question,
    )
    all_pairs = whole(tokenizer, context)
    held = check_answer(features, context, start, end, all_pairs)
    room = room_of(tokenizer, max_length, num_question)
    unbroken = encode(tokenizer, [row_of(context, start, end)], max_length=100_000).fields
    tokens = unbroken["end_positions"][0] - unbroken["start_positions"][0] + 1
    if tokens <= min(stride, 2 * room // 3) + 1 or len(features.input_ids) == 1:
        assert held > 0
    if tokens > room:
        assert held == 0


def room_of(tokenizer, max_length, max_question_tokens, question="the film ?"):
    """Return how many tokens are left for a context."""
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    num_question = len(tokenizer(question, add_special_tokens=False)["input_ids"])
    return room - min(num_question, max_question_tokens, room - max(room // 3, 1))


@pytest.mark.parametrize("name", ["bert", "xlnet", BYTES])
def test_targets_that_are_off_are_noticed(name):
    context, start, end = "the film was made in Zürich and the film was not a good film", 21, 27
    tokenizer = tokenizer_of(name)
    rows = [row_of(context, start, end)]
    features = encode(tokenizer, rows, max_length=20, stride_tokens=8)
    arguments = (context, start, end, whole(tokenizer, context))
    assert len(features.input_ids) > 2
    assert 0 < check_answer(features, *arguments) < len(features.input_ids)
    for name, by in (("start_positions", -1), ("end_positions", -1), ("end_positions", 1)):
        moved = [
            place if place == null else place + by
            for place, null in zip(
                features.fields[name], features.fields["null_position"], strict=True
            )
        ]
        wrong = replace(features, fields=features.fields | {name: moved})
        with pytest.raises(AssertionError):
            check_answer(wrong, *arguments)
    nulls = features.fields["null_position"]
    never = {"start_positions": nulls, "end_positions": nulls}
    with pytest.raises(AssertionError):
        check_answer(replace(features, fields=features.fields | never), *arguments)


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(NAMES),
    st.text(
        alphabet="".join({*"".join(WORDS), *"".join(SPACES), *".,- "}), min_size=1, max_size=30
    ),
    st.data(),
)
def test_answers_that_cut_words_get_the_tokens_they_touch(name, context, data):
    start = data.draw(st.integers(0, len(context) - 1))
    end = data.draw(st.integers(start + 1, len(context)))
    features = encode(tokenizer_of(name), [row_of(context, start, end)], max_length=1000)
    touched = []
    firsts, lasts = features.fields["offset_start"][0], features.fields["offset_end"][0]
    for token, (a, b) in enumerate(zip(firsts, lasts, strict=True)):
        if any(a <= place < b for place in range(start, end)):
            touched.append(token)
    null = features.fields["null_position"][0]
    wanted = (touched[0], touched[-1]) if touched else (null, null)
    found = features.fields["start_positions"][0], features.fields["end_positions"][0]
    assert found == wanted
    for a, b in pairs_of(features, 0):
        assert 0 <= a < b <= len(context)
        assert not context[a].isspace() and not context[b - 1].isspace()


@pytest.mark.parametrize(
    ("text", "offsets", "wanted"),
    [
        ("a film ", [(0, 2), (2, 7)], [(0, 1), (2, 6)]),
        (" a  b", [(0, 2), (2, 4), (4, 5)], [(1, 2), (-1, -1), (4, 5)]),
        ("cafe\u0301\u0323s", [(0, 3), (3, 4), (6, 7)], [(0, 3), (3, 6), (6, 7)]),
        ("e\u0301", [(0, 1), (1, 2)], [(0, 1), (1, 2)]),
        ("e\u0301", [(0, 1), (0, 1)], [(0, 1), (0, 2)]),
        ("", [], []),
    ],
)
def test_visible_characters_by_hand(text, offsets, wanted):
    firsts, lasts = visible_offsets(text, offsets)
    assert list(zip(firsts.tolist(), lasts.tolist(), strict=True)) == wanted


def overflow_of(tokenizer, row, max_length, stride):
    """Return ids, types and offsets of the windows that the tokenizer itself makes."""
    found = tokenizer(
        row["question"],
        row["context"],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    offsets = [
        [
            pair if part == 1 else (-1, -1)
            for pair, part in zip(pairs, found.sequence_ids(window), strict=True)
        ]
        for window, pairs in enumerate(found["offset_mapping"])
    ]
    return found["input_ids"], found["token_type_ids"], offsets


def own(features):
    firsts, lasts = features.fields["offset_start"], features.fields["offset_end"]
    offsets = [
        list(zip(a.tolist(), b.tolist(), strict=True)) for a, b in zip(firsts, lasts, strict=True)
    ]
    return features.input_ids, features.token_type_ids, offsets


def texts(most):
    return st.lists(st.sampled_from(PLAIN), min_size=1, max_size=most).map(" ".join)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=60)
@given(texts(3), texts(60), st.integers(48, 90), st.integers(0, 40))
def test_windows_are_those_of_the_tokenizer(name, question, context, max_length, stride):
    tokenizer = tokenizer_of(name)
    row = row_of(context, question=question)
    room = room_of(tokenizer, max_length, 1000, question)
    assume(room > max_length // 2)  # a question that had to be cut would leave a third
    overlap = min(stride, 2 * room // 3)
    features = encode(
        tokenizer,
        [row],
        max_length=max_length,
        stride_tokens=stride,
        max_question_tokens=1000,
        token_types=True,
    )
    ids, types, offsets = overflow_of(tokenizer, row, max_length, overlap)
    own_ids, own_types, own_offsets = own(features)
    assert own_ids == ids
    if uses_token_types(tokenizer, pairs=True):
        assert own_types == types
    assert own_types[0] == types[0]
    assert set(own_types[0]) == set(itertools.chain(*own_types))
    if name not in (BYTES, PIECES):
        assert own_offsets == offsets
    if len(ids) > 2:
        assert own_ids != overflow_of(tokenizer, row, max_length, overlap + 1)[0]
        assert own_ids != overflow_of(tokenizer, row, max_length - 1, overlap)[0]


@pytest.mark.parametrize("trims", [False, True])
def test_the_space_before_a_word_is_no_part_of_it(trims):
    context = " ".join(["the film was"] * 12)
    tokenizer = byte_tokenizer(trim_offsets=trims)
    row = row_of(context)
    features = encode(tokenizer, [row], max_length=20, stride_tokens=3)
    assert len(features.input_ids) > 3
    for window in range(len(features.input_ids)):
        pairs = pairs_of(features, window)
        found = "".join(context[a:b] for a, b in pairs)
        assert found == context[pairs[0][0] : pairs[-1][1]].replace(" ", "")
    _, _, offsets = overflow_of(tokenizer, row, 20, 3)
    spaces = [context[a] for pairs in offsets for a, b in pairs if a >= 0 and context[a] == " "]
    assert bool(spaces) != trims


def check_cover(features, num_others, overlap, room):
    """Check that the windows of one row hold all tokens of its context, with this overlap."""
    sizes = [len(ids) - num_others for ids in features.input_ids]
    assert all(0 < size <= room for size in sizes)
    assert all(size == room for size in sizes[:-1])
    cut = [ids[-1 - size : -1] for ids, size in zip(features.input_ids, sizes, strict=True)]
    joined = list(cut[0])
    for before, window in itertools.pairwise(cut):
        assert overlap == 0 or before[-overlap:] == window[:overlap]
        joined += window[overlap:]
    return joined


@settings(deadline=None, max_examples=60)
@given(texts(80), st.integers(9, 60), st.integers(0, 40))
def test_windows_cover_the_context(context, max_length, stride):
    tokenizer = tokenizer_of("bert")
    tokens = tokenizer(context, add_special_tokens=False)["input_ids"]
    options = {"max_length": max_length, "stride_tokens": stride, "max_question_tokens": 2}
    features = encode(tokenizer, [row_of(context)], **options)
    room = max_length - 3 - 2
    overlap = min(stride, 2 * room // 3)
    assert check_cover(features, 5, overlap, room) == tokens
    assert all(len(ids) <= max_length for ids in features.input_ids)
    without = replace(features, input_ids=features.input_ids[:-1])
    if len(features.input_ids) > 1:
        assert check_cover(without, 5, overlap, room) != tokens


def test_one_window_by_hand():
    tokenizer = tokenizer_of("bert")
    rows = [row_of("the film was good", 4, 8), row_of("good film")]
    features = encode(tokenizer, rows, token_types=True, max_length=8, stride_tokens=1)
    tokens = [" ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in features.input_ids]
    assert tokens == [
        "[CLS] the film ? [SEP] the film [SEP]",
        "[CLS] the film ? [SEP] film was [SEP]",
        "[CLS] the film ? [SEP] was good [SEP]",
        "[CLS] the film ? [SEP] good film [SEP]",
    ]
    assert features.sources == [0, 0, 0, 1]
    assert features.token_type_ids == [[0, 0, 0, 0, 0, 1, 1, 1]] * 4
    assert features.lengths.tolist() == [8] * 4
    assert features.fields["start_positions"] == [6, 5, 0, 0]
    assert features.fields["end_positions"] == [6, 5, 0, 0]
    assert features.fields["offset_start"][1].tolist() == [-1, -1, -1, -1, -1, 4, 9, -1]
    assert features.fields["offset_end"][1].tolist() == [-1, -1, -1, -1, -1, 8, 12, -1]


def test_a_part_of_an_answer_is_no_answer():
    context = "the film was really good and the food was not bad"
    start, end = context.index("was really"), context.index(" and")
    features = encode(
        tokenizer_of("bert"), [row_of(context, start, end)], max_length=9, stride_tokens=1
    )
    spans = list(
        zip(features.fields["start_positions"], features.fields["end_positions"], strict=True)
    )
    assert [pairs_of(features, window)[0][0] for window in range(5)] == [0, 9, 20, 29, 38]
    assert spans == [(0, 0), (5, 7), (0, 0), (0, 0), (0, 0)]
    longer = encode(
        tokenizer_of("bert"), [row_of(context, start, end + 4)], max_length=9, stride_tokens=1
    )
    assert set(longer.fields["end_positions"]) == {0}, "an answer longer than a window"


@pytest.mark.parametrize("name", NAMES)
def test_the_null_token_is_the_class_token(name):
    tokenizer = tokenizer_of(name)
    features = encode(tokenizer, [row_of("the film " * 20, 4, 8)], max_length=24, stride_tokens=8)
    assert len(features.input_ids) > 3
    for ids, null, start in zip(
        features.input_ids,
        features.fields["null_position"],
        features.fields["start_positions"],
        strict=True,
    ):
        assert ids[null] == tokenizer.cls_token_id
        assert ids.count(tokenizer.cls_token_id) == 1
        assert null == (len(ids) - 1 if "xlnet" in name else 0)
        assert start >= 0
    assert features.fields["start_positions"][-1] == features.fields["null_position"][-1]


def test_the_first_answer_is_the_target():
    row = row_of("the good film", 4, 8)
    row["answer_text"].append("the good film")
    row["answer_start"].append(0)
    features = encode(tokenizer_of("bert"), [row])
    assert features.fields["start_positions"] == features.fields["end_positions"] == [6]


def test_what_the_tokenizer_was_told_before_does_not_matter():
    tokenizer, rows = tiny_tokenizer(), [row_of("the film was good " * 9), row_of("the film")]
    fresh = encode(tokenizer, rows)
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    assert encode(tokenizer, rows).input_ids == fresh.input_ids


def test_an_answer_without_tokens_has_no_place():
    rows = [row_of("the\u200b film", 3, 4), row_of("\u200b", 0, 1)]
    features = encode(tokenizer_of("bert"), rows)
    assert features.fields["start_positions"] == features.fields["end_positions"] == [0, 0]
    assert [len(ids) for ids in features.input_ids] == [8, 6]


@pytest.mark.parametrize("name", NAMES)
def test_questions_are_cut_and_leave_room(name):
    tokenizer = tokenizer_of(name)
    question, context = "the film was good " * 30, "a film and a dog"
    tokens = tokenizer(question, add_special_tokens=False)["input_ids"]
    rest = len(tokenizer(context, add_special_tokens=False)["input_ids"])
    specials = tokenizer.num_special_tokens_to_add(pair=True)
    rows = [row_of(context, question=question)]
    features = encode(tokenizer, rows, max_length=100, max_question_tokens=10)
    (ids,) = features.input_ids
    place = 0 if "xlnet" in name else 1
    assert ids[place : place + 10] == tokens[:10]
    assert len(ids) == 10 + rest + specials
    assert features.lengths.tolist() == [len(tokens) + rest + specials]
    small = encode(tokenizer, rows, max_length=24, max_question_tokens=64)
    room = 24 - specials
    assert small.input_ids[0][place : place + room - room // 3] == tokens[: room - room // 3]
    assert small.input_ids[0][place + room - room // 3] in tokenizer.all_special_ids
    assert all(len(ids) <= 24 for ids in small.input_ids)


@pytest.mark.parametrize("name", NAMES)
def test_the_least_length_is_enough(name):
    tokenizer = tokenizer_of(name)
    least = SpanEncoder().least_length(tokenizer, pairs=True)
    context = "the film was good"
    features = encode(tokenizer, [row_of(context, 4, 8)], max_length=least)
    assert {len(ids) for ids in features.input_ids} == {least}
    tokens = tokenizer(context, add_special_tokens=False)["input_ids"]
    assert len(features.input_ids) == len(tokens)
    rows = load_rows([GOOD], schema=SPAN_SCHEMA)
    with pytest.raises(ConfigError, match=f"at least {least}"):
        tokenise(rows, tokenizer, encoder=SpanEncoder(), max_length=least - 1)


def test_options_are_checked_and_named_in_the_key():
    with pytest.raises(ConfigError, match="--stride-tokens -1"):
        SpanEncoder(stride_tokens=-1)
    with pytest.raises(ConfigError, match="--max-question-tokens 0"):
        SpanEncoder(max_question_tokens=0)
    encoders = [SpanEncoder(), SpanEncoder(stride_tokens=6), SpanEncoder(max_question_tokens=6)]
    assert len({encoder.key for encoder in encoders}) == 3
    assert SpanEncoder().key == SpanEncoder(64, 64).key


def test_a_tokenizer_without_offsets_is_refused():
    slow = SimpleNamespace(backend_tokenizer=None)
    with pytest.raises(ModelLoadError, match="where its tokens stand"):
        encode(slow, [row_of("the film")])


SOURCES = [
    GOOD,
    with_answers([]),
    with_answers([{"text": "film", "answer_start": 6}], context="😀 The film, " + "a dog " * 40),
]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_rows_become_batches(family):
    tokenizer = tokenizer_of(family)
    rows = load_rows(SOURCES, schema=SPAN_SCHEMA)
    encoder = SpanEncoder(stride_tokens=8)
    encoded = tokenise(rows, tokenizer, encoder=encoder, max_length=48)
    assert set(encoded.targets) == {"start_positions", "end_positions"}
    assert encoded.row_numbers[:2].tolist() == [0, 1]
    assert encoded.row_numbers.tolist() == sorted(encoded.row_numbers.tolist())
    assert (encoded.row_numbers == 2).sum() > 2
    assert encoded.num_truncated == 0
    batch = collate(encoded, [0, 1, 2, 3])
    nulls = encoded.field("null_position", np.arange(4))
    offsets = encoded.field("offset_start", np.arange(4)), encoded.field("offset_end", np.arange(4))
    texts = []
    for i in range(4):
        start, end = int(batch["start_positions"][i]), int(batch["end_positions"][i])
        context = SOURCES[encoded.row_numbers[i]]["context"]
        answered = start != nulls[i]
        texts.append(context[offsets[0][i][start] : offsets[1][i][end]] if answered else "")
        assert len(offsets[0][i]) == encoded.lengths[i]
    assert texts == ["Zürich", "", "film", ""]
    assert batch["start_positions"].shape == batch["end_positions"].shape == (4,)
    again = tokenise(rows, tokenizer, encoder=encoder, max_length=48)
    other = tokenise(rows, tokenizer, encoder=SpanEncoder(stride_tokens=4), max_length=48)
    assert again.fingerprint == encoded.fingerprint != other.fingerprint


def test_types_tell_question_and_context_apart_where_the_model_has_them():
    for family in FAMILY_NAMES:
        tokenizer = tokenizer_of(family)
        asked = uses_token_types(tokenizer, pairs=True)
        features = encode(tokenizer, [row_of("the film")], token_types=asked)
        assert (features.token_type_ids is not None) == asked
        if asked:
            assert (
                features.token_type_ids[0] == tokenizer("the film ?", "the film")["token_type_ids"]
            )
            assert len(set(features.token_type_ids[0])) > 1


def test_long_contexts_are_not_cut_and_long_questions_are():
    long = [GOOD | {"question": "the film " * 40}]
    tokenizer = tokenizer_of("bert")
    for source, cut in ((SOURCES, 0), (long, 1)):
        rows = load_rows(source, schema=SPAN_SCHEMA)
        encoded = tokenise(rows, tokenizer, encoder=SpanEncoder(), max_length=96)
        assert encoded.num_truncated == cut
        stopping = functools.partial(
            tokenise, rows, tokenizer, encoder=SpanEncoder(), max_length=96, long_rows="stop"
        )
        if cut:
            with pytest.raises(RowTooLongError, match="more than 96"):
                stopping()
        else:
            assert len(stopping()) == len(encoded)


# ---- real data ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "mpnet", "xlnet", BYTES])
def test_real_answers_come_back(shared_data, name):
    rows = load_rows(shared_data("squad") / "train.jsonl.gz", schema=SPAN_SCHEMA)
    assert len(rows) == 3545
    rows = rows.select(range(300))
    encoder = SpanEncoder(stride_tokens=160)
    encoded = tokenise(rows, tokenizer_of(name), encoder=encoder, max_length=384)
    everything = np.arange(len(encoded))
    fields = {
        field: encoded.field(field, everything) for field in (*encoder.targets, *encoder.extras)
    }
    contexts, golds = rows.dataset["context"][:], rows.dataset["answer_text"][:]
    held, wrong = set(), []
    for window, row in enumerate(encoded.row_numbers.tolist()):
        start, end = fields["start_positions"][window], fields["end_positions"][window]
        if start == fields["null_position"][window]:
            continue
        held.add(row)
        a, b = fields["offset_start"][window][start], fields["offset_end"][window][end]
        if contexts[row][a:b] != golds[row][0]:
            wrong.append((contexts[row][a:b], golds[row][0]))
    assert held == set(range(300))
    assert wrong == []
