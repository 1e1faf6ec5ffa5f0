"""Rows of queries with their candidates, and the pairs that a model reads of them.

A row has candidates with a relevance each, or positives and negatives. Both are stored alike.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from bertwright.data.encode import Features, RowEncoder, Target, TokenBatch, encode_texts
from bertwright.data.schema import Column, RowSchema, read_text
from bertwright.errors import DataError, EmptyTextError, FileFormatError, MissingColumnError

__all__ = ["RERANK_SCHEMA", "RerankEncoder", "read_relevance", "read_texts"]

_FORMS = "a row has candidates with their relevance, or positives and negatives"
_RELEVANCE_FORM = "give each candidate a number: 0 if it is not relevant, more the more it is"
_SKIP = "or leave such rows out with --on-bad-row skip"
_MOST_RELEVANT = 1e30
"""Sums of more do not fit the floats of a loss."""
_PAIRS_AT_ONCE = 4096


def read_texts(value: object, column: str) -> list[str]:
    """Return the texts of a list.

    Raises:
        EmptyTextError: one of them is empty.
        FileFormatError: it is no list, or one of them is no text.
    """
    if not isinstance(value, list):
        raise FileFormatError(
            f"{column} is not a list of texts but {type(value).__name__}", hint=_FORMS
        )
    return [read_text(text, f"the text at index {i} of {column}") for i, text in enumerate(value)]


def read_relevance(value: object, column: str) -> list[float]:
    """Return the relevance of each candidate.

    Raises:
        FileFormatError: it is no list.
        DataError: a relevance is no number, not finite, below 0 or too large.
    """
    if not isinstance(value, list):
        raise FileFormatError(
            f"{column} is not a list of numbers but {type(value).__name__}", hint=_RELEVANCE_FORM
        )
    return [
        _read_number(item, f"the number at index {i} of {column}") for i, item in enumerate(value)
    ]


def _read_number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{what} is {value!r}, which is not a number", hint=_RELEVANCE_FORM)
    if not -math.inf < value < math.inf:
        raise DataError(f"{what} is {value!r}, which is not finite", hint=_RELEVANCE_FORM)
    if value < 0:
        raise DataError(f"{what} is {value!r}, which is below 0", hint=_RELEVANCE_FORM)
    if value > _MOST_RELEVANT:
        raise DataError(f"{what} is above {_MOST_RELEVANT:g}", hint=_RELEVANCE_FORM)
    return float(value)


class _Given(NamedTuple):
    """What a row has in a column."""

    column: str
    value: Any


def _read_candidates(value: object, column: str) -> list[str] | None:
    if value is None:
        return None
    texts = read_texts(value, column)
    if not texts:
        raise EmptyTextError(f"{column} is an empty list", hint=f"give candidates, {_SKIP}")
    return texts


def _read_side(value: object, column: str) -> _Given:
    """Return positives or negatives; a text alone is a list of one."""
    texts = [value] if isinstance(value, str) else value
    return _Given(column, None if texts is None else read_texts(texts, column))


def _build(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored fields of a row of either form."""
    none = _Given("", None)
    candidates = values.get("candidates")
    positives, negatives = values.get("positives", none), values.get("negatives", none)
    sides = [side.value for side in (positives, negatives) if side.value is not None]
    if candidates is not None and sides:
        raise DataError(
            "has candidates, and positives or negatives too", hint=f"keep one of them: {_FORMS}"
        )
    if candidates is None and not any(sides):
        raise _no_candidates(values)
    stored = {
        "query": values["query"],
        "candidates": list(chain(*sides)) if candidates is None else candidates,
    }
    relevance: _Given | None = values.get("relevance")
    if relevance is None:
        return stored
    if candidates is not None:
        stored["relevance"] = _relevance_of(relevance, len(candidates))
        return stored
    if relevance.value is not None and relevance.column != positives.column:
        raise DataError(f"has {relevance.column}, which goes with candidates", hint=_FORMS)
    for side, name in ((positives, "positives"), (negatives, "negatives")):
        if not side.value:
            raise DataError(
                f"has no {name}, so there is nothing to rank", hint=f"add some, {_SKIP}"
            )
    stored["relevance"] = [1.0] * len(positives.value) + [0.0] * len(negatives.value)
    return stored


def _no_candidates(values: Mapping[str, Any]) -> DataError:
    if values.keys() & {"candidates", "positives", "negatives"}:
        return EmptyTextError("has no candidates", hint=f"{_FORMS}; add some, {_SKIP}")
    return MissingColumnError(
        "has neither candidates nor positives",
        hint="name the column with --column candidates=NAME, or call it so",
    )


def _relevance_of(given: _Given, num_candidates: int) -> list[float]:
    """Return the relevance of each candidate, of which two at least differ."""
    if given.value is None:
        raise DataError(f"{given.column} is empty", hint=_RELEVANCE_FORM)
    relevance = read_relevance(given.value, given.column)
    if len(relevance) != num_candidates:
        raise DataError(
            f"has {num_candidates} candidates, but {len(relevance)} numbers in {given.column}",
            hint=_RELEVANCE_FORM,
        )
    if num_candidates == 1:
        raise DataError(
            "has a single candidate, so there is nothing to rank", hint=f"add others, {_SKIP}"
        )
    if min(relevance) == max(relevance):
        raise DataError(
            f"all {num_candidates} candidates have the relevance {relevance[0]:g}, so there is "
            "nothing to rank",
            hint=f"make one more relevant than another, {_SKIP}",
        )
    return relevance


