"""Rows of text to rows of token ids, once, into a memory-mapped Arrow cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

import datasets
import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from bertwright.config import require
from bertwright.data.cache import cache_root, open_folder, publish_folder, scratch_folder
from bertwright.data.schema import LabelSet
from bertwright.data.sources import Rows
from bertwright.errors import ModelLoadError, RowTooLongError, UnknownChoiceError
from bertwright.progress import Progress

__all__ = [
    "EncodedRows",
    "TokenBatch",
    "encode_texts",
    "hash_tokenizer",
    "tokenise",
    "uses_token_types",
]

_FORMAT_VERSION = 1
_BATCH_ROWS = 2000
_TOKENS_FILE = "tokens.arrow"


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


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of what the tokenizer does, wherever it was loaded from."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = json.loads(backend.to_str())
        content.pop("truncation", None)
        content.pop("padding", None)
    else:
        content = {"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()}
    content["specials"] = sorted(map(str, tokenizer.all_special_tokens))
    content["inputs"] = list(tokenizer.model_input_names)
    content["pad"] = tokenizer.pad_token_id
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class _FlatColumn:
    """Row access to a chunked list column without copies."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._values = [chunk.values.to_numpy() for chunk in column.chunks]
        self._offsets = [chunk.offsets.to_numpy() for chunk in column.chunks]
        self._starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])

    def lengths(self) -> np.ndarray:
        """Return the length of each row, int32 [N]."""
        return np.concatenate([np.diff(offsets) for offsets in self._offsets]).astype(np.int32)

    def take(self, positions: np.ndarray) -> list[np.ndarray]:
        """Return the rows at these positions as views."""
        chunks = np.searchsorted(self._starts, positions, side="right") - 1
        rows = []
        for chunk, inside in zip(chunks, positions - self._starts[chunks], strict=True):
            offsets = self._offsets[chunk]
            rows.append(self._values[chunk][offsets[inside] : offsets[inside + 1]])
        return rows


@dataclass
class EncodedRows:
    """Tokenised rows, memory-mapped.

    Attributes:
        dataset: columns `row` (int64), `input_ids` (list of int32), `token_type_ids` (list of
            int8) where the model uses them, `label` (int64) when labelled.
        lengths: tokens of each row, int32 [N].
        row_numbers: 0-based source row numbers, int64 [N].
        label_ids: int64 [N]; None without labels.
        pad_token_id: for padding.
        max_length: the most tokens a row may have.
        labels: the label list; None without labels.
        fingerprint: hash of the rows' content, the tokenizer and the options, as hex.
        num_truncated: how many of the rows that were tokenised were cut.
    """

    dataset: datasets.Dataset
    lengths: np.ndarray
    row_numbers: np.ndarray
    label_ids: np.ndarray | None
    pad_token_id: int
    max_length: int
    labels: LabelSet | None
    fingerprint: str
    num_truncated: int
    _columns: dict[str, _FlatColumn] = field(default_factory=dict, repr=False)
    _positions: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, positions: np.ndarray) -> list[np.ndarray]:
        """Return the token ids of the rows at these positions, int32, as views."""
        return self._columns["input_ids"].take(self._inner(positions))

    def token_types(self, positions: np.ndarray) -> list[np.ndarray] | None:
        """Return the token types of the rows at these positions, int8; None without."""
        column = self._columns.get("token_type_ids")
        return None if column is None else column.take(self._inner(positions))

    def _inner(self, positions: np.ndarray) -> np.ndarray:
        positions = np.asarray(positions, dtype=np.int64)
        return positions if self._positions is None else self._positions[positions]

    def select(self, indices: Sequence[int] | np.ndarray | range) -> EncodedRows:
        """Return the rows at these positions, in this order."""
        positions = np.arange(len(self))[np.asarray(indices, dtype=np.int64)]
        digest = hashlib.blake2b(self.fingerprint.encode(), digest_size=16)
        digest.update(positions.tobytes())
        return replace(
            self,
            dataset=self.dataset.select(positions),
            lengths=self.lengths[positions],
            row_numbers=self.row_numbers[positions],
            label_ids=None if self.label_ids is None else self.label_ids[positions],
            fingerprint=digest.hexdigest(),
            _positions=self._inner(positions),
        )


