"""Rows of several tasks as one: how many of each an epoch has, and batches of one task each.

Shapes: F features in all, T tasks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from bertwright.config import require
from bertwright.data.batching import plan_batches
from bertwright.data.gather import Gathered, RowOutputs
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import DataError, UnknownChoiceError

__all__ = ["HEAD", "SAMPLINGS", "MixedRows", "Sampling", "rows_of_epoch"]

Sampling = Literal["proportional", "sqrt", "temperature", "annealed"]
SAMPLINGS: tuple[Sampling, ...] = ("proportional", "sqrt", "temperature", "annealed")
HEAD = "head"
"""Key of a batch that names the task it is of; the argument of the same name of the model."""
_ANNEALING = 0.8
_DRAWING = 1
"""Ends the seeds of the orders in which rows are drawn, so that no other order has these seeds."""


def rows_of_epoch(
    counts: Sequence[int],
    sampling: Sampling,
    *,
    epoch: int,
    num_epochs: float,
    temperature: float = 2.0,
) -> list[int]:
    """Return how many rows an epoch takes of each task: as many in all as there are, n^a shared.

    The exponent a is 1 for proportional, 1/2 for sqrt and 1/temperature for temperature. Annealed
    begins proportional and ends near equal shares: a = 1 - 0.8 epoch / (epochs - 1), epochs whole.

    Args:
        counts: rows of each task [T], at least 1.
        sampling: the rule.
        epoch: from 0.
        num_epochs: of the whole run.
        temperature: 1 or more; only asked by temperature.

    Returns:
        [T], each at least 1.

    Source: Stickland and Murray 2019, arXiv:1902.02671 (square root, annealed); Arivazhagan et al.
    2019, arXiv:1907.05019 (temperature).
    """
    if sampling not in SAMPLINGS:
        raise UnknownChoiceError("--sampling", sampling, SAMPLINGS)
    exponent = {"proportional": 1.0, "sqrt": 0.5, "temperature": 1 / temperature}.get(sampling)
    if exponent is None:
        last = max(math.ceil(num_epochs) - 1, 1)
        exponent = 1 - _ANNEALING * min(epoch, last) / last
    weights = np.asarray(counts, dtype=np.float64) ** exponent
    shares = weights / weights.sum() * sum(counts)
    return [max(1, round(share)) for share in shares.tolist()]


class MixedRows:
    """The rows of several tasks, one task's after the other's.

    A batch holds rows of one task, each once, and names the task in `HEAD`. The rows that an epoch
    takes of a task go on where the epoch before stopped, in orders drawn from the seed: all rows of
    a task come equally often, give or take one.
    """

    def __init__(
        self,
        parts: Mapping[str, EncodedRows],
        *,
        sampling: Sampling = "proportional",
        num_epochs: float = 1,
        temperature: float = 2.0,
    ) -> None:
        """Put the rows together.

        Args:
            parts: the rows of each task, by the name of its head.
            sampling: how many rows of each an epoch takes; see `rows_of_epoch`.
            num_epochs: of the run.
            temperature: of that sampling.

        Raises:
            ConfigError: the temperature is below 1.
            UnknownChoiceError: there is no such sampling.
            DataError: a task has no rows.
        """
        require(temperature >= 1, "temperature", temperature, "at least 1")
        if sampling not in SAMPLINGS:
            raise UnknownChoiceError("--sampling", sampling, SAMPLINGS)
        self.parts = dict(parts)
        for name, part in self.parts.items():
            if len(part) == 0:
                raise DataError(f"{name} has no rows")
        self._options: dict[str, Any] = {
            "sampling": sampling,
            "num_epochs": num_epochs,
            "temperature": temperature,
        }
        self._ends = np.cumsum([len(part) for part in self.parts.values()])
        self._rows = [_RowPlaces(part.row_numbers) for part in self.parts.values()]
        self._taken = [np.zeros(len(self.parts), dtype=np.int64)]
        """How many rows of each task the epochs before an epoch take, [T] by epoch, as far as it is
        known."""
        self.lengths = np.concatenate([part.lengths for part in self.parts.values()])
        self.row_numbers = np.concatenate([part.row_numbers for part in self.parts.values()])
        self.targets = {
            f"{name}/{target}": how
            for name, part in self.parts.items()
            for target, how in part.targets.items()
        }
        digest = hashlib.blake2b(repr(self._options).encode(), digest_size=16)
        for name, part in self.parts.items():
            digest.update(f"{name} {part.fingerprint}".encode())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.lengths)

    def plan(
        self,
        *,
        batch_tokens: int,
        batch_size: int | None = None,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
    ) -> list[np.ndarray]:
        """Return the positions of the features of each batch of an epoch.

        Without `shuffle` every row comes once, one task after the other.
        """
        batches: list[np.ndarray] = []
        for index, (start, part) in enumerate(zip(self._starts, self.parts.values(), strict=True)):
            passes = self._drawn(index, seed, epoch) if shuffle else [np.arange(len(part))]
            for chosen in passes:
                planned = plan_batches(
                    part.lengths[chosen],
                    batch_tokens=batch_tokens,
                    batch_size=batch_size,
                    seed=seed,
                    epoch=epoch,
                    shuffle=shuffle,
                    groups=None if part.groups is None else part.groups[chosen],
                )
                batches += [start + chosen[batch] for batch in planned]
        if not shuffle:
            return batches
        order = np.random.default_rng([seed, epoch, len(self.parts)]).permutation(len(batches))
        return [batches[place] for place in order]

    @property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], self._ends[:-1]])

    def _drawn(self, index: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
        """Yield the positions of the features that an epoch takes of a task, a pass at a time.

        In a pass no row comes twice. So none does in a batch: a loss that compares rows, or the
        features of a row, would take a copy for another.
        """
        rows = self._rows[index]
        first, last = (int(self._taken_before(of)[index]) for of in (epoch, epoch + 1))
        for turn in range(first // len(rows), -(-last // len(rows))):
            order = np.random.default_rng([seed, index, turn, _DRAWING]).permutation(len(rows))
            begin = turn * len(rows)
            yield rows.features_of(order[max(first - begin, 0) : last - begin])

    def _taken_before(self, epoch: int) -> np.ndarray:
        """Return how many rows of each task the epochs before this one take, [T]."""
        counts = [len(rows) for rows in self._rows]
        while len(self._taken) <= epoch:
            taken = rows_of_epoch(counts, epoch=len(self._taken) - 1, **self._options)
            self._taken.append(self._taken[-1] + taken)
        return self._taken[epoch]

    def collate(self, positions: np.ndarray) -> dict[str, Any]:
        """Return the batch of the features at these positions, all of one task."""
        place = int(np.searchsorted(self._ends, positions[0], side="right"))
        name = list(self.parts)[place]
        batch = self.parts[name].collate(positions - self._starts[place])
        return {**batch, HEAD: name, "indices": positions}

    def row_names(self, positions: np.ndarray) -> list[str]:
        """Return what messages call the rows of the features at these positions: `12 of mrpc`."""
        names = list(self.parts)
        places = np.searchsorted(self._ends, positions, side="right").tolist()
        numbers = self.row_numbers[positions].tolist()
        return [f"{number} of {names[i]}" for i, number in zip(places, numbers, strict=True)]

    def gathered(self) -> MixedGathered:
        """Return what collects the outputs of batches, by head."""
        return MixedGathered(self.parts, self._starts)


class _RowPlaces:
    """Where the features of each row are; those of a row stand together."""

    def __init__(self, row_numbers: np.ndarray) -> None:
        self._begins = np.flatnonzero(np.diff(row_numbers, prepend=-1))
        self._counts = np.diff(self._begins, append=len(row_numbers))

    def __len__(self) -> int:
        return len(self._begins)

    def features_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the positions of the features of these rows, row by row."""
        begins, counts = self._begins[rows], self._counts[rows]
        before = np.cumsum(counts) - counts
        return np.repeat(begins - before, counts) + np.arange(counts.sum())


class MixedGathered:
    """Collects the outputs of the batches of several tasks."""

    def __init__(self, parts: Mapping[str, EncodedRows], starts: np.ndarray) -> None:
        self._found = {name: Gathered(len(part)) for name, part in parts.items()}
        self._starts = starts

    def add(self, positions: np.ndarray, outputs: np.ndarray, attention_mask: np.ndarray) -> None:
        """Take the outputs of a batch; see `Gathered.add`."""
        place = int(np.searchsorted(self._starts, positions[0], side="right")) - 1
        found = list(self._found.values())[place]
        found.add(positions - self._starts[place], outputs, attention_mask)

    def in_order(self) -> dict[str, RowOutputs]:
        """Return the outputs of the features of each task."""
        return {name: found.in_order() for name, found in self._found.items()}
