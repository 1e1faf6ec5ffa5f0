"""From a file, a folder, a glob, a Hub name, a list or a Dataset to rows of text and label.

Rows are read one at a time and written to a memory-mapped Arrow file, so that memory does not grow
with the data. Rows that cannot be used stop the run, or are counted, shown and set aside.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa

from bertwright.data.cache import cache_root, publish_folder, scratch_folder
from bertwright.data.corpus import CORPUS_SPLITS, builtin_corpus
from bertwright.data.readers import SUFFIXES, BadLine, Part, file_part, list_part, table_part
from bertwright.data.schema import Columns, LabelSet, label_name, resolve_columns
from bertwright.errors import (
    DataError,
    EmptyTextError,
    FileFormatError,
    MissingColumnError,
    UnknownChoiceError,
    UnknownLabelError,
    closest_match,
)
from bertwright.files import reporting_full_disk
from bertwright.progress import Progress, console

__all__ = ["Rows", "Source", "load_rows", "open_source", "split_rows"]

Source = str | Path | Sequence[Mapping[str, Any]] | datasets.Dataset | datasets.DatasetDict

_FORMAT_VERSION = 1
_WRITE_ROWS = 10_000
_SHOWN_REJECTS = 5
_ROWS_FILE = "rows.arrow"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
_SPLIT_NAMES = (("train", "training"), ("dev", "validation", "valid", "val"), ("test", "eval"))


@dataclass
class Rows:
    """Rows of text, memory-mapped.

    Attributes:
        dataset: columns `row` (int64: 0-based number in the source, bad rows counted), `text`,
            `text_b` for pairs, `label` (int64: id in `labels`) when labelled.
        labels: the label list; None without labels.
        fingerprint: hash of the content (rows, texts, label names) as hex.
        source: where the rows came from, for messages.
        num_rejected: bad rows set aside on the way.
    """

    dataset: datasets.Dataset
    labels: LabelSet | None
    fingerprint: str
    source: str
    num_rejected: int = 0
    _parts: tuple[Part, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def has_pairs(self) -> bool:
        """Whether each row has two texts."""
        return "text_b" in self.dataset.column_names

    def texts(self) -> list[str]:
        """Return all texts (all in memory)."""
        return self.dataset["text"][:]

    def texts_b(self) -> list[str] | None:
        """Return all second texts, None without pairs."""
        return self.dataset["text_b"][:] if self.has_pairs else None

    def label_ids(self) -> np.ndarray | None:
        """Return the label ids, int64 [N], None without labels."""
        return self._integers("label") if self.labels is not None else None

    def row_numbers(self) -> np.ndarray:
        """Return the 0-based source row numbers, int64 [N]."""
        return self._integers("row")

    def _integers(self, column: str) -> np.ndarray:
        table = self.dataset.select_columns([column]).with_format("arrow")[:]
        return table[column].to_numpy()

    def select(self, indices: Sequence[int] | np.ndarray | range) -> Rows:
        """Return the rows at these positions, in this order."""
        positions = np.asarray(indices, dtype=np.int64)
        digest = hashlib.blake2b(self.fingerprint.encode(), digest_size=16)
        digest.update(positions.tobytes())
        return Rows(
            dataset=self.dataset.select(positions),
            labels=self.labels,
            fingerprint=digest.hexdigest(),
            source=self.source,
            num_rejected=self.num_rejected,
            _parts=self._parts,
        )

    def locate(self, row: int) -> tuple[str, int]:
        """Return (file, 1-based line) of a source row number, by reading the source again."""
        number = -1
        for part in self._parts:
            for line, _ in part.read(part.columns or ()):
                number += 1
                if number == row:
                    return part.name, line
        raise IndexError(f"{self.source} has no row {row}")


def split_rows(rows: Rows, *, share: float = 0.1, seed: int = 0) -> tuple[Rows, Rows]:
    """Split rows into (rest, held out), each class in proportion, both in source order.

    What rounding does not give one class is carried to the next, so that many small classes still
    give the share asked for; each class keeps at least one row in the rest. The same for the same
    seed.

    Raises:
        DataError: there are too few rows to hold any out.
    """
    labels = rows.label_ids()
    if labels is None:
        labels = np.zeros(len(rows), dtype=np.int64)
    rng = np.random.default_rng(seed)
    held = np.zeros(len(rows), dtype=bool)
    owed = 0.0
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        owed += share * len(members)
        take = min(int(owed + 1e-9), len(members) - 1)
        owed -= take
        held[members[:take]] = True
    if not held.any():
        raise DataError(
            f"{len(rows)} rows are too few to hold {share:.0%} out for evaluation",
            path=rows.source,
            hint="give --eval-data, or more rows",
        )
    return rows.select(np.flatnonzero(~held)), rows.select(np.flatnonzero(held))


def load_rows(
    source: Source,
    *,
    columns: Columns | None = None,
    labels: LabelSet | None = None,
    need_label: bool = True,
    on_bad_row: Literal["stop", "skip"] = "stop",
    rejected_path: str | Path | None = None,
    max_rows: int | None = None,
    seed: int = 0,
    split: str = "train",
    cache_dir: str | Path | None = None,
) -> Rows:
    """Read a source into `Rows`.

    Args:
        source: a csv, tsv or jsonl file (also .gz), a parquet file, a folder (a saved Arrow
            dataset, or such files), a glob, a Hub dataset name (`owner/name`, with a
            configuration `owner/name:config`), `builtin:train|dev|test`, a list of dicts, or a
            `datasets.Dataset`.
        columns: the columns to read; what is None is found by name.
        labels: the legal labels and their order; None collects them from the rows.
        need_label: False does not read labels at all.
        on_bad_row: "stop" raises at the first bad row, "skip" sets it aside.
        rejected_path: where "skip" writes the rejected rows, one JSON object a line:
            {"path", "line", "reason", "row"}. None: next to the cached rows.
        max_rows: keep a random sample of so many rows, drawn from `seed`, in source order (the
            first rows of a file sorted by label would hold few classes). The label list is that of
            all rows.
        seed: of that sample.
        split: which split of a Hub dataset, saved dataset dict or folder with files of these
            names; dev, validation, valid and val are the same.
        cache_dir: root of the cache; None: the user's.

    Raises:
        FileFormatError: nothing there, another format, no rows, or a row that does not parse.
        MissingColumnError: no text or label column, or a row without it.
        EmptyTextError: a row without text.
        UnknownLabelError: a row whose label is missing or not in `labels`.
    """
    if on_bad_row not in ("stop", "skip"):
        raise UnknownChoiceError("--on-bad-row", on_bad_row, ("stop", "skip"))
    columns = columns or Columns()
    name, parts = open_source(source, split=split, cache_dir=cache_dir)
    if not need_label:
        labels = None
    elif labels is None:
        labels = _declared_labels(parts, columns)
    with scratch_folder(cache_root("rows", cache_dir)) as scratch:
        with (
            _Rejects(scratch / "rejected.jsonl", stop=on_bad_row == "stop") as rejects,
            _RowWriter(scratch / _ROWS_FILE, labels) as writer,
        ):
            num_read = _read_all(name, parts, columns, need_label, writer, rejects)
        rejects.publish(num_read, rejected_path, cache_dir)
        if writer.num_rows == 0:
            raise FileFormatError(rejects.summary or "has no rows", path=name)
        fingerprint, labels = writer.finish()
        folder = scratch.parent / fingerprint
        publish_folder(scratch, folder, {"num_rows": writer.num_rows})
    rows = Rows(
        dataset=datasets.Dataset.from_file(str(folder / _ROWS_FILE)),
        labels=labels,
        fingerprint=fingerprint,
        source=name,
        num_rejected=rejects.count,
        _parts=tuple(parts),
    )
    if max_rows is not None and max_rows < len(rows):
        kept = np.random.default_rng(seed).permutation(len(rows))[:max_rows]
        rows = rows.select(np.sort(kept))
    return rows


def _declared_labels(parts: Sequence[Part], columns: Columns) -> LabelSet | None:
    """Return the label list that the first part's format itself declares (ClassLabel)."""
    first = parts[0]
    if not first.class_names or first.columns is None:
        return None
    label = resolve_columns(first.columns, columns, path=first.name).label
    names = first.class_names.get(label or "")
    return LabelSet(tuple(names)) if names else None


