"""Referees: the tokenizer's own overflow, plain loops over characters, and double loops."""

from __future__ import annotations

import functools
import itertools
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from bertwright.data.batching import collate
from bertwright.data.encode import uses_token_types
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
)
from bertwright.tasks.span_rows import (
    SPAN_SCHEMA,
    Span,
    SpanEncoder,
    best_spans,
    merge_windows,
    read_answers,
    visible_offsets,
)
from tiny import FAMILY_NAMES, tiny_tokenizer

WORDS = [
    *(
        "the",
        "film",
        "Zürich",
        "x",
        "(good)",
        "3.5",
        "déjà",
        "cafe\u0301",
        "e\u0301\u0323",
        "naïve",
    ),
    *(
        "中文",
        "漢",
        "😀",
        "👨\u200d👩\u200d👧",
        "👍🏽",
        "½",
        "ß",
        "İstanbul",
        "한국어",
        "हिन्दी",
        "ﬁn",
    ),
]
SPACES = [" ", "  ", "\n", "\u00a0", " \t", "\u3000"]
PLAIN = ["the", "film", "zebra", "x", "(good)", "3.5", "déjà", "中文", "😀", "and", "a-b"]
BYTES, PIECES = "bytes as roberta", "pieces as xlnet"
NAMES = (*FAMILY_NAMES, BYTES, PIECES)


@functools.cache
def tokenizer_of(name):
    if name == BYTES:
        return byte_tokenizer(trim_offsets=True)
    return piece_tokenizer() if name == PIECES else tiny_tokenizer(name)


