"""Files are never half-written: everything goes to a temporary name first, then is renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from bertwright.errors import DiskFullError, FileFormatError

__all__ = [
    "atomic_dir",
    "atomic_file",
    "atomic_write_bytes",
    "atomic_write_text",
    "cache_dir",
    "folder_size_mb",
    "read_json",
    "reporting_full_disk",
    "write_json",
    "write_json_lines",
]


def cache_dir() -> Path:
    """Return the folder for things that can be made again: `$BERTWRIGHT_CACHE` or the user's."""
    given = os.environ.get("BERTWRIGHT_CACHE")
    path = Path(given) if given else Path.home() / ".cache" / "bertwright"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def reporting_full_disk(path: Path) -> Iterator[None]:
    """Turn "no space left" into a `DiskFullError` that names `path`."""
    try:
        yield
    except Exception as error:  # safetensors and Arrow wrap the OSError in classes of their own
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or "no space left on device" in str(error).lower():
            raise DiskFullError(
                f"no room on the disk to write {path}",
                hint="free some space and run again with --resume; nothing before it was lost",
            ) from None
        raise


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Yield a new temporary file, open for bytes, that takes the place of `path` on success.

    Parent folders are made. On an error the temporary file is removed and `path` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with reporting_full_disk(path):
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all; parent folders are made."""
    with atomic_file(path) as file:
        file.write(data)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    atomic_write_bytes(path, text.encode("utf-8"))


@contextlib.contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Yield a new temporary folder that takes the place of `path` when the block succeeds.

    An existing folder at `path` is kept until then; on an error the temporary one is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    os.chmod(temporary, 0o755)
    try:
        with reporting_full_disk(path):
            yield temporary
            if path.exists():
                old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
                os.replace(path, old / "was")
                try:
                    os.replace(temporary, path)
                except BaseException:
                    os.replace(old / "was", path)
                    raise
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON. NaN and infinity are refused (they are not JSON)."""
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: str | Path, values: Iterable[Any]) -> None:
    """Write each value as a line of JSON, whole or not at all."""
    with atomic_file(path) as file:
        for value in values:
            file.write((json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8"))


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FileFormatError: it does not exist or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileFormatError("no such file", path=path) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        line = getattr(error, "lineno", None)
        raise FileFormatError(f"not valid JSON: {error}", path=path, line=line) from None


def folder_size_mb(path: str | Path) -> float:
    """Return the size of all files below `path` (or of the file) in MB (10^6 bytes)."""
    path = Path(path)
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files) / 1e6
