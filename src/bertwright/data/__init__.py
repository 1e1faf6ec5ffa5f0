"""From labelled text to batches of token ids: sources, tokenisation, batching, built-in corpus."""

from __future__ import annotations

from bertwright.data.batching import collate, pad_batch, padding_efficiency, plan_batches
from bertwright.data.corpus import builtin_corpus
from bertwright.data.schema import Columns, LabelSet
from bertwright.data.sources import Rows, load_rows, split_rows
from bertwright.data.tokenise import EncodedRows, TokenBatch, encode_texts, tokenise

__all__ = [
    "Columns",
    "EncodedRows",
    "LabelSet",
    "Rows",
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
