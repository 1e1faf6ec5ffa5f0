"""Texts to token ids, and rows to features: token ids with the targets and extras of a task."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from bertwright.errors import ModelLoadError

__all__ = [
    "IGNORED",
    "Features",
    "Inputs",
    "RowEncoder",
    "Target",
    "TextEncoder",
    "TokenBatch",
    "encode_texts",
    "require_rust_tokenizer",
    "uses_token_types",
]

IGNORED = -100
"""Stands in the place of a target where there is none, as in padding."""


@dataclass(frozen=True)
class Target:
    """How a value that a loss needs is stored and put in a batch.

    A number a feature becomes a tensor [B]; a list becomes [B, n], padded with `pad` to the width
    of the tokens, or to the longest list of the batch.
    """

    type: pa.DataType
    pad: float = IGNORED
    width: Literal["tokens", "longest"] = "tokens"


@dataclass(frozen=True, kw_only=True)
class Features:
    """What rows became: one feature a row, or several (windows of a long text).

    Attributes:
        input_ids: token ids of each feature, specials included, not padded.
        token_type_ids: the same shapes; None where the model has none or they are all 0.
        lengths: tokens of each feature before anything was cut off, int64 [F].
        sources: the row of each feature, by its place in the batch of rows; None: one a row.
        fields: targets and extras by name, one value a feature.
    """

    input_ids: list[list[int]]
    token_type_ids: list[list[int]] | None
    lengths: np.ndarray
    sources: list[int] | None = None
    fields: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What was asked of a model, for reading its outputs as answers.

    Attributes:
        rows: the rows by column.
        sources: the row of each feature, by its place in `rows`, rising, int64 [F].
        fields: targets and extras of the features by name.
    """

    rows: Mapping[str, Sequence[Any]]
    sources: np.ndarray
    fields: Mapping[str, Sequence[Any]]

    @classmethod
    def of(cls, rows: Mapping[str, Sequence[Any]], features: Features) -> Inputs:
        """Return the rows with the features that were made of them."""
        sources = features.sources
        if sources is None:
            sources = list(range(len(features.input_ids)))
        return cls(rows=rows, sources=np.asarray(sources, np.int64), fields=features.fields)

    def features_of_rows(self) -> list[np.ndarray]:
        """Return the positions of each row's features, in order."""
        num_rows = len(next(iter(self.rows.values())))
        bounds = np.searchsorted(self.sources, np.arange(num_rows + 1))
        return [np.arange(a, b) for a, b in itertools.pairwise(bounds.tolist())]


class RowEncoder(Protocol):
    """How the rows of a task become features. A new one has another `key`.

    What has a body here suits features of one text without extras.
    """

    @property
    @abstractmethod
    def key(self) -> str:
        """Names it and its options: part of the cache's key."""
        ...

    @property
    @abstractmethod
    def targets(self) -> Mapping[str, Target]:
        """What losses need, by the name it has in a batch."""
        ...

    @property
    def extras(self) -> Mapping[str, pa.DataType]:
        """What decoding needs beside the outputs; not in batches."""
        return {}

    @property
    def together(self) -> bool:
        """Say whether the features of a row have to be in one batch to give a loss."""
        return False

    def makes_pairs(self, columns: Collection[str]) -> bool:
        """Say whether a feature of rows with these columns is a pair of texts."""
        return False

    def least_length(self, tokenizer: PreTrainedTokenizerBase, *, pairs: bool) -> int:
        """Return the fewest tokens that leave room for text: the specials and one of each text."""
        return tokenizer.num_special_tokens_to_add(pair=pairs) + 1 + pairs

    @abstractmethod
    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Mapping[str, Sequence[Any]],
        *,
        max_length: int,
        token_types: bool,
    ) -> Features:
        """Return the features of a batch of rows, given by column.

        Without the columns of the targets, the features have none.
        """
        ...