def _read_all(
    name: str,
    parts: Sequence[Part],
    columns: Columns,
    need_label: bool,
    writer: _RowWriter,
    rejects: _Rejects,
) -> int:
    """Read every part into `writer`; return the number of rows read, bad ones counted."""
    checker = _RowChecker(columns, need_label)
    number = 0
    with Progress(f"read {Path(name).name}", unit="rows") as bar:
        for part in parts:
            checker.start(part)
            for line, value in part.read(checker.wanted):
                try:
                    if isinstance(value, BadLine):
                        raise FileFormatError(value.reason, path=part.name, line=line)
                    text, text_b, label = checker.check(value, line)
                    writer.add(number, text, text_b, label, part.name, line)
                except DataError as error:
                    rejects.add(error, part.name, line, value)
                number += 1
                if number % _WRITE_ROWS == 0:
                    bar.advance(_WRITE_ROWS)
        bar.advance(number % _WRITE_ROWS)
    return number


class _RowChecker:
    """Takes text, second text and label name out of a record, or raises what is wrong with it."""

    def __init__(self, columns: Columns, need_label: bool) -> None:
        self._given = columns
        self._need_label = need_label
        self._pairs: bool | None = None

    def start(self, part: Part) -> None:
        """Begin with a new file; its columns are found anew."""
        self._part = part
        self._known: dict[tuple[str, ...], Columns] = {}
        self.wanted: list[str] = []
        if part.columns is not None:
            found = self._resolve(tuple(part.columns), None)
            self.wanted = [c for c in (found.text, found.text_b, found.label) if c is not None]
            self._known[tuple(self.wanted)] = found

    def _resolve(self, keys: tuple[str, ...], line: int | None) -> Columns:
        return resolve_columns(
            keys, self._given, need_label=self._need_label, path=self._part.name, line=line
        )

    def check(self, value: dict[str, Any], line: int) -> tuple[str, str | None, str | None]:
        keys = tuple(value)
        found = self._known.get(keys)
        if found is None:
            found = self._known[keys] = self._resolve(keys, line)
        assert found.text is not None
        pair = found.text_b is not None
        if self._pairs is not pair:
            self._check_pairs(pair, line)
        return (
            self._text(value[found.text], found.text, line),
            None if found.text_b is None else self._text(value[found.text_b], found.text_b, line),
            None if found.label is None else self._label(value[found.label], found.label, line),
        )

    def _check_pairs(self, pair: bool, line: int) -> None:
        if self._pairs is None:
            self._pairs = pair
            return
        raise MissingColumnError(
            "has a second text, the rows before have none" if pair else "has no second text",
            path=self._part.name,
            line=line,
            hint="give every row a second text, or none",
        )

    def _text(self, value: object, column: str, line: int) -> str:
        if isinstance(value, str):
            if value and not value.isspace():
                if not value.isascii() and not _is_unicode(value):
                    raise FileFormatError(
                        f"{column} is not valid UTF-8", path=self._part.name, line=line
                    )
                return value
        elif value is not None:
            raise FileFormatError(
                f"{column} is not text but {type(value).__name__}", path=self._part.name, line=line
            )
        raise EmptyTextError(
            f"{column} is empty",
            path=self._part.name,
            line=line,
            hint="fill it in, or leave such rows out with --on-bad-row skip",
        )

    def _label(self, value: object, column: str, line: int) -> str:
        names = self._part.class_names.get(column)
        try:
            if names is not None and isinstance(value, int):
                name = names[value] if value >= 0 else None
            else:
                name = label_name(value)
        except (TypeError, IndexError) as error:
            raise UnknownLabelError(str(error), path=self._part.name, line=line) from None
        if name is None:
            raise UnknownLabelError("has no label", path=self._part.name, line=line)
        if not name.isascii() and not _is_unicode(name):
            raise FileFormatError(f"{column} is not valid UTF-8", path=self._part.name, line=line)
        return name


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class _RowWriter:
    """Writes rows to an Arrow file in batches.

    Without a label list, labels get ids in the order of their first row while writing, and
    `finish` renumbers them in the order of the sorted list.
    """

    def __init__(self, path: Path, labels: LabelSet | None) -> None:
        self.num_rows = 0
        self._path = path
        self._labels = labels
        self._seen = {name: index for index, name in enumerate(labels or ())}
        self._digest = hashlib.blake2b(f"rows{_FORMAT_VERSION}".encode(), digest_size=16)
        self._batch: list[tuple[int, str, str | None, str | None]] = []
        self._file: pa.ipc.RecordBatchStreamWriter | None = None

    def __enter__(self) -> _RowWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._flush()
        if self._file is not None:
            self._file.close()

    def add(
        self, row: int, text: str, text_b: str | None, label: str | None, path: str, line: int
    ) -> None:
        """Take one row.

        Raises:
            UnknownLabelError: the label is not in the list.
        """
        if label is not None and self._labels is not None and label not in self._labels:
            self._labels.id_of(label, path=path, line=line)
        self._batch.append((row, text, text_b, label))
        self.num_rows += 1
        if len(self._batch) == _WRITE_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._batch:
            return
        rows, texts, texts_b, labels = zip(*self._batch, strict=True)
        self._batch.clear()
        self._digest.update(json.dumps([rows, texts, texts_b, labels]).encode())
        arrays: dict[str, pa.Array] = {"row": pa.array(rows, pa.int64()), "text": pa.array(texts)}
        if texts_b[0] is not None:
            arrays["text_b"] = pa.array(texts_b)
        if labels[0] is not None:
            ids = [self._seen.setdefault(label, len(self._seen)) for label in labels]
            arrays["label"] = pa.array(ids, pa.int64())
        batch = pa.RecordBatch.from_pydict(arrays)
        if self._file is None:
            self._file = pa.ipc.new_stream(str(self._path), batch.schema)
        self._file.write_batch(batch)

    def finish(self) -> tuple[str, LabelSet | None]:
        """Give the labels their final ids; return the content's fingerprint and the labels."""
        labels = self._labels or (LabelSet.from_values(self._seen) if self._seen else None)
        if labels is not None:
            self._digest.update(json.dumps(labels.to_json()).encode())
            final = pa.array([labels.id_of(name) for name in self._seen], pa.int64())
            if final.to_pylist() != list(range(len(final))):
                _renumber_labels(self._path, final)
        return self._digest.hexdigest(), labels


