"""Rows of several tasks as one: how many of each an epoch has, and batches of one task each.

Shapes: F features in all, T tasks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from bertwright.config import require
from bertwright.data.gather import Gathered, RowOutputs
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import UnknownChoiceError

__all__ = ["HEAD", "SAMPLINGS", "MixedRows", "Sampling", "rows_of_epoch"]

Sampling = Literal["proportional", "sqrt", "temperature", "annealed"]
SAMPLINGS: tuple[Sampling, ...] = ("proportional", "sqrt", "temperature", "annealed")
HEAD = "head"
"""Key of a batch that names the task it is of; the argument of the same name of the model."""
_ANNEALING = 0.8


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
    begins proportional and ends near equal shares: a = 1 - 0.8 epoch / (epochs - 1).

    Args:
        counts: rows of each task [T], at least 1.
        sampling: the rule.
        epoch: from 0.
        num_epochs: of the whole run.
        temperature: 1 or more; only asked by temperature.

    Returns:
        [T], each at least 1.

    Source: Stickland and Murray 2019, arXiv:1902.02671 (square root, annealed).
    """
    if sampling not in SAMPLINGS:
        raise UnknownChoiceError("--sampling", sampling, SAMPLINGS)
    exponent = {"proportional": 1.0, "sqrt": 0.5, "temperature": 1 / temperature}.get(sampling)
    if exponent is None:
        exponent = 1 - _ANNEALING * epoch / max(math.ceil(num_epochs) - 1, 1)
    weights = np.asarray(counts, dtype=np.float64) ** exponent
    shares = weights / weights.sum() * sum(counts)
    return [max(1, round(share)) for share in shares.tolist()]


class MixedRows:
    """The rows of several tasks, one task's after the other's.

    A batch holds rows of one task and names it in `HEAD`. The rows that an epoch takes of a task go
    on where the epoch before stopped, in orders drawn from the seed: all rows of a task come
    equally often, give or take one.
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
        """
        require(temperature >= 1, "temperature", temperature, "at least 1")
        self.parts = dict(parts)
        self._options: dict[str, Any] = {
            "sampling": sampling,
            "num_epochs": num_epochs,
            "temperature": temperature,
        }
        self._ends = np.cumsum([len(part) for part in self.parts.values()])
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
            chosen = self._chosen(index, part, seed, epoch) if shuffle else np.arange(len(part))
            planned = part.select(chosen).plan(
                batch_tokens=batch_tokens,
                batch_size=batch_size,
                seed=seed,
                epoch=epoch,
                shuffle=shuffle,
            )
            batches += [start + chosen[batch] for batch in planned]
        if not shuffle:
            return batches
        order = np.random.default_rng([seed, epoch, len(self.parts)]).permutation(len(batches))
        return [batches[place] for place in order]

    @property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], self._ends[:-1]])

    def _chosen(self, index: int, part: EncodedRows, seed: int, epoch: int) -> np.ndarray:
        """Return the positions of the features that an epoch takes of a task."""
        numbers, starts = np.unique(part.row_numbers, return_index=True)
        stops = np.append(starts[1:], len(part))
        counts = [len(np.unique(other.row_numbers)) for other in self.parts.values()]
        wanted = [
            rows_of_epoch(counts, epoch=before, **self._options)[index]
            for before in range(epoch + 1)
        ]
        first, last = sum(wanted[:-1]), sum(wanted)
        drawn = [
            np.random.default_rng([seed, index, turn]).permutation(len(numbers))
            for turn in range(first // len(numbers), -(-last // len(numbers)))
        ]
        skipped = first // len(numbers) * len(numbers)
        rows = np.concatenate(drawn)[first - skipped : last - skipped]
        bounds = list(zip(starts.tolist(), stops.tolist(), strict=True))
        return np.concatenate([np.arange(*bounds[row]) for row in rows])

    def collate(self, positions: np.ndarray) -> dict[str, Any]:
        """Return the batch of the features at these positions, all of one task."""
        place = int(np.searchsorted(self._ends, positions[0], side="right"))
        name = list(self.parts)[place]
        batch = self.parts[name].collate(positions - self._starts[place])
        return {**batch, HEAD: name, "indices": positions}

    def gathered(self) -> MixedGathered:
        """Return what collects the outputs of batches, by head."""
        return MixedGathered(self.parts, self._starts)


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
