"""Rows that cannot be used: the first stops the run, or they are counted, shown and set aside."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from bertwright.data.cache import cache_root, scratch_folder
from bertwright.data.records import BadLine
from bertwright.errors import DataError
from bertwright.files import reporting_full_disk
from bertwright.progress import console

__all__ = ["Rejects"]

_SHOWN_REJECTS = 5


class Rejects:
    """Counts rejected rows, shows the first five and writes them all; or stops at the first."""

    def __init__(self, path: Path, *, stop: bool) -> None:
        self.count = 0
        self.first: DataError | None = None
        self._path = path
        self._stop = stop
        self._file: Any = None

    def __enter__(self) -> Rejects:
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