def _renumber_labels(path: Path, final: pa.Array) -> None:
    renumbered = path.with_suffix(".new")
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        column = reader.schema.get_field_index("label")
        with pa.ipc.new_stream(str(renumbered), reader.schema) as writer:
            for batch in reader:
                ids = final.take(batch.column(column))
                writer.write_batch(batch.set_column(column, reader.schema.field(column), ids))
    renumbered.replace(path)


class _Rejects:
    """Counts rejected rows, shows the first five and writes them all; or stops at the first."""

    def __init__(self, path: Path, *, stop: bool) -> None:
        self.count = 0
        self.first: DataError | None = None
        self._path = path
        self._stop = stop
        self._file: Any = None

    def __enter__(self) -> _Rejects:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, error: DataError, path: str, line: int, value: dict[str, Any] | BadLine) -> None:
        """Take one bad row.

        Raises:
            DataError: `error` itself, when told to stop.
        """
        if self._stop:
            raise error
        self.count += 1
        self.first = self.first or error
        if self.count <= _SHOWN_REJECTS:
            console.print(f"rejected {error.message}", markup=False, soft_wrap=True)
        if self._file is None:
            self._file = self._path.open("w", encoding="utf-8")
        row = value.raw if isinstance(value, BadLine) else value
        reason = error.message.removeprefix(f"{path}:{line}: ")
        record = {"path": path, "line": line, "reason": reason, "row": row}
        self._file.write(json.dumps(record, default=str) + "\n")

    @property
    def summary(self) -> str:
        """What to say when nothing was left; empty without rejected rows."""
        return f"none of the {self.count:,} rows can be used; {self.first}" if self.count else ""

    def publish(
        self, num_read: int, target: str | Path | None, cache_dir: str | Path | None
    ) -> None:
        """Move the rejected rows, if there are any, to `target` or into the cache; say where."""
        if not self.count:
            return
        if target is None:
            digest = hashlib.blake2b(self._path.read_bytes(), digest_size=8).hexdigest()
            target = cache_root("rejected", cache_dir) / f"{digest}.jsonl"
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        with reporting_full_disk(Path(target)), scratch_folder(Path(target).parent) as scratch:
            shutil.copyfile(self._path, scratch / "rejected.jsonl")
            (scratch / "rejected.jsonl").replace(target)
        self._path.unlink()
        console.print(
            f"rejected {self.count:,} of {num_read:,} rows, written to {target}",
            markup=False,
            soft_wrap=True,
        )


