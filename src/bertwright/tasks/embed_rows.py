"""Rows of embeddings: texts that belong together, by a score, as a pair, or by a label.

Shapes: F features.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from bertwright.data.encode import Features, RowEncoder, Target, encode_texts
from bertwright.data.schema import LABEL, TEXT, TEXT_B, Column, RowSchema, read_label, read_text
from bertwright.errors import DataError
from bertwright.tasks.regress import read_number

__all__ = ["ANCHOR", "EMBED_SCHEMA", "POSITIVE", "TextsEncoder", "text_id"]

ANCHOR, POSITIVE = 0, 1
TEXTS = ("text", "text_b", "negative")

NEGATIVE = Column(
    role="negative",
    noun="negative",
    read=read_text,
    aliases=("text_c", "hard_negative", "sentence3"),
    optional=True,
)
SCORE_OR_LABEL = replace(
    LABEL,
    noun="label",
    read=lambda value, column: value,
    aliases=(
        *LABEL.aliases, "score", "scores", "similarity", "similarity_score", "relatedness_score",
    ),
    optional=True,
)  # fmt: skip


def _build(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a row: a label of a pair is its score, that of a single text a name.

    Raises:
        DataError: the values do not fit together.
    """
    fields = {name: values[name] for name in TEXTS if name in values}
    if "negative" in fields and "text_b" not in fields:
        raise DataError("has a negative, but no second text that it is the opposite of")
    if "label" in values and "text_b" in fields:
        if "negative" in fields:
            raise DataError("has both a score and a negative: a row is scored, or a triplet")
        fields["score"] = read_number(values["label"], "score")
    elif "label" in values:
        fields["label"] = read_label(values["label"], "label")
    return fields


EMBED_SCHEMA = RowSchema(
    columns=(
        replace(TEXT, aliases=(*TEXT.aliases, "anchor")),
        replace(TEXT_B, aliases=(*TEXT_B.aliases, "positive")),
        NEGATIVE,
        SCORE_OR_LABEL,
    ),
    stored={
        **dict.fromkeys(TEXTS, pa.string()),
        "score": pa.float64(),
        "label": pa.int64(),
    },
    label_fields=("label",),
    build=_build,
    needs_target=False,
)


def text_id(text: str) -> int:
    """Return a number that is the same for the same text: 63 bits of a hash."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class TextsEncoder(RowEncoder):
    """One feature a text: the text, the second text and the negative of a row, in this order.

    With `twice`, a row of one text and no label gives it twice (SimCSE: dropout makes two views).
    """

    twice: bool = False

    @property
    def key(self) -> str:
        """Names it and its options."""
        return f"texts twice={self.twice}"

    @property
    def targets(self) -> Mapping[str, Target]:
        """Which of the row's texts it is, what text it is, and the row's score or label."""
        number = Target(pa.int64())
        return {
            "places": number,
            "text_ids": number,
            "groups": number,
            "scores": Target(pa.float32()),
        }

    @property
    def together(self) -> bool:
        """A loss compares the texts of a row."""
        return True

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Mapping[str, Sequence[Any]],
        *,
        max_length: int,
        token_types: bool,
    ) -> Features:
        """Return the features of rows, each row's one after the other."""
        columns = [list(rows[name]) for name in TEXTS if name in rows]
        if len(columns) == 1 and self.twice and "label" not in rows:
            columns *= 2
        texts = list(itertools.chain.from_iterable(zip(*columns, strict=True)))
        tokens = encode_texts(tokenizer, texts, max_length=max_length, token_types=token_types)
        num_rows, per_row = len(columns[0]), len(columns)
        fields: dict[str, list[Any]] = {
            "places": list(range(per_row)) * num_rows,
            "text_ids": [text_id(text) for text in texts],
        }
        for name, column in (("scores", "score"), ("groups", "label")):
            if column in rows:
                fields[name] = np.repeat(np.asarray(rows[column]), per_row).tolist()
        return Features(
            input_ids=tokens.input_ids,
            token_type_ids=tokens.token_type_ids,
            lengths=tokens.lengths,
            sources=np.repeat(np.arange(num_rows), per_row).tolist(),
            fields=fields,
        )