@dataclass(frozen=True)
class TokenBatch:
    """Token ids of some texts, specials included, not padded.

    Attributes:
        input_ids: one list of ids a text.
        token_type_ids: the same shapes; None where the model has none or they are all 0.
        lengths: tokens of each text before truncation, int64 [B].
    """

    input_ids: list[list[int]]
    token_type_ids: list[list[int]] | None
    lengths: np.ndarray


def uses_token_types(tokenizer: PreTrainedTokenizerBase, *, pairs: bool) -> bool:
    """Say whether inputs need token types: the model has them and they are not all 0."""
    if "token_type_ids" not in tokenizer.model_input_names:
        return False
    return pairs or any(tokenizer("a")["token_type_ids"])  # type: ignore[arg-type]


def require_rust_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the Rust tokenizer inside, which neither cuts nor pads from here on.

    Raises:
        ModelLoadError: there is none, so nobody can say where its tokens stand in a text.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelLoadError(
            "the tokenizer cannot say where its tokens stand in a text",
            hint="give a model with a tokenizer.json",
        )
    backend.no_truncation()
    backend.no_padding()
    return backend


def encode_texts(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    texts_b: Sequence[str] | None = None,
    *,
    max_length: int,
    token_types: bool | None = None,
) -> TokenBatch:
    """Tokenise texts or pairs of texts; too long ones are cut before the specials are added.

    Of a pair the longer text is cut first, token by token.

    Args:
        tokenizer: of the model.
        texts: [B].
        texts_b: the second texts, [B], or None.
        max_length: most tokens of a row, specials included.
        token_types: return token types; None: ask `uses_token_types`.
    """
    if token_types is None:
        token_types = uses_token_types(tokenizer, pairs=texts_b is not None)
    ids, types = _encode(tokenizer, list(texts), texts_b, None)
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    long = np.flatnonzero(lengths > max_length).tolist()
    if long:
        long_b = None if texts_b is None else [texts_b[index] for index in long]
        cut = _encode(tokenizer, [texts[index] for index in long], long_b, max_length)
        for index, cut_ids, cut_types in zip(long, *cut, strict=True):
            ids[index], types[index] = cut_ids, cut_types
    return TokenBatch(input_ids=ids, token_type_ids=types if token_types else None, lengths=lengths)


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    texts_b: Sequence[str] | None,
    max_length: int | None,
) -> tuple[list[list[int]], list[list[int]]]:
    """Return token ids and types, cut to `max_length` unless it is None."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and max_length is None:
        backend.no_truncation()
        backend.no_padding()
        inputs = list(texts) if texts_b is None else list(zip(texts, texts_b, strict=True))
        encodings = backend.encode_batch_fast(inputs)
        return [e.ids for e in encodings], [e.type_ids for e in encodings]
    found: Any = tokenizer(
        list(texts),
        None if texts_b is None else list(texts_b),
        truncation=False if max_length is None else "longest_first",
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=True,
        verbose=False,
    )
    return found["input_ids"], found["token_type_ids"]


@dataclass(frozen=True)
class TextEncoder(RowEncoder):
    """One feature a row: its text or pair of texts, cut to the length allowed.

    `column` is copied to the target of the name `labels`.
    """

    column: str = "label"
    target: Target = Target(pa.int64())

    @property
    def key(self) -> str:
        """Names it and its options."""
        return f"text {self.column} {self.target}"

    @property
    def targets(self) -> Mapping[str, Target]:
        """The one target."""
        return {"labels": self.target}

    def makes_pairs(self, columns: Collection[str]) -> bool:
        """Say whether there is a second text."""
        return "text_b" in columns

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Mapping[str, Sequence[Any]],
        *,
        max_length: int,
        token_types: bool,
    ) -> Features:
        """Return one feature a row."""
        tokens = encode_texts(
            tokenizer,
            rows["text"],
            rows.get("text_b"),
            max_length=max_length,
            token_types=token_types,
        )
        fields = {"labels": list(rows[self.column])} if self.column in rows else {}
        return Features(
            input_ids=tokens.input_ids,
            token_type_ids=tokens.token_type_ids,
            lengths=tokens.lengths,
            fields=fields,
        )