def open_source(
    source: Source, *, split: str = "train", cache_dir: str | Path | None = None
) -> tuple[str, list[Part]]:
    """Return the name of a source and its files or tables.

    Raises:
        FileFormatError: nothing is there, or nothing of a known format.
    """
    if isinstance(source, datasets.DatasetDict):
        return "datasets.DatasetDict", [_split_part(source, split, "datasets.DatasetDict")]
    if isinstance(source, datasets.Dataset):
        return "datasets.Dataset", [table_part(source, "datasets.Dataset")]
    if not isinstance(source, str | Path):
        return "rows", [list_part(source, "rows")]
    name = str(source)
    if name == "builtin" or name.startswith("builtin:"):
        wanted = name.partition(":")[2] or "train"
        if wanted not in CORPUS_SPLITS:
            raise UnknownChoiceError("split of the built-in corpus", wanted, CORPUS_SPLITS)
        return name, [file_part(builtin_corpus(cache_dir)[wanted])]
    path = Path(name).expanduser()
    if path.is_dir():
        return name, _folder_parts(path, split)
    if path.exists():
        return name, [file_part(path)]
    if glob.has_magic(name):
        return name, _glob_parts(path)
    if _HUB_NAME.fullmatch(name) and not path.name.lower().endswith(tuple(SUFFIXES)):
        return name, [_hub_part(name, split)]
    guess = closest_match(path.name, [p.name for p in path.parent.glob("*")])
    raise FileFormatError(
        "no such file or folder",
        path=name,
        hint=f"did you mean {path.parent / guess}?" if guess else "correct the path",
    )


