"""Checkpoints on disk: whole or absent, checked when read, the previous one kept in reserve.

A folder holds `step-00000120/` (all that a run needs to go on) and `best-00000100/` (the weights
of the best evaluation), each with `state.pt` and `checkpoint.json` (format version, checksum).
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bertwright.errors import CheckpointError, FileFormatError
from bertwright.files import atomic_dir, read_json, reporting_full_disk, write_json
from bertwright.progress import console

__all__ = ["FORMAT_VERSION", "Checkpoint", "CheckpointStore"]

FORMAT_VERSION = 1
KEPT = 2
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after `step` steps; `best` are the weights of `best_step`, if it had any."""

    step: int
    state: dict[str, Any]
    best: dict[str, Any] | None
    best_step: int | None


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return value


def _save_folder(folder: Path, state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write one checkpoint folder, whole or not at all."""
    with atomic_dir(folder) as temporary:
        path = temporary / "state.pt"
        with reporting_full_disk(folder):
            try:
                with path.open("wb") as file:
                    torch.save(dict(state), file)
            except RuntimeError as error:  # torch hides the file's own error behind this
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
        facts = {"format_version": FORMAT_VERSION, "crc32": _checksum(path), **facts}
        write_json(temporary / "checkpoint.json", facts)


def _load_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (state, facts) of one checkpoint folder.

    Raises:
        CheckpointError: it is incomplete, damaged, or of a newer format.
    """
    path = folder / "state.pt"
    try:
        facts = read_json(folder / "checkpoint.json")
        version, checksum = facts["format_version"], facts["crc32"]
    except (FileFormatError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {folder}: incomplete or damaged: {error}") from None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {folder}: format {version}, this program reads {FORMAT_VERSION}",
            hint="resume with the bertwright that wrote it",
        )
    try:
        if _checksum(path) != checksum:
            raise CheckpointError(f"checkpoint {folder}: damaged: wrong checksum of state.pt")
        return torch.load(path, map_location="cpu", weights_only=True), facts
    except OSError as error:
        raise CheckpointError(f"checkpoint {folder}: incomplete or damaged: {error}") from None


class CheckpointStore:
    """The checkpoints of one run: the last two, and the best weights they refer to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def saved(self) -> list[Path]:
        """Return the folders to resume from, oldest first."""
        return sorted(self.folder.glob("step-*"))

    def clear(self) -> None:
        """Remove everything, and what a killed run left half-written."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        *,
        best: Mapping[str, Any] | None = None,
        best_step: int | None = None,
        last: bool = False,
    ) -> Path:
        """Save a checkpoint, then remove those that nothing refers to any more.

        Args:
            step: optimizer steps done.
            state: plain values and tensors.
            best: weights of the best evaluation; written once for each `best_step`.
            best_step: the step of that evaluation.
            last: the run is over; earlier checkpoints are removed.

        Raises:
            DiskFullError: no room; the earlier checkpoints are untouched.
        """
        if best is not None and best_step is not None:
            best_folder = self._best_folder(best_step)
            if not best_folder.exists():
                _save_folder(best_folder, best, {"step": best_step})
        else:
            best_step = None
        folder = self.folder / f"step-{step:08}"
        _save_folder(folder, state, {"step": step, "best_step": best_step})
        self._remove_old(1 if last else KEPT)
        return folder

    def load(self) -> Checkpoint | None:
        """Return the newest usable checkpoint, or None when there is none at all.

        A damaged one is reported on stderr and removed, and the one before it taken.

        Raises:
            CheckpointError: there are some, but none is usable.
        """
        folders = self.saved()
        failure: CheckpointError | None = None
        for i, folder in reversed(list(enumerate(folders))):
            try:
                checkpoint = self._load(folder)
            except CheckpointError as error:
                if error.hint:
                    raise
                failure = error
                console.print(f"warning: {error}", style="yellow", markup=False, soft_wrap=True)
                continue
            for damaged in folders[i + 1 :]:
                shutil.rmtree(damaged)
            self._remove_old(KEPT)
            return checkpoint
        if failure is not None:
            raise CheckpointError(
                f"no usable checkpoint in {self.folder}; the oldest: {failure.message}",
                hint="start the run again without --resume",
            )
        return None

    def _load(self, folder: Path) -> Checkpoint:
        state, facts = _load_folder(folder)
        best_step = facts.get("best_step")
        best = None if best_step is None else _load_folder(self._best_folder(best_step))[0]
        return Checkpoint(step=facts["step"], state=state, best=best, best_step=best_step)

    def _best_folder(self, step: int) -> Path:
        return self.folder / f"best-{step:08}"

    def _best_of(self, folder: Path) -> Path | None:
        """Return the folder of best weights that a checkpoint refers to."""
        try:
            step = read_json(folder / "checkpoint.json").get("best_step")
        except (FileFormatError, AttributeError):  # damaged: it will not be resumed from
            return None
        return None if step is None else self._best_folder(step)

    def _remove_old(self, keep: int) -> None:
        kept = self.saved()[-keep:]
        keepers = {*kept, *filter(None, map(self._best_of, kept))}
        for folder in self.folder.iterdir():
            if folder not in keepers:
                shutil.rmtree(folder)
