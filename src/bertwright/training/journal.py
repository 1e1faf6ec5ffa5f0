"""`metrics.jsonl`: what happened in a run, one object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bertwright.files import reporting_full_disk

__all__ = ["Journal", "Meter"]


class Journal:
    """Appends to a jsonl file, and can go back to an earlier size of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line."""
        line = json.dumps(record, allow_nan=False) + "\n"
        with reporting_full_disk(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def size(self) -> int:
        """Return the bytes written so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Forget what was written after the first `size` bytes."""
        self.path.touch()
        if self.size() > size:
            os.truncate(self.path, size)


class Meter:
    """Means over the batches since the last record, and the tokens and seconds of all of them."""

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self._recent: dict[str, Any] = self._empty()

    @staticmethod
    def _empty() -> dict[str, Any]:
        return {"rows": 0, "loss": 0.0, "tokens": 0, "seconds": 0.0, "parts": {}}

    def add_batch(
        self, *, rows: int, tokens: int, loss_sum: float, parts: Mapping[str, Tensor | float]
    ) -> None:
        """Count a batch: its rows and tokens, its summed loss, the named means of its losses."""
        recent = self._recent
        recent["rows"] += rows
        recent["tokens"] += tokens
        recent["loss"] += loss_sum
        self.tokens += tokens
        for name, mean in parts.items():
            recent["parts"][name] = recent["parts"].get(name, 0.0) + rows * (
                mean.detach() if isinstance(mean, Tensor) else mean
            )

    def add_seconds(self, seconds: float) -> None:
        """Count the time of a step."""
        self._recent["seconds"] += seconds
        self.seconds += seconds

    def take(self) -> dict[str, float]:
        """Return the means since the last call: loss, tokens_per_s and the named losses."""
        recent, self._recent = self._recent, self._empty()
        rows = max(1, recent["rows"])
        return {
            "loss": recent["loss"] / rows,
            "tokens_per_s": recent["tokens"] / max(recent["seconds"], 1e-9),
            **{name: float(total) / rows for name, total in recent["parts"].items()},
        }

    def tokens_per_s(self) -> float:
        """Return tokens a second of training, without evaluations and saving."""
        return self.tokens / max(self.seconds, 1e-9)

    def state_dict(self) -> dict[str, Any]:
        """Return everything, for a checkpoint."""
        return {"tokens": self.tokens, "seconds": self.seconds, "recent": self._recent}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.tokens, self.seconds = values["tokens"], values["seconds"]
        self._recent = values["recent"]
