from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.data.words import join_words, split_words

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # man, woman, girl, joined
WAVE = "\U0001f44b\U0001f3fd"  # with a skin tone
HEART = "\u2764\ufe0f"
BURNING_HEART = "\u2764\ufe0f\u200d\U0001f525"
PILOT = "\U0001f469\U0001f3fe\u200d\u2708\ufe0f"  # woman, skin tone, joined to an aeroplane
GERMANY, JAPAN = "\U0001f1e9\U0001f1ea", "\U0001f1ef\U0001f1f5"
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
NODDING = "\U0001f642\u200d\u2195\ufe0f"
SHAKING = "\U0001f642\u200d\u2194\ufe0f"  # the arrow is a mathematical symbol
KEYCAP = "#\ufe0f\u20e3"


def words_of(text: str) -> list[str]:
    return [text[start:end] for start, end in split_words(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \t\r\n\u3000\u00a0\u2028", []),
        ("Paris is big.", ["Paris", "is", "big", "."]),
        ("don't well-known a_b", ["don", "'", "t", "well", "-", "known", "a", "_", "b"]),
        ("...!?", [".", ".", ".", "!", "?"]),
        ("3.5% of $10k", ["3", ".", "5", "%", "of", "$", "10k"]),
        ("x²+½", ["x²", "+", "½"]),
        ("http://t.co", ["http", ":", "/", "/", "t", ".", "co"]),
        # combining marks belong to what they stand on, wherever that is
        ("cafe\u0301 e\u0301t", ["cafe\u0301", "e\u0301t"]),
        ("\u0301a", ["\u0301a"]),
        ("-\u0301a", ["-\u0301", "a"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        # full-width forms
        ("ＡＢＣ１２ｄ，Ｅ", ["ＡＢＣ１２ｄ", "，", "Ｅ"]),
        # Chinese and Japanese, by the character
        ("我在北京。", ["我", "在", "北", "京", "。"]),
        ("吴重阳，1958年生", ["吴", "重", "阳", "，", "1958", "年", "生"]),
        ("人々〇", ["人", "々", "〇"]),
        ("カメラをか\u3099", ["カ", "メ", "ラ", "を", "か\u3099"]),
        ("ﾊﾞｽ", ["ﾊﾞ", "ｽ"]),
        ("ラーメン・寿司", ["ラ", "ー", "メ", "ン", "・", "寿", "司"]),
        ("\U00020000\U0002a6d6x", ["\U00020000", "\U0002a6d6", "x"]),
        ("葛\U000e0100城", ["葛\U000e0100", "城"]),
        # Hangul and other scripts, by the run
        ("서울에 삽니다", ["서울에", "삽니다"]),
        ("한국語test中文", ["한국", "語", "test", "中", "文"]),
        ("Москва-река", ["Москва", "-", "река"]),
        ("سلام، دنیا", ["سلام", "،", "دنیا"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("co\u00adop", ["co\u00adop"]),
        ("ภาษาไทย", ["ภาษาไทย"]),
        # emoji
        (f"a{FAMILY}b", ["a", FAMILY, "b"]),
        (f"{WAVE}{WAVE}", [WAVE, WAVE]),
        (f"{HEART}love{BURNING_HEART}", [HEART, "love", BURNING_HEART]),
        (f"{PILOT}.{NODDING}{SHAKING}", [PILOT, ".", NODDING, SHAKING]),
        (f"{GERMANY}{JAPAN}\U0001f1e9", [GERMANY, JAPAN, "\U0001f1e9"]),
        (f"{ENGLAND}{GERMANY}", [ENGLAND, GERMANY]),
        (f"{KEYCAP}1\ufe0f\u20e3", [KEYCAP, "1\ufe0f\u20e3"]),
        ("\U0001f602\U0001f602", ["\U0001f602", "\U0001f602"]),
        # control and format characters are in no word and end one
        ("a\x00b\x1fc\x7f", ["a", "b", "c"]),
        ("\ufeffa\u200bb\u2060c\u200e", ["a", "b", "c"]),
        ("a\u200d b", ["a", "b"]),
        ("a\tb\nc\vd\x85e", ["a", "b", "c", "d", "e"]),
        # unassigned, private and half characters are symbols
        ("a\ue000\uffffb", ["a", "\ue000", "\uffff", "b"]),
        ("\ud83d", ["\ud83d"]),
    ],
)
def test_words(text, words):
    assert words_of(text) == words


def test_offsets_are_those_of_the_text_as_it_is():
    text = f"\ufeff Zoe\u0308 {FAMILY}：北京\tＯＫ"
    assert split_words(text) == [(2, 6), (7, 12), (12, 13), (13, 14), (14, 15), (16, 18)]
    assert words_of(text) == ["Zoe\u0308", FAMILY, "：", "北", "京", "ＯＫ"]


AWKWARD = st.sampled_from(
    "ab1_'- \t\n\x00\u00ad\u0301\u200b\u200c\u200d\u20e3\u3000\u3099\ufe0f\ufeff\uff9e\uffff"
    "中々カｶ한，。#\u2764\u2195\u2708\U0001f1e9\U0001f1ea\U0001f3fd\U0001f468\U0001f525\U000e0067"
)


@settings(deadline=None, max_examples=400)
@given(st.one_of(st.text(), st.text(AWKWARD)))
def test_every_visible_character_is_in_exactly_one_word(text):
    words = split_words(text)
    for start, end in words:
        assert start < end
        assert not any(character.isspace() for character in text[start:end])
    for (_, end), (start, _) in itertools.pairwise(words):
        assert end <= start
    covered = {place for start, end in words for place in range(start, end)}
    for place, character in enumerate(text):
        if character.isspace() or unicodedata.category(character) == "Cc":
            assert place not in covered
        elif unicodedata.category(character) != "Cf":
            assert place in covered


@settings(deadline=None, max_examples=200)
@given(st.text(AWKWARD), st.text(AWKWARD))
def test_a_space_separates(left, right):
    assert words_of(f"{left} {right}") == words_of(left) + words_of(right)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], ""),
        (["one"], "one"),
        (["Empire", "State", ".", "5"], "Empire State . 5"),
        (["中", "国", "，", "北京", "。"], "中国，北京。"),
        (["1", "9", "年", "出", "生"], "1 9 年出生"),
        (["在", "IBM", "工", "作"], "在 IBM 工作"),
        (["ラ", "ー", "か\u3099", "・", "「", "犬", "」"], "ラーか\u3099・「犬」"),
        (["서울", "한국"], "서울 한국"),
        (["ＡＢ", "ＣＤ", "１", "，"], "ＡＢ ＣＤ １ ，"),
        ([" ", "a b", "\t"], "  a b \t"),
    ],
)
def test_joined_words(words, text):
    found, offsets = join_words(words)
    assert found == text
    assert [text[start:end] for start, end in offsets] == words


def test_an_empty_word_cannot_be_joined():
    with pytest.raises(ValueError, match="word 1 is empty"):
        join_words(["a", "", "b"])


@settings(deadline=None, max_examples=200)
@given(st.lists(st.one_of(st.text(min_size=1), st.text(AWKWARD, min_size=1))))
def test_joined_words_are_where_the_offsets_say(words):
    text, offsets = join_words(words)
    assert [text[start:end] for start, end in offsets] == words
    for (_, end), (start, _) in itertools.pairwise(offsets):
        assert text[end:start] in ("", " ")


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(["Rio", "de", "7", "!", "，", "中", "国", "カ", "한국", HEART])))
def test_words_are_found_again_in_the_text_joined_of_them(words):
    text, offsets = join_words(words)
    assert split_words(text) == offsets