def byte_tokenizer(*, trim_offsets):
    """A tokenizer whose tokens begin with the space before a word, and split an emoji."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([" the film was good and the film was not"] * 5, trainer)
    core.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=trim_offsets, add_prefix_space=False
    )
    roles = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{role}_token": token for role, token in roles.items()},
    )


def piece_tokenizer():
    """A tokenizer of pieces, with the sign for a space at their head, and specials at the end."""
    specials = ["<unk>", "<sep>", "<cls>", "<pad>"]
    letters = sorted(set("".join([*WORDS, *PLAIN, *SPACES, "▁?"])))
    pieces = [*specials, *letters, "▁the", "▁film", "▁x"]
    core = Tokenizer(models.Unigram([(piece, -1.0 - (len(piece) == 1)) for piece in pieces], 0))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.post_processor = processors.TemplateProcessing(
        single="$A <sep> <cls>:2",
        pair="$A <sep> $B:1 <sep>:1 <cls>:2",
        special_tokens=[("<sep>", 1), ("<cls>", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        padding_side="left",
        **{f"{token[1:-1]}_token": token for token in specials},
    )


def row_of(context, start=None, end=None, question="the film ?"):
    found = start is not None
    return {
        "question": question,
        "context": context,
        "answer_text": [context[start:end]] if found else [],
        "answer_start": [start] if found else [],
    }


def encode(tokenizer, rows, *, max_length=64, token_types=False, **options):
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    encoder = SpanEncoder(**options)
    return encoder.encode(tokenizer, columns, max_length=max_length, token_types=token_types)


def whole(tokenizer, context):
    """Return the (first, last) characters of all visible tokens, from one long window."""
    features = encode(tokenizer, [row_of(context)], max_length=100_000)
    assert len(features.input_ids) == 1
    return pairs_of(features, 0)


def pairs_of(features, window):
    firsts, lasts = features.fields["offset_start"][window], features.fields["offset_end"][window]
    return [(a, b) for a, b in zip(firsts.tolist(), lasts.tolist(), strict=True) if a >= 0]


# ---- rows --------------------------------------------------------------------------------------

CONTEXT = "😀 The film, the good film, was made in Zürich."
GOOD = {
    "question": "where ?",
    "context": CONTEXT,
    "answers": [{"text": "Zürich", "answer_start": 39}],
}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def with_answers(answers, **more):
    return GOOD | {"answers": answers} | more


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


# ---- windows -----------------------------------------------------------------------------------


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
    least = SpanEncoder().least_length(tokenizer, pairs=False)
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


# ---- spans from logits -------------------------------------------------------------------------


def pairs_by_loops(start, end, first, last, n_best, most):
    found = []
    for i in range(len(start)):
        for j in range(len(end)):
            if first[i] >= 0 and first[j] >= 0 and i <= j < i + most:
                found.append((-(start[i] + end[j]), i, j))
    return [(-score, first[i], last[j]) for score, i, j in sorted(found)][:n_best]


def logits_of(seed, length, levels, holes):
    """Draw logits with ties, and offsets with specials around the context and holes in it."""
    rng = np.random.default_rng(seed)
    start, end = rng.integers(0, levels, size=(2, length)).astype(np.float32) / 3
    context = np.zeros(length, dtype=bool)
    low, high = sorted(rng.integers(0, length + 1, size=2))
    context[low:high] = rng.random(high - low) >= holes
    place = 3 * np.arange(length, dtype=np.int32)
    return start, end, np.where(context, place, -1), np.where(context, place + 2, -1)


@settings(deadline=None, max_examples=300)
@given(
    st.integers(0, 10_000),
    st.integers(1, 16),
    st.sampled_from([1, 3, 1000]),
    st.sampled_from([0.0, 0.3]),
    st.integers(1, 25),
    st.integers(1, 20),
)
def test_best_spans_are_those_of_a_double_loop(seed, length, levels, holes, n_best, most):
    given = logits_of(seed, length, levels, holes)
    found = best_spans(*given, n_best=n_best, max_answer_tokens=most)
    doubles = (given[0].astype(float), given[1].astype(float), *given[2:])
    assert found == pairs_by_loops(*doubles, n_best, most)
    assert all(type(value) in (float, int) for span in found for value in span)


def test_a_wrong_search_is_noticed():
    start, end = np.random.default_rng(0).normal(size=(2, 16))
    start[[0, 15]] = end[[0, 15]] = 9
    place = 3 * np.arange(16)
    context = ~np.isin(place, [0, 21, 45])
    first, last = np.where(context, place, -1), np.where(context, place + 2, -1)
    found = best_spans(start, end, first, last, n_best=20, max_answer_tokens=3)
    assert len(found) == 20 == len(set(found))
    assert found == pairs_by_loops(start, end, first, last, 20, 3)
    assert found != pairs_by_loops(start, end, first, last, 20, 4)
    assert found != pairs_by_loops(start, end, first, last, 19, 3)
    assert found != pairs_by_loops(end, start, first, last, 20, 3)
    assert found != pairs_by_loops(start, end, place, place + 2, 20, 3)


def test_spans_worked_out_by_hand():
    start = np.array([9.0, 1.0, 3.0, 0.0, 9.0])
    end = np.array([9.0, 0.0, 2.0, 2.0, 9.0])
    first, last = np.array([-1, 0, 4, 9, -1]), np.array([-1, 3, 8, 12, -1])
    found = best_spans(start, end, first, last, n_best=4)
    assert found == [(5.0, 4, 8), (5.0, 4, 12), (3.0, 0, 8), (3.0, 0, 12)]
    assert found[0] == Span(score=5.0, start=4, end=8)
    assert best_spans(start, end, first, last, n_best=9, max_answer_tokens=1) == [
        (5.0, 4, 8), (2.0, 9, 12), (1.0, 0, 3),
    ]  # fmt: skip
    assert len(best_spans(start, end, first, last)) == 6
    nowhere = np.full(5, -1)
    assert best_spans(start, end, nowhere, nowhere) == []


def test_logits_that_are_no_numbers_are_left_out():
    start, end = np.array([1.0, np.nan, -np.inf, 2.0]), np.array([1.0, 5.0, 0.0, np.nan])
    first, last = np.arange(4), np.arange(1, 5)
    assert best_spans(start, end, first, last) == [(6.0, 0, 2), (2.0, 0, 1), (1.0, 0, 3)]


def test_what_cannot_be_searched_is_refused():
    four, three = np.zeros(4), np.zeros(3)
    with pytest.raises(ValueError, match="shapes"):
        best_spans(four, four, three, three)
    with pytest.raises(ValueError, match="shapes"):
        best_spans(*[np.zeros((2, 2))] * 4)
    for wrong in ({"n_best": 0}, {"max_answer_tokens": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            best_spans(four, four, four, four, **wrong)
    with pytest.raises(ValueError, match="at least 1"):
        merge_windows([], [])
    with pytest.raises(ValueError, match="at least 1"):
        merge_windows([[]], [0.0], n_best=0)


def merged_by_loops(windows, nulls, n_best):
    best = {}
    for window in windows:
        for score, start, end in window:
            if (start, end) not in best or best[start, end] < score:
                best[start, end] = score
    spans = [(score, start, end) for (start, end), score in best.items()]
    spans.sort(key=lambda span: (-span[0], span[1], span[2]))
    spans = spans[:n_best]
    null = nulls[0]
    for score in nulls:
        null = score if score < null else null
    total = math.exp(null) + sum(math.exp(span[0]) for span in spans)
    shares = [math.exp(span[0]) / total for span in spans]
    return spans, shares, null, math.exp(null) / total, null - spans[0][0] if spans else 0.0


span_lists = st.lists(
    st.lists(
        st.tuples(
            st.integers(-8, 8).map(lambda score: score / 2), st.integers(0, 4), st.integers(5, 8)
        ),
        max_size=8,
    ),
    min_size=1,
    max_size=4,
)


def check_merge(merged, windows, nulls, n_best):
    spans, shares, null, null_share, difference = merged_by_loops(windows, nulls, n_best)
    assert merged.spans == spans
    assert merged.probabilities.tolist() == pytest.approx(shares)
    assert merged.null_score == null
    assert merged.null_probability == pytest.approx(null_share)
    assert merged.null_minus_best == pytest.approx(difference)
    assert merged.probabilities.sum() + merged.null_probability == pytest.approx(1)


@settings(deadline=None, max_examples=300)
@given(span_lists, st.integers(1, 12), st.randoms(use_true_random=False))
def test_windows_are_merged_as_plain_loops_do(windows, n_best, random):
    nulls = [random.randint(-8, 8) / 2 for _ in windows]
    check_merge(merge_windows(windows, nulls, n_best=n_best), windows, nulls, n_best)


def test_a_wrong_merge_is_noticed():
    windows, nulls = [[(2.0, 0, 5), (1.0, 3, 5)], [(3.0, 0, 5), (0.5, 1, 9)]], [4.0, 1.0]
    merged = merge_windows(windows, nulls)
    check_merge(merged, windows, nulls, 20)
    assert merged.spans == [(3.0, 0, 5), (1.0, 3, 5), (0.5, 1, 9)]
    assert (merged.null_score, merged.null_minus_best) == (1.0, -2.0)
    wrong = [
        merge_windows(windows, [max(nulls)]),
        merge_windows(windows[:1], nulls),
        merge_windows(windows, nulls, n_best=2),
        merged._replace(spans=sorted([span for window in windows for span in window])[::-1]),
        merged._replace(null_minus_best=-merged.null_minus_best),
    ]
    for other in wrong:
        with pytest.raises(AssertionError):
            check_merge(other, windows, nulls, 20)


def test_a_row_without_any_span_has_no_answer():
    merged = merge_windows([[], []], [3.0, 1.0])
    assert merged.spans == [] and len(merged.probabilities) == 0
    assert (merged.null_score, merged.null_probability, merged.null_minus_best) == (1.0, 1.0, 0.0)


def test_large_scores_do_not_overflow():
    merged = merge_windows([[(5000.0, 0, 1), (4999.0, 1, 2)]], np.array([-5000.0]))
    assert merged.probabilities.tolist() == pytest.approx(
        [1 / (1 + math.exp(-1)), 1 / (1 + math.e)]
    )
    assert merged.null_minus_best == -10_000.0


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_knows_gives_the_answer_back(name):
    """From rows to windows, perfect logits, spans of windows, and the row's answer."""
    context = "the film " * 12 + "was made in Zürich cafe\u0301 and " + "a dog " * 12
    start = context.index("Zürich")
    tokenizer = tokenizer_of(name)
    rows = [row_of(context, start, start + len("Zürich cafe\u0301")), row_of(context)]
    features = encode(tokenizer, rows, max_length=40, stride_tokens=16)
    fields, answers = features.fields, []
    for row in range(2):
        spans, nulls = [], []
        for window in np.flatnonzero(np.array(features.sources) == row):
            logits = np.zeros((2, len(features.input_ids[window])))
            logits[0, fields["start_positions"][window]] = 5
            logits[1, fields["end_positions"][window]] = 5
            offsets = fields["offset_start"][window], fields["offset_end"][window]
            spans.append(best_spans(*logits, *offsets))
            nulls.append(logits[:, fields["null_position"][window]].sum())
        assert len(nulls) > 2
        merged = merge_windows(spans, nulls)
        answers.append(merged.null_minus_best > 0 or context[slice(*merged.spans[0][1:])])
    assert answers == ["Zürich cafe\u0301", True]


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
