"""Rows of questions about texts, tokenizers of every kind, and the features made of both."""

from __future__ import annotations

import functools

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from bertwright.tasks.span_windows import SpanEncoder
from tiny import FAMILY_NAMES, tiny_tokenizer

CONTEXT = "😀 The film, the good film, was made in Zürich."
GOOD = {
    "question": "where ?",
    "context": CONTEXT,
    "answers": [{"text": "Zürich", "answer_start": 39}],
}
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


def with_answers(answers, **more):
    return GOOD | {"answers": answers} | more


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


def pairs_of(features, window):
    firsts, lasts = features.fields["offset_start"][window], features.fields["offset_end"][window]
    return [(a, b) for a, b in zip(firsts.tolist(), lasts.tolist(), strict=True) if a >= 0]
