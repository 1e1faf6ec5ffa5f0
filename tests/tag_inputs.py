"""Rows of words with tags, tokenizers of every kind, and the features made of both."""

from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bertwright.data.load import load_rows
from bertwright.tasks.tag_pieces import TagEncoder
from bertwright.tasks.tag_rows import TAG_SCHEMA
from tiny import tiny_tokenizer

TOKENS = ["the", "zebra", "of", "New", "York", "!", "中", "国", "dog"]
TAGS = ["O", "O", "O", "B-LOC", "I-LOC", "O", "B-LOC", "I-LOC", "O"]
ROW = {"tokens": TOKENS, "tags": TAGS}
BPE_MERGES = ["Ġ z", "Ġz e", "e r", "Ġ .", "o m"]


def load(rows, **options):
    return load_rows(rows, schema=TAG_SCHEMA, **options)


def words_of(row):
    return [row["text"][a:b] for a, b in zip(row["word_start"], row["word_end"], strict=True)]


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
