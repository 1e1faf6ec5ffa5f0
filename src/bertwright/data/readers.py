"""Readers of one file or table each: they yield records with line numbers, and never guess.

A reader yields `(line, value)`: the 1-based line (for tables without lines, the 1-based row) where
the record begins, and either the record as a dict or a `BadLine`. Damage to a whole file (not gzip
after all, cut short) raises.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from bertwright.data.conll import read_conll
from bertwright.data.records import BadLine, Part, Record, guarded, open_binary
from bertwright.data.squad_json import looks_like_squad, read_squad
from bertwright.data.sts_tables import STS_SUFFIXES, sts_part
from bertwright.errors import FileFormatError

__all__ = ["SUFFIXES", "file_part", "list_part", "table_part"]

_BATCH_ROWS = 4096
_HEAD_BYTES = 4096
_MAX_FIELD_CHARS = 1 << 30


def file_part(path: Path) -> Part:
    """Open one csv, tsv, jsonl, CoNLL (each also .gz) or parquet file, or an STS table.

    Raises:
        FileFormatError: it does not exist, is of another type, or has no readable head.
    """
    suffix = _suffix(path)
    may_be_sts = path.name.lower().endswith(STS_SUFFIXES)
    if (suffix or may_be_sts) and not path.is_file():
        raise FileFormatError("no such file", path=path)
    part = sts_part(path) if may_be_sts else None
    if part is not None:
        return part
    if suffix is None:
        also = "; as .txt only SICK and STS.input.NAME.txt" if may_be_sts else ""
        raise FileFormatError(
            f"files of type {path.suffix or '(no suffix)'!r} are not read",
            path=path,
            hint=f"use one of {', '.join(SUFFIXES)}{also}",
        )
    return SUFFIXES[suffix](path)


def _suffix(path: Path) -> str | None:
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def _json_part(path: Path) -> Part:
    """Open SQuAD's nested JSON, or else JSON lines."""
    with open_binary(path) as file:
        nested = looks_like_squad(file.read(_HEAD_BYTES))
    if nested:
        return Part(name=str(path), columns=None, read=lambda only: read_squad(path))
    return _jsonl_part(path)


def _jsonl_part(path: Path) -> Part:
    return Part(name=str(path), columns=None, read=lambda only: _read_jsonl(path))


def _read_jsonl(path: Path) -> Iterator[Record]:
    with open_binary(path) as file:
        for number, line in enumerate(guarded(path, file), start=1):
            if line.isspace():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                if number == 1 and line.lstrip().startswith(b"["):
                    raise _json_array(path) from None
                yield number, BadLine(f"not valid JSON: {error}", _shown(line))
                continue
            if isinstance(value, dict):
                yield number, value
            elif number == 1 and isinstance(value, list):
                raise _json_array(path)
            else:
                reason = f"not a JSON object but {type(value).__name__}"
                yield number, BadLine(reason, _shown(line))


def _json_array(path: Path) -> FileFormatError:
    return FileFormatError(
        "is one JSON array, not JSON Lines",
        path=path,
        line=1,
        hint=f"write one object a line: jq -c '.[]' {path.name} > {path.stem}.jsonl",
    )


def _shown(line: bytes) -> str:
    return line.decode("utf-8", errors="replace").rstrip("\r\n")