def _glob_parts(pattern: Path) -> list[Part]:
    paths = sorted(p for p in map(Path, glob.glob(str(pattern), recursive=True)) if p.is_file())
    if not paths:
        raise FileFormatError("no file matches", path=pattern, hint="quote the pattern; check it")
    return [file_part(path) for path in paths]


def _folder_parts(path: Path, split: str) -> list[Part]:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        try:
            saved = datasets.load_from_disk(str(path))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise FileFormatError(f"the saved dataset is damaged: {error}", path=path) from None
        if isinstance(saved, datasets.DatasetDict):
            return [_split_part(saved, split, str(path))]
        return [table_part(saved, str(path))]
    files = sorted(p for p in path.iterdir() if p.name.lower().endswith(tuple(SUFFIXES)))
    if not files:
        raise FileFormatError(
            "the folder holds no data file", path=path, hint=f"one of {', '.join(SUFFIXES)}"
        )
    by_split: dict[int, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_group(file.name.split(".")[0].split("-")[0]), []).append(file)
    named = {group for group in by_split if group >= 0}
    if not named:
        return [file_part(file) for file in files]
    chosen = by_split.get(_split_group(split), [])
    if not chosen:
        raise FileFormatError(
            f"the folder holds no {split} file, but {', '.join(file.name for file in files)}",
            path=path,
            hint="name the file itself",
        )
    return [file_part(file) for file in chosen]


def _split_group(name: str) -> int:
    """Return which of train, dev, test a split name means; -1 for none of them."""
    low = name.lower()
    return next((i for i, names in enumerate(_SPLIT_NAMES) if low in names), -1)


def _split_part(found: datasets.DatasetDict, split: str, name: str) -> Part:
    group = _split_group(split)
    for key, dataset in found.items():
        if key == split or (group >= 0 and _split_group(str(key)) == group):
            return table_part(dataset, f"{name}[{key}]")
    raise FileFormatError(f"has no split {split!r}, but {', '.join(map(str, found))}", path=name)


def _hub_part(name: str, split: str) -> Part:
    repository, _, configuration = name.partition(":")
    try:
        found = datasets.load_dataset(repository, configuration or None)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise FileFormatError(
            f"no such file or folder, and as a Hub dataset it cannot be loaded: {reason[0]}",
            path=name,
            hint="check the spelling; without a network give a file or `builtin`",
        ) from error
    assert isinstance(found, datasets.DatasetDict)
    return _split_part(found, split, name)
