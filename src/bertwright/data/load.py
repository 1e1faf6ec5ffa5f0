"""From a source to `Rows`: found columns, checked values, an Arrow file.

Rows are read one at a time and written to a memory-mapped file, so that memory does not grow with
the data. Rows that cannot be used stop the run, or are counted, shown and set aside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np

from bertwright.data.cache import cache_root, publish_folder, scratch_folder
from bertwright.data.labels import LabelSet
from bertwright.data.records import BadLine, Part
from bertwright.data.rejects import Rejects
from bertwright.data.row_writer import WRITE_ROWS, RowWriter
from bertwright.data.rows import Rows
from bertwright.data.schema import RowSchema, classes, resolve_columns
from bertwright.data.sources import Source, open_source
from bertwright.data.sts_tables import Unscored
from bertwright.errors import (
    DataError,
    FileFormatError,
    MissingColumnError,
    UnknownChoiceError,
    UnknownLabelError,
)
from bertwright.progress import Progress, console

__all__ = ["load_rows"]

_ROWS_FILE = "rows.arrow"
_BAD_LINE_HINT = "mend it, or leave such rows out with --on-bad-row skip"


def load_rows(
    source: Source,
    *,
    schema: RowSchema | None = None,
    columns: Mapping[str, str] | None = None,
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
        source: a csv, tsv or jsonl file (also .gz), a parquet file, an STS table
            (`data/sts_tables.py`; pairs for which it has no score are left out where scores are
            read), a folder (a saved Arrow dataset, or such files), a glob, a Hub dataset name
            (`owner/name`, with a configuration `owner/name:config`), `builtin:train|dev|test`, a
            list of dicts, or a `datasets.Dataset`.
        schema: what a row holds; None: a text or a pair of texts, and a label.
        columns: names of columns to read, by role; the others are found by name.
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
        MissingColumnError: a column that the schema needs is missing, or a row without it.
        EmptyTextError: a row without text.
        UnknownLabelError: a row whose label is missing, or not in `labels` where the schema's rows
            have to have one of them.
        DataError: a row's values are not what the schema asks for.
    """
    if on_bad_row not in ("stop", "skip"):
        raise UnknownChoiceError("--on-bad-row", on_bad_row, ("stop", "skip"))
    schema = schema or classes()
    name, parts = open_source(source, split=split, cache_dir=cache_dir)
    if not need_label:
        labels = None
    elif labels is None:
        labels = _declared_labels(parts, schema, columns)
    with scratch_folder(cache_root("rows", cache_dir)) as scratch:
        with (
            Rejects(scratch / "rejected.jsonl", stop=on_bad_row == "stop") as rejects,
            RowWriter(scratch / _ROWS_FILE, schema, labels) as writer,
        ):
            checker = _RowChecker(schema, columns, need_label)
            num_read, num_unscored = _read_all(name, parts, checker, writer, rejects)
        rejects.publish(num_read, rejected_path, cache_dir)
        if num_unscored:
            console.print(f"left out {num_unscored:,} of {num_read:,} pairs: they have no score")
        if writer.num_unknown:
            console.print(
                f"{writer.num_unknown:,} of {num_read:,} rows have a label that was not trained "
                "on: they count as wrong"
            )
        if writer.num_rows == 0:
            none = f"none of its {num_unscored:,} pairs has a score" if num_unscored else ""
            raise FileFormatError(rejects.summary or none or "has no rows", path=name)
        fingerprint, labels = writer.finish()
        folder = scratch.parent / fingerprint
        publish_folder(scratch, folder, {"num_rows": writer.num_rows})
    dataset = datasets.Dataset.from_file(str(folder / _ROWS_FILE))
    rows = Rows(
        dataset=dataset,
        labels=labels,
        fingerprint=fingerprint,
        source=name,
        num_rejected=rejects.count,
        label_fields=schema.label_fields,
        open_labels=schema.open_labels(tuple(dataset.column_names)),
        _parts=tuple(parts),
    )
    if max_rows is not None and max_rows < len(rows):
        kept = np.random.default_rng(seed).permutation(len(rows))[:max_rows]
        rows = rows.select(np.sort(kept))
    return rows