class _Lines:
    """Text lines that remember what was taken since `mark`, so that bad records can be shown."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._taken: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._taken.append(line)
        return line

    def mark(self) -> None:
        self._taken.clear()

    @property
    def raw(self) -> str:
        text = "".join(self._taken).rstrip("\r\n")
        return text.encode("utf-8", errors="replace").decode("utf-8")


def _open_text(path: Path, newline: str) -> io.TextIOWrapper:
    file = open_binary(path)
    return io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline=newline)


def _csv_part(path: Path) -> Part:
    return _delimited_part(path, _read_csv)


def _tsv_part(path: Path) -> Part:
    return _delimited_part(path, _read_tsv)


def _delimited_part(path: Path, read: Callable[[Path], Iterator[tuple[int, Any]]]) -> Part:
    number, header = next(read(path), (1, None))
    if header is None:
        raise FileFormatError("is empty", path=path, hint="its first line must name the columns")
    if isinstance(header, BadLine):
        raise FileFormatError(f"the first line: {header.reason}", path=path, line=number)
    if len(set(header)) != len(header):
        twice = sorted({name for name in header if header.count(name) > 1})
        raise FileFormatError(f"columns named twice: {', '.join(twice)}", path=path, line=number)
    return Part(name=str(path), columns=header, read=lambda only: _as_dicts(read(path)))


def _as_dicts(records: Iterator[tuple[int, Any]]) -> Iterator[Record]:
    _, header = next(records)
    for number, fields in records:
        if isinstance(fields, BadLine):
            yield number, fields
        elif len(fields) != len(header):
            reason = f"has {len(fields)} fields, the first line names {len(header)} columns"
            yield number, BadLine(reason, " | ".join(fields))
        else:
            yield number, dict(zip(header, fields, strict=True))


def _read_csv(path: Path) -> Iterator[tuple[int, list[str] | BadLine]]:
    with _open_text(path, "") as file:
        lines = _Lines(guarded(path, file))
        reader = csv.reader(lines, strict=True)
        while True:
            lines.mark()
            number = reader.line_num + 1
            limit = csv.field_size_limit(_MAX_FIELD_CHARS)
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, BadLine(f"not valid CSV: {error}", lines.raw)
                continue
            finally:
                csv.field_size_limit(limit)
            if fields:
                yield number, fields


def _read_tsv(path: Path) -> Iterator[tuple[int, list[str] | BadLine]]:
    """One line is one record; quotes are text unless they enclose a whole field.

    Files of the field (GLUE, SentEval) hold lone quotes, which a CSV reader would pair up across
    lines, losing rows without a word.
    """
    with _open_text(path, "\n") as file:
        for number, line in enumerate(guarded(path, file), start=1):
            if line.strip():
                yield number, [_unquoted(part) for part in line.rstrip("\r\n").split("\t")]


def _unquoted(part: str) -> str:
    if len(part) < 2 or not (part.startswith('"') and part.endswith('"')):
        return part
    inner = part[1:-1]
    return inner.replace('""', '"') if '"' not in inner.replace('""', "") else part


def _conll_part(path: Path) -> Part:
    return Part(name=str(path), columns=None, read=lambda only: read_conll(path))


def _parquet_part(path: Path) -> Part:
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise FileFormatError(f"not a readable parquet file: {error}", path=path) from None
    return Part(
        name=str(path),
        columns=schema.names,
        read=lambda only: _read_parquet(path, only),
        class_names=_class_names(datasets.Features.from_arrow_schema(schema)),
    )


def _read_parquet(path: Path, only: Sequence[str]) -> Iterator[Record]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(only)):
                for value in batch.to_pylist():
                    number += 1
                    yield number, value
    except (pa.ArrowException, OSError) as error:
        raise FileFormatError(
            f"the file is damaged after this row: {error}", path=path, line=number
        ) from None


def _class_names(features: datasets.Features | None) -> dict[str, list[str]]:
    """Return the names of columns of class ids, or of lists of class ids."""
    names = {}
    for column, feature in (features or {}).items():
        inner = feature.feature if isinstance(feature, datasets.List) else feature
        if isinstance(inner, datasets.ClassLabel):
            names[column] = list(inner.names)
    return names


def table_part(dataset: datasets.Dataset, name: str) -> Part:
    """Wrap a `datasets.Dataset`; its ClassLabel names are kept."""

    def read(only: Sequence[str]) -> Iterator[Record]:
        number = 0
        table = dataset.select_columns(list(only)).with_format(None)
        for some in table.iter(batch_size=_BATCH_ROWS):
            batch = cast("dict[str, list[Any]]", some)
            for values in zip(*(batch[column] for column in only), strict=True):
                number += 1
                yield number, dict(zip(only, values, strict=True))

    return Part(
        name=name,
        columns=dataset.column_names,
        read=read,
        class_names=_class_names(dataset.features),
    )


def list_part(rows: Sequence[Any], name: str) -> Part:
    """Wrap a list of dicts."""

    def read(only: Sequence[str]) -> Iterator[Record]:
        for number, value in enumerate(rows, start=1):
            if isinstance(value, Mapping):
                yield number, dict(value)
            else:
                reason = f"not a dict but {type(value).__name__}"
                yield number, BadLine(reason, repr(value))

    return Part(name=name, columns=None, read=read)


SUFFIXES: dict[str, Callable[[Path], Part]] = {
    **{
        suffix + packed: make
        for suffix, make in (
            (".csv", _csv_part),
            (".tsv", _tsv_part),
            (".jsonl", _jsonl_part),
            (".ndjson", _jsonl_part),
            (".json", _json_part),
            (".conll", _conll_part),
            (".iob2", _conll_part),
            (".bio", _conll_part),
        )
        for packed in ("", ".gz")
    },
    ".parquet": _parquet_part,
}
"""File name endings that are read."""
