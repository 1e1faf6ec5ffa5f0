"""What a frozen model reads of each feature: computed once, memory-mapped after that.

Shapes: N features, B batch, L length, T tokens of all features.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bertwright.errors import FileFormatError
from bertwright.files import read_json, write_json

__all__ = ["ReadsWriter", "StoredReads"]

_FACTS = "reads.json"
_VALUES = "values.f32"
_SLOTS = "slots.npy"


class StoredReads:
    """The stored readings of N features: [...] each, or [..., L, D] with a state for each token."""

    def __init__(self, folder: str | Path) -> None:
        """Open what `ReadsWriter` wrote.

        Raises:
            FileFormatError: it is missing or damaged.
        """
        folder = Path(folder)
        try:
            facts = read_json(folder / _FACTS)
            self.shape: tuple[int, ...] = tuple(facts["shape"])
            self.by_token: bool = facts["by_token"]
            self._starts = np.load(folder / _SLOTS, allow_pickle=False)
            if self._starts.shape != (2, facts["count"]):
                raise ValueError(f"{_SLOTS} has the shape {self._starts.shape}")
            size = (int(facts["places"]), *self.shape)
            self._values = (
                np.memmap(folder / _VALUES, np.float32, mode="r", shape=size)
                if facts["places"]
                else np.zeros(size, np.float32)
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileFormatError(f"no usable readings: {error}", path=folder) from error

    def __len__(self) -> int:
        return self._starts.shape[1]

    def select(self, positions: np.ndarray) -> StoredReads:
        """Return the readings of the features at these positions, in this order."""
        chosen = copy.copy(self)
        chosen._starts = self._starts[:, positions]
        return chosen

    def batch(self, positions: np.ndarray, length: int) -> Tensor:
        """Return the readings of the features at these positions, fp32 [B, ...].

        Args:
            positions: [B].
            length: L, to which the readings of tokens are padded with zeros; not asked elsewhere.
        """
        begins, ends = self._starts[:, positions]
        if not self.by_token:
            return torch.from_numpy(self._values[begins])
        found = np.zeros((len(positions), length, *self.shape), np.float32)
        for row, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
            found[row, : end - begin] = self._values[begin:end]
        return torch.from_numpy(found).movedim(1, -2)

    def vectors(self, positions: np.ndarray) -> np.ndarray:
        """Return the readings of features without tokens as one vector each, fp32 [n, W]."""
        if self.by_token:
            raise ValueError("readings of tokens are no single vectors")
        return self._values[self._starts[0, positions]].reshape(len(positions), -1)


class ReadsWriter:
    """Writes the readings of N features into an empty folder, batch after batch."""

    def __init__(self, folder: Path, *, count: int, by_token: bool) -> None:
        """Open the file.

        Args:
            folder: is there.
            count: N.
            by_token: the readings have a state for each token, second to last.
        """
        self.folder = folder
        self.by_token = by_token
        self._starts = np.zeros((2, count), np.int64)
        self._shape: tuple[int, ...] = ()
        self._places = 0
        self._file = (folder / _VALUES).open("wb")

    def add(self, positions: np.ndarray, read: Tensor, mask: Tensor) -> None:
        """Write the readings of a batch; each feature comes once.

        Args:
            positions: [B].
            read: [B, ...] or [B, ..., L, D].
            mask: true for real tokens, [B, L].
        """
        lengths = np.ones(len(positions), np.int64)
        if self.by_token:
            real = mask.bool().cpu()
            lengths = real.sum(dim=1).numpy()
            read = read.cpu().movedim(-2, 1)[real]
        self._shape = tuple(read.shape[1:])
        ends = self._places + np.cumsum(lengths)
        self._starts[:, positions] = ends - lengths, ends
        self._places += int(lengths.sum())
        self._file.write(np.ascontiguousarray(read.cpu().numpy(), dtype=np.float32).data)

    def close(self, *, whole: bool = True) -> None:
        """Close the file, and say what is in it if it is whole."""
        self._file.close()
        if not whole:
            return
        np.save(self.folder / _SLOTS, self._starts)
        facts = {"shape": list(self._shape), "by_token": self.by_token}
        counts = {"count": self._starts.shape[1], "places": self._places}
        write_json(self.folder / _FACTS, facts | counts)