_POSITIVES = ("positives", "positive", "pos")

RERANK_SCHEMA = RowSchema(
    columns=(
        Column(
            role="query",
            noun="query",
            read=read_text,
            aliases=("question", "search", "q", "anchor"),
        ),
        Column(
            role="candidates",
            noun="candidate list",
            read=_read_candidates,
            aliases=("passages", "documents", "docs"),
            optional=True,
        ),
        Column(
            role="positives",
            noun="list of positives",
            read=_read_side,
            aliases=_POSITIVES[1:],
            optional=True,
        ),
        Column(
            role="negatives",
            noun="list of negatives",
            read=_read_side,
            aliases=("negative", "neg"),
            optional=True,
        ),
        # the names of the positives too: which candidates these are tells the relevance of all
        Column(
            role="relevance",
            noun="relevance",
            read=lambda value, column: _Given(column, value),
            aliases=("relevances", "labels", "label", "scores", *_POSITIVES),
            target=True,
        ),
    ),
    stored={
        "query": pa.string(),
        "candidates": pa.list_(pa.string()),
        "relevance": pa.list_(pa.float64()),
    },
    build=_build,
)
"""A query, texts to rank, and how relevant each is."""


@dataclass(frozen=True)
class RerankEncoder(RowEncoder):
    """A feature for each candidate of a row, in their order: the query and the candidate as a pair.

    Where a pair is too long the candidate is cut, and the query stays whole as long as a token of
    the candidate fits beside it; with a longer query the longer of the two is cut, token by token.
    """

    @property
    def key(self) -> str:
        """Names it."""
        return "query and candidate"

    @property
    def targets(self) -> Mapping[str, Target]:
        """`labels`: the relevance of the candidate."""
        return {"labels": Target(pa.float32())}

    @property
    def together(self) -> bool:
        """The candidates of a row are compared with each other."""
        return True

    def makes_pairs(self, columns: Collection[str]) -> bool:
        """Always."""
        return True

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Mapping[str, Sequence[Any]],
        *,
        max_length: int,
        token_types: bool,
    ) -> Features:
        """Return one feature a candidate.

        Args:
            tokenizer: of the model.
            rows: columns `query`, `candidates` and, with targets, `relevance`.
            max_length: most tokens of a pair, specials included.
            token_types: return token types.
        """
        counts = [len(texts) for texts in rows["candidates"]]
        sources = [row for row, count in enumerate(counts) for _ in range(count)]
        queries = [rows["query"][row] for row in sources]
        candidates = list(chain.from_iterable(rows["candidates"]))
        fields: dict[str, list[Any]] = {}
        if "relevance" in rows:
            fields["labels"] = list(chain.from_iterable(rows["relevance"]))
        parts = [
            _encode_pairs(
                tokenizer,
                queries[start : start + _PAIRS_AT_ONCE],
                candidates[start : start + _PAIRS_AT_ONCE],
                max_length,
                token_types,
            )
            for start in range(0, len(sources), _PAIRS_AT_ONCE)
        ]
        types = [part.token_type_ids or [] for part in parts]
        return Features(
            input_ids=list(chain.from_iterable(part.input_ids for part in parts)),
            token_type_ids=list(chain.from_iterable(types)) if token_types else None,
            lengths=np.concatenate([np.zeros(0, np.int64), *(part.lengths for part in parts)]),
            sources=sources,
            fields=fields,
        )


def _encode_pairs(
    tokenizer: PreTrainedTokenizerBase,
    queries: list[str],
    candidates: list[str],
    max_length: int,
    token_types: bool,
) -> TokenBatch:
    """Tokenise pairs, the candidate cut where the whole does not fit; see `RerankEncoder`."""
    tokens = encode_texts(
        tokenizer, queries, candidates, max_length=sys.maxsize, token_types=token_types
    )
    long = np.flatnonzero(tokens.lengths > max_length).tolist()
    if not long:
        return tokens
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    alone = tokenizer.num_special_tokens_to_add(pair=False)
    distinct = list(dict.fromkeys(queries[index] for index in long))
    found = encode_texts(tokenizer, distinct, max_length=sys.maxsize, token_types=False)
    fits = {
        query: length - alone < room
        for query, length in zip(distinct, found.lengths.tolist(), strict=True)
    }
    for strategy, whole_query in (("only_second", True), ("longest_first", False)):
        chosen = [index for index in long if fits[queries[index]] == whole_query]
        if not chosen:
            continue
        cut: Any = tokenizer(
            [queries[index] for index in chosen],
            [candidates[index] for index in chosen],
            truncation=strategy,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=token_types,
            verbose=False,
        )
        for place, index in enumerate(chosen):
            tokens.input_ids[index] = cut["input_ids"][place]
            if tokens.token_type_ids is not None:
                tokens.token_type_ids[index] = cut["token_type_ids"][place]
    return tokens