def _declared_labels(
    parts: Sequence[Part], schema: RowSchema, columns: Mapping[str, str] | None
) -> LabelSet | None:
    """Return the label list that the first part's format itself declares (ClassLabel)."""
    first = parts[0]
    if not first.class_names or first.columns is None:
        return None
    found = resolve_columns(first.columns, schema, columns, path=first.name)
    declared = [
        first.class_names[found[column.role]]
        for column in schema.columns
        if column.target and found.get(column.role) in first.class_names
    ]
    return LabelSet(tuple(declared[0])) if declared and declared[0] else None


def _read_all(
    name: str, parts: Sequence[Part], checker: _RowChecker, writer: RowWriter, rejects: Rejects
) -> tuple[int, int]:
    """Read every part into `writer`; return how many rows were read, and were without a score.

    Bad rows, and those without a score, are counted among those read.
    """
    number = num_unscored = 0
    with Progress(f"read {Path(name).name}", unit="rows") as bar:
        for part in parts:
            checker.start(part)
            for line, value in part.read(checker.wanted):
                try:
                    if isinstance(value, Unscored):
                        num_unscored += 1
                    elif isinstance(value, BadLine):
                        raise FileFormatError(value.reason, hint=_BAD_LINE_HINT)
                    else:
                        writer.add(number, checker.check(value))
                except DataError as error:
                    placed = error if error.path is not None else error.at(part.name, line)
                    rejects.add(placed, part.name, line, value)
                number += 1
                if number % WRITE_ROWS == 0:
                    bar.advance(WRITE_ROWS)
        bar.advance(number % WRITE_ROWS)
    return number, num_unscored


class _RowChecker:
    """Takes what the schema wants out of a record, or raises what is wrong with it."""

    def __init__(
        self, schema: RowSchema, columns: Mapping[str, str] | None, need_label: bool
    ) -> None:
        self._schema = schema
        self._given = columns
        self._need_label = need_label
        self._roles: frozenset[str] | None = None

    def start(self, part: Part) -> None:
        """Begin with a new file; its columns are found anew."""
        self._part = part
        self._known: dict[tuple[str, ...], dict[str, str]] = {}
        self.wanted: list[str] = []
        if part.columns is not None:
            found = self._resolve(tuple(part.columns), part.name)
            self.wanted = list(dict.fromkeys(found.values()))
            self._known[tuple(self.wanted)] = found

    def _resolve(self, keys: tuple[str, ...], path: str | None = None) -> dict[str, str]:
        return resolve_columns(
            keys, self._schema, self._given, need_label=self._need_label, path=path
        )

    def check(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the stored fields of a record."""
        keys = tuple(record)
        found = self._known.get(keys)
        if found is None:
            found = self._known[keys] = self._resolve(keys)
        if self._roles != found.keys():
            self._check_roles(found)
        values = {}
        for column in self._schema.columns:
            name = found.get(column.role)
            if name is not None:
                value = self._named(record[name], name)
                values[column.role] = column.read(value, name)
        return self._schema.build(values)

    def _check_roles(self, found: Mapping[str, str]) -> None:
        """Raise unless this row has the same columns as the rows before."""
        roles = frozenset(found)
        if self._roles is None:
            self._check_targets(found)
            self._roles = roles
            return
        for column in self._schema.columns:
            if (column.role in roles) != (column.role in self._roles):
                has = column.role in roles
                raise MissingColumnError(
                    f"has a {column.noun}, the rows before have none"
                    if has
                    else f"has no {column.noun}",
                    hint=f"give every row a {column.noun}, or none",
                )

    def _check_targets(self, found: Mapping[str, str]) -> None:
        """Raise where labels are needed and there is no column with any."""
        targets = [column.role for column in self._schema.columns if column.target]
        wanted = self._need_label and self._schema.needs_target
        if wanted and targets and not any(role in found for role in targets):
            raise MissingColumnError(
                f"has no {' or '.join(targets)}", hint="rows to learn from or to score need one"
            )

    def _named(self, value: Any, column: str) -> Any:
        """Return the names of class ids, where the source declares them; -1 is none."""
        names = self._part.class_names.get(column)
        if names is None:
            return value
        if isinstance(value, list):
            return [self._named(item, column) for item in value]
        if not isinstance(value, int):
            return value
        if value >= len(names):
            raise UnknownLabelError(f"{value} is no class id: there are {len(names)} classes")
        return names[value] if value >= 0 else None
