"""From labelled text to batches of token ids: sources, tokenisation, batching, built-in corpus."""

from __future__ import annotations

from bertwright.data.batching import collate, pad_batch, padding_efficiency, plan_batches
from bertwright.data.corpus import builtin_corpus
from bertwright.data.encode import (
    Features,
    RowEncoder,
    Target,
    TextEncoder,
    TokenBatch,
    encode_texts,
)
from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.data.rows import Rows, split_rows
from bertwright.data.schema import Column, RowSchema
from bertwright.data.tokenise import EncodedRows, tokenise

__all__ = [
    "Column",
    "EncodedRows",
    "Features",
    "LabelSet",
    "RowEncoder",
    "RowSchema",
    "Rows",
    "Target",
    "TextEncoder",
    "TokenBatch",
    "builtin_corpus",
    "collate",
    "encode_texts",
    "load_rows",
    "pad_batch",
    "padding_efficiency",
    "plan_batches",
    "split_rows",
    "tokenise",
]
