"""Rows of text to rows of token ids, once, into a memory-mapped Arrow cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

import datasets
import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from bertwright.config import require
from bertwright.data.batching import collate, plan_batches
from bertwright.data.cache import cache_root, open_folder, publish_folder, scratch_folder
from bertwright.data.encode import Inputs, RowEncoder, Target, TextEncoder, uses_token_types
from bertwright.data.gather import Gathered
from bertwright.data.labels import LabelSet
from bertwright.data.reads import StoredReads
from bertwright.data.rows import Rows
from bertwright.errors import ModelLoadError, RowTooLongError, UnknownChoiceError
from bertwright.progress import Progress

__all__ = ["EncodedRows", "hash_tokenizer", "tokenise"]

_FORMAT_VERSION = 2
_BATCH_ROWS = 2000
_TOKENS_FILE = "tokens.arrow"


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
    """Tokenised rows, memory-mapped: one feature a row, or several where the encoder makes windows.

    Attributes:
        rows: what was tokenised.
        dataset: columns `row` (int64), `input_ids` (list of int32), `token_type_ids` (list of
            int8) where the model uses them, and the encoder's targets and extras.
        lengths: tokens of each feature, int32 [N].
        row_numbers: 0-based source row number of each feature, int64 [N].
        targets: how the targets go into a batch, by name; empty without labels.
        pad_token_id: for padding.
        max_length: the most tokens a feature may have.
        labels: the label list; None without labels.
        fingerprint: hash of the rows' content, the tokenizer and the options, as hex.
        num_truncated: how many of the features that were tokenised were cut.
        together: the features of a row go into one batch, where there are losses.
        reads: what the model reads of them, where its encoder is frozen and was run before.
    """

    rows: Rows
    dataset: datasets.Dataset
    lengths: np.ndarray
    row_numbers: np.ndarray
    targets: Mapping[str, Target]
    pad_token_id: int
    max_length: int
    labels: LabelSet | None
    fingerprint: str
    num_truncated: int
    together: bool = False
    reads: StoredReads | None = None
    _lists: dict[str, _FlatColumn] = field(default_factory=dict, repr=False)
    _numbers: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    _positions: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def label_ids(self) -> np.ndarray | None:
        """The target `labels` where it is one number a row, [N]; None without."""
        if "labels" not in self.targets or "labels" not in self._numbers:
            return None
        labels = self._numbers["labels"]
        return labels if self._positions is None else labels[self._positions]

    def row_names(self, positions: np.ndarray) -> list[str]:
        """Return what messages call the rows of the features at these positions: their numbers."""
        return [str(number) for number in self.row_numbers[positions]]

    @property
    def groups(self) -> np.ndarray | None:
        """Which features go together, as `plan_batches` takes it; None: each by itself."""
        return self.row_numbers if self.together else None

    def plan(
        self,
        *,
        batch_tokens: int,
        batch_size: int | None = None,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
    ) -> list[np.ndarray]:
        """Return the positions of the features of each batch of an epoch; see `plan_batches`."""
        return plan_batches(
            self.lengths,
            batch_tokens=batch_tokens,
            batch_size=batch_size,
            seed=seed,
            epoch=epoch,
            shuffle=shuffle,
            groups=self.groups,
        )

    def collate(self, positions: np.ndarray) -> dict[str, Any]:
        """Return the batch of the features at these positions; see `batching.collate`.

        With `reads`, what the model reads of them is in it as `read`.
        """
        batch = collate(self, positions)
        if self.reads is not None:
            length = batch["attention_mask"].shape[1]
            batch["read"] = self.reads.batch(positions, length)
        return batch

    def gathered(self) -> Gathered:
        """Return what collects the outputs of batches of these features."""
        return Gathered(len(self))

    def tokens(self, positions: np.ndarray) -> list[np.ndarray]:
        """Return the token ids of the features at these positions, int32, as views."""
        return self._lists["input_ids"].take(self._inner(positions))

    def token_types(self, positions: np.ndarray) -> list[np.ndarray] | None:
        """Return the token types of the features at these positions, int8; None without."""
        column = self._lists.get("token_type_ids")
        return None if column is None else column.take(self._inner(positions))

    def field(self, name: str, positions: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """Return a target or an extra of these features: an array, or arrays of lists."""
        inner = self._inner(positions)
        return (
            self._numbers[name][inner] if name in self._numbers else self._lists[name].take(inner)
        )

    def _inner(self, positions: np.ndarray) -> np.ndarray:
        positions = np.asarray(positions, dtype=np.int64)
        return positions if self._positions is None else self._positions[positions]

    def select(self, indices: Sequence[int] | np.ndarray | range) -> EncodedRows:
        """Return the features at these positions, in this order."""
        positions = np.arange(len(self))[np.asarray(indices, dtype=np.int64)]
        digest = hashlib.blake2b(self.fingerprint.encode(), digest_size=16)
        digest.update(positions.tobytes())
        return replace(
            self,
            dataset=self.dataset.select(positions),
            lengths=self.lengths[positions],
            row_numbers=self.row_numbers[positions],
            fingerprint=digest.hexdigest(),
            reads=None if self.reads is None else self.reads.select(positions),
            _positions=self._inner(positions),
        )

    def inputs(self) -> Inputs:
        """Return the rows that have features here, in this order, and what decoding needs of them.

        Features of one row that stand together are its windows.
        """
        begins = np.diff(self.row_numbers, prepend=-1) != 0
        known = self.rows.row_numbers()
        order = np.argsort(known)
        places = order[np.searchsorted(known, self.row_numbers[begins], sorter=order)]
        everything = np.arange(len(self))
        fields: dict[str, Any] = {
            name: self.field(name, everything)
            for name in (*self._lists, *self._numbers)
            if name not in ("input_ids", "token_type_ids")
        }
        sources = np.cumsum(begins) - 1
        return Inputs(rows=_Columns(self.rows, places), sources=sources, fields=fields)

    def without_targets(self) -> EncodedRows:
        """Return the same features as if they had no labels."""
        return replace(self, targets={}, labels=None)


class _Columns(Mapping[str, Sequence[Any]]):
    """Columns of some rows, read when they are asked for."""

    def __init__(self, rows: Rows, places: np.ndarray) -> None:
        self._dataset = rows.dataset
        self._places = places
        self._whole = np.array_equal(places, np.arange(len(rows)))

    def __getitem__(self, name: str) -> Sequence[Any]:
        if name not in self._dataset.column_names:
            raise KeyError(name)
        if self._whole:
            return self._dataset[name][:]
        return self._dataset.select(self._places)[name][:]

    def __iter__(self) -> Iterator[str]:
        return iter(self._dataset.column_names)

    def __len__(self) -> int:
        return len(self._dataset.column_names)


def tokenise(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    encoder: RowEncoder | None = None,
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
        encoder: how rows become features; None: a text or pair of texts, and its label.
        max_length: most tokens of a feature, specials included.
        long_rows: "truncate" cuts longer rows, "stop" raises at the first.
        cache_dir: root of the cache; None: the user's.

    Raises:
        ConfigError: `max_length` leaves no room for text beside the specials.
        ModelLoadError: there is no tokenizer, or it has no padding token.
        RowTooLongError: a row is too long and `long_rows` is "stop".
    """
    encoder = encoder or TextEncoder()
    if tokenizer is None:
        raise ModelLoadError("the model has no tokenizer", hint="give a model with tokenizer files")
    pad_token_id: Any = tokenizer.pad_token_id
    if pad_token_id is None:
        raise ModelLoadError("the tokenizer has no padding token", hint="set tokenizer.pad_token")
    if long_rows not in ("truncate", "stop"):
        raise UnknownChoiceError("--long-rows", long_rows, ("truncate", "stop"))
    pairs = encoder.makes_pairs(rows.dataset.column_names)
    least = encoder.least_length(tokenizer, pairs=pairs)
    require(
        max_length >= least,
        "max_length",
        max_length,
        f"at least {least}, specials included",
    )
    key = json.dumps(
        [
            *(_FORMAT_VERSION, rows.fingerprint, hash_tokenizer(tokenizer)),
            *(encoder.key, max_length, long_rows),
        ]
    )
    fingerprint = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    root = cache_root("tokens", cache_dir)
    meta = open_folder(root / fingerprint)
    if meta is None:
        with scratch_folder(root) as scratch:
            path = scratch / _TOKENS_FILE
            num_truncated = _write_tokens(rows, tokenizer, encoder, path, max_length, long_rows)
            meta = {"num_truncated": num_truncated}
            publish_folder(scratch, root / fingerprint, meta)
    dataset = datasets.Dataset.from_file(str(root / fingerprint / _TOKENS_FILE))
    table = dataset.data.table
    lists, numbers = _split_columns(table)
    return EncodedRows(
        rows=rows,
        dataset=dataset,
        lengths=lists["input_ids"].lengths(),
        row_numbers=numbers.pop("row"),
        targets={n: t for n, t in encoder.targets.items() if n in table.column_names},
        pad_token_id=int(pad_token_id),
        max_length=max_length,
        labels=rows.labels,
        fingerprint=fingerprint,
        num_truncated=meta["num_truncated"],
        together=encoder.together,
        _lists=lists,
        _numbers=numbers,
    )


