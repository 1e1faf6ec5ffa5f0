"""Folders of files that can be made again: published whole, checked before use."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bertwright.errors import FileFormatError
from bertwright.files import cache_dir, read_json, reporting_full_disk, write_json

__all__ = ["cache_root", "open_folder", "publish_folder", "scratch_folder"]

_META = "meta.json"
_CHUNK_BYTES = 1 << 20


def cache_root(kind: str, given: str | Path | None = None) -> Path:
    """Return (and make) the folder for one kind of cached thing, below `given` or the user's."""
    root = (cache_dir() if given is None else Path(given)) / kind
    root.mkdir(parents=True, exist_ok=True)
    return root


@contextlib.contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """Yield a new folder in `root` to build in; it is removed at the end unless published."""
    path = Path(tempfile.mkdtemp(dir=root, prefix=".building."))
    os.chmod(path, 0o755)
    try:
        with reporting_full_disk(root):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _checksum(path: Path) -> list[int]:
    crc = size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
            size += len(chunk)
    return [size, crc]


def publish_folder(scratch: Path, target: Path, meta: Mapping[str, Any]) -> None:
    """Seal what lies in `scratch` with `meta` and checksums and rename it to `target`.

    A damaged folder at `target` is replaced. A sound one stays: another process was faster.
    """
    sums = {path.name: _checksum(path) for path in sorted(scratch.iterdir())}
    write_json(scratch / _META, {**meta, "files": sums})
    while open_folder(target) is None:
        shutil.rmtree(target, ignore_errors=True)
        try:
            os.rename(scratch, target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise


def open_folder(path: Path) -> dict[str, Any] | None:
    """Return the meta data of a published folder; None if it is missing or damaged."""
    if not path.is_dir():
        return None
    try:
        meta = read_json(path / _META)
        files = meta["files"]
        sound = all(_checksum(path / name) == expected for name, expected in files.items())
    except (FileFormatError, OSError, KeyError, TypeError, AttributeError):
        return None
    return meta if sound else None
