"""Rows to a memory-mapped Arrow file, in batches, so that memory does not grow with the data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from bertwright.data.labels import LabelSet
from bertwright.data.schema import RowSchema

__all__ = ["WRITE_ROWS", "RowWriter"]

WRITE_ROWS = 10_000
_FORMAT_VERSION = 2


class RowWriter:
    """Writes rows to an Arrow file in batches.

    Without a label list, labels get ids in the order of their first row while writing, and
    `finish` renumbers them in the order that the schema gives them.
    """

    def __init__(self, path: Path, schema: RowSchema, labels: LabelSet | None) -> None:
        self.num_rows = 0
        self.num_unknown = 0
        """Rows with a label that is not in the list."""
        self._path = path
        self._schema = schema
        self._labels = labels
        self._seen = {name: index for index, name in enumerate(labels or ())}
        self._digest = hashlib.blake2b(f"rows{_FORMAT_VERSION}".encode(), digest_size=16)
        self._batch: list[tuple[int, dict[str, Any]]] = []
        self._file: pa.ipc.RecordBatchStreamWriter | None = None

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._flush()
        if self._file is not None:
            self._file.close()

    def add(self, row: int, values: dict[str, Any]) -> None:
        """Take one row: its number in the source, and its stored fields.

        Raises:
            UnknownLabelError: a label is not in the list, and the schema's rows have to have one
                that is.
        """
        if self._labels is not None:
            unknown = [name for name in self._names_in(values) if name not in self._labels]
            if unknown and not self._schema.open_labels(values):
                self._labels.id_of(unknown[0])
            self.num_unknown += bool(unknown)
        self._batch.append((row, values))
        self.num_rows += 1
        if len(self._batch) == WRITE_ROWS:
            self._flush()

    def _names_in(self, values: dict[str, Any]) -> Iterator[str]:
        for field in self._schema.label_fields:
            value = values.get(field)
            if isinstance(value, str):
                yield value
            elif value is not None:
                yield from value

    def _flush(self) -> None:
        if not self._batch:
            return
        numbers = [number for number, _ in self._batch]
        self._digest.update(json.dumps(self._batch).encode())
        arrays: dict[str, pa.Array] = {"row": pa.array(numbers, pa.int64())}
        for field in self._batch[0][1]:
            values = [row[field] for _, row in self._batch]
            if field in self._schema.label_fields:
                values = [self._as_ids(value) for value in values]
            arrays[field] = pa.array(values, self._schema.stored[field])
        self._batch.clear()
        batch = pa.RecordBatch.from_pydict(arrays)
        if self._file is None:
            self._file = pa.ipc.new_stream(str(self._path), batch.schema)
        self._file.write_batch(batch)

    def _as_ids(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._seen.setdefault(value, len(self._seen))
        return [self._seen.setdefault(name, len(self._seen)) for name in value]

    def finish(self) -> tuple[str, LabelSet | None]:
        """Give the labels their final ids; return the content's fingerprint and the labels."""
        labels = self._labels or (self._schema.order_labels(self._seen) if self._seen else None)
        if labels is not None:
            labels = labels.with_others(self._seen)
            self._digest.update(json.dumps(labels.to_json()).encode())
            final = pa.array([labels.id_of(name) for name in self._seen], pa.int64())
            if final.to_pylist() != list(range(len(final))):
                _renumber_labels(self._path, self._schema.label_fields, final)
        return self._digest.hexdigest(), labels


def _renumber_labels(path: Path, fields: tuple[str, ...], final: pa.Array) -> None:
    renumbered = path.with_suffix(".new")
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        columns = [i for i in map(reader.schema.get_field_index, fields) if i >= 0]
        with pa.ipc.new_stream(str(renumbered), reader.schema) as writer:
            for batch in reader:
                for column in columns:
                    ids = _take(final, batch.column(column))
                    batch = batch.set_column(column, reader.schema.field(column), ids)
                writer.write_batch(batch)
    renumbered.replace(path)


def _take(final: pa.Array, ids: pa.Array) -> pa.Array:
    if not pa.types.is_list(ids.type):
        return final.take(ids)
    return pa.ListArray.from_arrays(ids.offsets, final.take(ids.values))
