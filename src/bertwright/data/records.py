"""What readers yield, and the opening of files that may be packed or damaged."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from bertwright.errors import FileFormatError

__all__ = ["BadLine", "Part", "Record", "guarded", "open_binary"]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A record that cannot be parsed: why, and its raw text."""

    reason: str
    raw: str


Record = tuple[int, dict[str, Any] | BadLine]


@dataclass(frozen=True)
class Part:
    """One file or table of a source.

    `columns` are the column names where the format fixes them, else None. `class_names` gives, for
    a column of class ids or of lists of them, their names in order. `read(only)` yields the records
    with at least the columns in `only`.
    """

    name: str
    columns: list[str] | None
    read: Callable[[Sequence[str]], Iterator[Record]]
    class_names: Mapping[str, list[str]] = field(default_factory=dict)


def open_binary(path: Path) -> BinaryIO:
    """Open a file, unpacked if it is gzipped, behind the byte order mark if there is one.

    Raises:
        FileFormatError: it cannot be read, or is UTF-16.
    """
    packed = path.name.lower().endswith(".gz")
    opened = cast(BinaryIO, gzip.open(path, "rb") if packed else path.open("rb"))
    try:
        head = opened.read(4)
        opened.seek(3 if head.startswith(b"\xef\xbb\xbf") else 0)
    except (OSError, EOFError, zlib.error) as error:
        opened.close()
        raise FileFormatError(f"cannot be read: {error}", path=path) from None
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        opened.close()
        raise FileFormatError("is UTF-16", path=path, hint="save it as UTF-8")
    return opened


def guarded(path: Path, lines: Iterator[Any]) -> Iterator[Any]:
    """Yield the lines of a file.

    Raises:
        FileFormatError: the file is damaged; names the last whole line.
    """
    number = 0
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except (OSError, EOFError, zlib.error) as error:
            raise FileFormatError(
                f"the file is damaged after this line: {error}",
                path=path,
                line=number,
                hint="fetch or write it again",
            ) from None
        number += 1
        yield line
