"""Reader of CoNLL columns: a token a line with its tag last, an empty line after each sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertwright.data.records import BadLine, Record, guarded, open_binary

__all__ = ["read_conll"]

DOCUMENT_START = "-DOCSTART-"


def read_conll(path: Path) -> Iterator[Record]:
    """Yield (line where it begins, {"tokens", "tags"}) of each sentence.

    Columns are separated by tabs, or where a line has none by other white space; the first is the
    token, the last its tag. Where no line of a sentence has a second column there are no tags.
    Lines that mark the start of a document and comments (`# ` and no second column) are left out.
    A sentence of which only some tokens have a tag is bad.
    """
    sentence: list[list[str]] = []
    begins = 1
    with open_binary(path) as file:
        for number, raw in enumerate(guarded(path, file), start=1):
            try:
                line = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                yield number, BadLine("is not valid UTF-8", raw.decode("utf-8", "replace").strip())
                continue
            columns = _columns(line)
            if columns and columns[0] != DOCUMENT_START:
                begins = begins if sentence else number
                sentence.append(columns)
            elif sentence and not columns:
                yield begins, _sentence(sentence)
                sentence = []
    if sentence:
        yield begins, _sentence(sentence)


def _columns(line: str) -> list[str]:
    """Return the columns of a line; none of an empty line or a comment."""
    if line.startswith("# ") and "\t" not in line:
        return []
    parts = line.split("\t") if "\t" in line else line.split()
    return [part.strip() for part in parts] if any(part.strip() for part in parts) else []


def _sentence(lines: list[list[str]]) -> dict[str, Any] | BadLine:
    tokens = [columns[0] for columns in lines]
    tagged = [len(columns) > 1 for columns in lines]
    if not any(tagged):
        return {"tokens": tokens}
    if not all(tagged):
        missing = tokens[tagged.index(False)]
        raw = "\n".join("\t".join(columns) for columns in lines)
        return BadLine(f"token {missing!r} has no tag, others of its sentence have", raw)
    return {"tokens": tokens, "tags": [columns[-1] for columns in lines]}