def _split_columns(table: pa.Table) -> tuple[dict[str, _FlatColumn], dict[str, np.ndarray]]:
    """Return the columns of lists, and those of numbers."""
    lists: dict[str, _FlatColumn] = {}
    numbers: dict[str, np.ndarray] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_list(column.type):
            lists[name] = _FlatColumn(column)
        else:
            numbers[name] = column.to_numpy()
    return lists, numbers


def _write_tokens(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    encoder: RowEncoder,
    path: Path,
    max_length: int,
    long_rows: Literal["truncate", "stop"],
) -> int:
    """Write the features of all rows to an Arrow file; return how many were cut."""
    pairs = encoder.makes_pairs(rows.dataset.column_names)
    token_types = uses_token_types(tokenizer, pairs=pairs)
    types = {name: target.type for name, target in encoder.targets.items()} | dict(encoder.extras)
    source = rows.dataset.with_format(None)
    num_truncated = 0
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(Progress("tokenise", total=len(rows), unit="rows"))
        writer: pa.ipc.RecordBatchStreamWriter | None = None
        for part in source.iter(batch_size=_BATCH_ROWS):
            batch = cast("dict[str, list[Any]]", part)
            features = encoder.encode(
                tokenizer, batch, max_length=max_length, token_types=token_types
            )
            sources = features.sources or range(len(batch["row"]))
            numbers = [batch["row"][source] for source in sources]
            long = np.flatnonzero(features.lengths > max_length)
            if len(long) and long_rows == "stop":
                length = int(features.lengths[long[0]])
                raise _too_long(rows, numbers[long[0]], length, max_length)
            num_truncated += len(long)
            arrays = {
                "row": pa.array(numbers, pa.int64()),
                "input_ids": _list_array(features.input_ids, np.int32),
            }
            if features.token_type_ids is not None:
                arrays["token_type_ids"] = _list_array(features.token_type_ids, np.int8)
            for name, values in features.fields.items():
                arrays[name] = pa.array(values, types[name])
            table = pa.RecordBatch.from_pydict(arrays)
            if writer is None:
                writer = stack.enter_context(pa.ipc.new_stream(str(path), table.schema))
            writer.write_batch(table)
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
