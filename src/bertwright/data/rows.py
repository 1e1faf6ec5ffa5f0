"""Labelled rows, memory-mapped, and how they are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from bertwright.data.labels import LabelSet
from bertwright.data.records import Part
from bertwright.errors import DataError

__all__ = ["Rows", "split_rows"]


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
        label_fields: columns of the dataset that hold label ids, or lists of them.
        open_labels: whether labels may be others than those of the list the rows are given; they
            come after it.
    """

    dataset: datasets.Dataset
    labels: LabelSet | None
    fingerprint: str
    source: str
    num_rejected: int = 0
    label_fields: tuple[str, ...] = ("label",)
    open_labels: bool = False
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

    def columns(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """Return those of these columns that the rows have (all in memory)."""
        return {n: self.dataset[n][:] for n in names if n in self.dataset.column_names}

    def label_ids(self) -> np.ndarray | None:
        """Return the label ids, int64 [N]; None where rows do not have one label each."""
        column = self.dataset.features.get("label")
        one = isinstance(column, datasets.Value) and column.dtype == "int64"
        return self._integers("label") if one and self.labels is not None else None

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
            label_fields=self.label_fields,
            open_labels=self.open_labels,
            _parts=self._parts,
        )

    def with_labels(self, labels: LabelSet) -> Rows:
        """Return the same rows with the ids of another label list, matched by name.

        Raises:
            DataError: the rows have no labels.
            UnknownLabelError: a label in use is not in the list, and the labels are not open.
        """
        if self.labels is None:
            raise DataError(
                "the rows have no labels", path=self.source, hint="give a file with labels"
            )
        if self.open_labels:
            labels = labels.with_others(self.labels.names)
        if self.labels == labels:
            return self
        dataset = self.dataset
        for name in self.label_fields:
            column = dataset.with_format("arrow")[:][name].combine_chunks()
            nested = pa.types.is_list(column.type)
            ids = _renamed(column.values if nested else column, self.labels, labels, self.source)
            new = pa.ListArray.from_arrays(column.offsets, ids) if nested else ids
            features = dataset.features
            dataset = dataset.remove_columns(name).add_column(
                name, new.to_pylist(), feature=features[name]
            )
        digest = hashlib.blake2b(self.fingerprint.encode(), digest_size=16)
        digest.update("\n".join(labels.names).encode())
        return replace(self, dataset=dataset, labels=labels, fingerprint=digest.hexdigest())

    def locate(self, row: int) -> tuple[str, int]:
        """Return (file, 1-based line) of a source row number, by reading the source again."""
        number = -1
        for part in self._parts:
            for line, _ in part.read(part.columns or ()):
                number += 1
                if number == row:
                    return part.name, line
        raise IndexError(f"{self.source} has no row {row}")


def _renamed(ids: pa.Array, own: LabelSet, other: LabelSet, source: str) -> pa.Array:
    """Return the ids in `other` of the names that `ids` have in `own`."""
    table = np.full(len(own), -1, dtype=np.int64)
    for index in np.unique(ids.to_numpy()):
        table[index] = other.id_of(own.name_of(int(index)), path=source)
    return pa.array(table[ids.to_numpy()])


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
