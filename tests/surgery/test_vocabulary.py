"""Trimmed vocabularies: the corpus is split as before, by every kind of tokenizer."""

from __future__ import annotations

import json
import random

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from bertwright.errors import UnsupportedRoleError
from bertwright.surgery.vocabulary import keep_pieces, pieces_by_id, with_needed_pieces

SYLLABLES = "ba be bi bo bu da de di do du ka ke ki ko ku ma me mi mo mu ra re ri ro ru".split()
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def make_texts(seed, count=300):
    """Return texts of made-up words, some of them rare."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(200)]
    return [" ".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(count)]


def make_tokenizer(kind):
    """Return the JSON of a trained tokenizer that adds special tokens."""
    if kind == "WordPiece":
        core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        core.normalizer = normalizers.BertNormalizer()
        core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=SPECIALS)
    elif kind == "BPE":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=700, special_tokens=SPECIALS, initial_alphabet=alphabet
        )
    else:
        core = Tokenizer(models.Unigram())
        core.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=500, special_tokens=SPECIALS, unk_token="[UNK]"
        )
    core.train_from_iterator([t for seed in range(5) for t in make_texts(seed)], trainer)
    places = [(name, core.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    if kind == "BPE":
        core.post_processor = processors.RobertaProcessing(places[1], places[0])
    else:
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=places
        )
    core.enable_padding(pad_id=core.token_to_id("[PAD]"), pad_token="[PAD]")
    return json.loads(core.to_str())


@pytest.fixture(scope="module", params=["WordPiece", "BPE", "Unigram"])
def tokenizer(request):
    return make_tokenizer(request.param)


def split(facts, text):
    return Tokenizer.from_str(json.dumps(facts)).encode(text).tokens


def ids_used(facts, texts):
    core = Tokenizer.from_str(json.dumps(facts))
    core.no_padding()
    return {index for one in core.encode_batch(texts) for index in one.ids}


@pytest.mark.parametrize("options", [{}, {"characters": False}, {"at_least": 420}])
def test_the_corpus_is_split_into_the_same_pieces(tokenizer, options):
    corpus = make_texts(1)[:60]
    used = ids_used(tokenizer, corpus)
    kept = with_needed_pieces(tokenizer, used, **options)
    assert len(kept) >= options.get("at_least", 0)
    assert used <= set(kept) and len(kept) < 0.9 * len(pieces_by_id(tokenizer))
    before = Tokenizer.from_str(json.dumps(tokenizer))
    after = Tokenizer.from_str(json.dumps(keep_pieces(tokenizer, kept)))
    old, new = before.encode_batch(corpus), after.encode_batch(corpus)
    for one, other in zip(old, new, strict=True):
        assert one.tokens == other.tokens
        assert one.ids == [kept[index] for index in other.ids]
        assert one.attention_mask == other.attention_mask
    assert after.get_vocab_size() == len(kept)
    assert sorted(after.get_vocab().values()) == list(range(len(kept)))


def test_new_words_fall_back_on_characters(tokenizer):
    kept = with_needed_pieces(tokenizer, ids_used(tokenizer, make_texts(1)[:20]))
    after = keep_pieces(tokenizer, kept)
    for text in make_texts(9)[:40]:
        assert "[UNK]" not in split(after, text)
    assert any(split(after, t) != split(tokenizer, t) for t in make_texts(9)[:40])


def test_without_characters_new_ones_are_unknown():
    facts = make_tokenizer("WordPiece")
    kept = with_needed_pieces(facts, ids_used(facts, ["ba ba"]), characters=False)
    assert split(keep_pieces(facts, kept), "ku") == ["[CLS]", "[UNK]", "[SEP]"]


def test_trimming_twice_is_trimming_once(tokenizer):
    few, more = make_texts(1)[:10], make_texts(1)[:50]
    once = keep_pieces(tokenizer, with_needed_pieces(tokenizer, ids_used(tokenizer, few)))
    first = keep_pieces(tokenizer, with_needed_pieces(tokenizer, ids_used(tokenizer, more)))
    twice = keep_pieces(first, with_needed_pieces(first, ids_used(first, few)))
    assert [split(once, t) for t in few] == [split(twice, t) for t in few]
    assert pieces_by_id(once).keys() == pieces_by_id(twice).keys()


def test_what_is_on_the_way_of_a_merge_stays():
    core = Tokenizer(
        models.BPE(
            vocab={"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5, "ca": 6},
            merges=[("a", "b"), ("b", "c"), ("ab", "c"), ("c", "a")],
        )
    )
    facts = json.loads(core.to_str())
    kept = with_needed_pieces(facts, [5], characters=False)
    assert kept == [0, 1, 2, 3, 5]
    trimmed = keep_pieces(facts, kept)
    assert split(trimmed, "abc") == ["abc"]
    assert [tuple(merge) for merge in trimmed["model"]["merges"]] == [("a", "b"), ("ab", "c")]


def test_other_kinds_are_refused():
    facts = json.loads(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str())
    with pytest.raises(UnsupportedRoleError, match="WordLevel"):
        with_needed_pieces(facts, [0])