def tokenise(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    max_length: int = 128,
    long_rows: Literal["truncate", "stop"] = "truncate",
    cache_dir: str | Path | None = None,
) -> EncodedRows:
    """Tokenise rows, or map the tokens from the cache if they were tokenised before.

    The cache is keyed by the rows' content, the tokenizer's content, the options and the format's
    version. A damaged cache is made again.

    Args:
        rows: what `load_rows` returned.
        tokenizer: of the model.
        max_length: most tokens of a row, specials included.
        long_rows: "truncate" cuts longer rows, "stop" raises at the first.
        cache_dir: root of the cache; None: the user's.

    Raises:
        ConfigError: `max_length` leaves no room for text beside the specials.
        ModelLoadError: there is no tokenizer, or it has no padding token.
        RowTooLongError: a row is too long and `long_rows` is "stop".
    """
    if tokenizer is None:
        raise ModelLoadError("the model has no tokenizer", hint="give a model with tokenizer files")
    pad_token_id: Any = tokenizer.pad_token_id
    if pad_token_id is None:
        raise ModelLoadError("the tokenizer has no padding token", hint="set tokenizer.pad_token")
    if long_rows not in ("truncate", "stop"):
        raise UnknownChoiceError("--long-rows", long_rows, ("truncate", "stop"))
    specials = tokenizer.num_special_tokens_to_add(pair=rows.has_pairs)
    least = specials + 1 + rows.has_pairs
    require(
        max_length >= least, "max_length", max_length, f"at least {least} ({specials} specials)"
    )
    key = json.dumps(
        [_FORMAT_VERSION, rows.fingerprint, hash_tokenizer(tokenizer), max_length, long_rows]
    )
    fingerprint = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    root = cache_root("tokens", cache_dir)
    meta = open_folder(root / fingerprint)
    if meta is None:
        with scratch_folder(root) as scratch:
            path = scratch / _TOKENS_FILE
            num_truncated = _write_tokens(rows, tokenizer, path, max_length, long_rows)
            meta = {"num_truncated": num_truncated}
            publish_folder(scratch, root / fingerprint, meta)
    dataset = datasets.Dataset.from_file(str(root / fingerprint / _TOKENS_FILE))
    table = dataset.data.table
    columns = {
        name: _FlatColumn(table.column(name))
        for name in ("input_ids", "token_type_ids")
        if name in table.column_names
    }
    return EncodedRows(
        dataset=dataset,
        lengths=columns["input_ids"].lengths(),
        row_numbers=table.column("row").to_numpy(),
        label_ids=table.column("label").to_numpy() if "label" in table.column_names else None,
        pad_token_id=int(pad_token_id),
        max_length=max_length,
        labels=rows.labels,
        fingerprint=fingerprint,
        num_truncated=meta["num_truncated"],
        _columns=columns,
    )


def _write_tokens(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    max_length: int,
    long_rows: Literal["truncate", "stop"],
) -> int:
    """Write the tokens of all rows to an Arrow file; return how many rows were cut."""
    token_types = uses_token_types(tokenizer, pairs=rows.has_pairs)
    fields = [("row", pa.int64()), ("input_ids", pa.list_(pa.int32()))]
    fields += [("token_type_ids", pa.list_(pa.int8()))] * token_types
    fields += [("label", pa.int64())] * (rows.labels is not None)
    schema = pa.schema(fields)
    source = rows.dataset.with_format(None)
    num_truncated = 0
    with (
        Progress("tokenise", total=len(rows), unit="rows") as bar,
        pa.ipc.new_stream(str(path), schema) as writer,
    ):
        for part in source.iter(batch_size=_BATCH_ROWS):
            batch = cast("dict[str, list[Any]]", part)
            encoded = encode_texts(
                tokenizer,
                batch["text"],
                batch.get("text_b"),
                max_length=max_length,
                token_types=token_types,
            )
            long = np.flatnonzero(encoded.lengths > max_length)
            if len(long) and long_rows == "stop":
                number = batch["row"][long[0]]
                raise _too_long(rows, number, int(encoded.lengths[long[0]]), max_length)
            num_truncated += len(long)
            arrays = {
                "row": pa.array(batch["row"], pa.int64()),
                "input_ids": _list_array(encoded.input_ids, np.int32),
            }
            if encoded.token_type_ids is not None:
                arrays["token_type_ids"] = _list_array(encoded.token_type_ids, np.int8)
            if rows.labels is not None:
                arrays["label"] = pa.array(batch["label"], pa.int64())
            writer.write_batch(pa.RecordBatch.from_pydict(arrays, schema=schema))
            bar.advance(len(batch["row"]))
    return num_truncated


def _too_long(rows: Rows, number: int, length: int, max_length: int) -> RowTooLongError:
    path, line = rows.locate(number)
    return RowTooLongError(
        f"the row has {length} tokens, more than {max_length}",
        path=path,
        line=line,
        hint="raise --max-length, or cut such rows with --long-rows truncate",
    )


def _list_array(lists: list[list[int]], dtype: type[np.integer]) -> pa.ListArray:
    offsets = np.zeros(len(lists) + 1, dtype=np.int32)
    np.cumsum([len(values) for values in lists], out=offsets[1:])
    flat = np.fromiter(chain.from_iterable(lists), dtype=dtype, count=int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))
