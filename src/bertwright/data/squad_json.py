"""Reader of the nested JSON in which SQuAD 1.1 and 2.0 are published: one record a question.

The form: `{"version", "data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question",
"answers": [{"text", "answer_start"}], "is_impossible"}]}]}]}`.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertwright.data.records import BadLine, Record
from bertwright.errors import FileFormatError

__all__ = ["looks_like_squad", "read_squad"]

_HINT = "SQuAD's form is data[].paragraphs[].qas[]; fetch or write the file again"
_TEXT = rb'"(?:[^"\\]|\\.)*"'
_HEAD = re.compile(
    rb"\s*\{\s*(?:" + _TEXT + rb"\s*:\s*(?:" + _TEXT + rb'|[^\s",{}\[\]]+)\s*,\s*)*'
    rb'"data"\s*:\s*\[\s*\{'
)


def looks_like_squad(head: bytes) -> bool:
    """Say whether a file, by its first bytes, is SQuAD's JSON rather than one object a line.

    Args:
        head: the first few kilobytes, unpacked: enough to see the first article's paragraphs begin.
    """
    head = head.removeprefix(b"\xef\xbb\xbf")
    return _HEAD.match(head) is not None and b'"paragraphs"' in head


def read_squad(path: str | Path) -> Iterator[Record]:
    """Yield (number, record) of each question in a .json or .json.gz file.

    The number is the 1-based number of the question in the file. A record has `id` and `title`
    (None where the file has none), `context`, `question` and `answers`, as far as the file gives
    them. A question that is said to be impossible has no answers; one that is said to be possible
    without any that are given has no `answers` at all. One that cannot be read, or contradicts
    itself, is a `BadLine`. The whole file is held in memory.

    Raises:
        FileFormatError: the file cannot be read, or is not of this form.
    """
    path = Path(path)
    number = 0
    for title, context, question in _questions(path, _load(path)):
        number += 1
        yield number, _record(title, context, question)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise FileFormatError("no such file", path=path)
    try:
        data = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise FileFormatError(
            f"cannot be read: {error}", path=path, hint="fetch or write it again"
        ) from None
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        raise FileFormatError(
            f"not valid JSON: {error.msg} (column {error.colno})",
            path=path,
            line=error.lineno,
            hint=_HINT,
        ) from None
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"not valid JSON: {error}", path=path, hint=_HINT) from None


def _questions(path: Path, content: Any) -> Iterator[tuple[Any, dict[str, Any], Any]]:
    """Yield the title, the context as far as there is one, and the question as it stands."""
    for i, article in enumerate(_members(content, "data", "the file", path)):
        where = f"data[{i}]"
        for j, paragraph in enumerate(_members(article, "paragraphs", where, path)):
            questions = _members(paragraph, "qas", f"{where}.paragraphs[{j}]", path)
            context = {"context": paragraph["context"]} if "context" in paragraph else {}
            for question in questions:
                yield article.get("title"), context, question


def _members(owner: Any, name: str, where: str, path: Path) -> list[Any]:
    if not isinstance(owner, dict):
        raise FileFormatError(
            f"{where} is not an object but {type(owner).__name__}", path=path, hint=_HINT
        )
    members = owner.get(name)
    if not isinstance(members, list):
        what = f"no {name!r}" if members is None else f"{name!r} that is no list"
        raise FileFormatError(f"{where} has {what}", path=path, hint=_HINT)
    return members


def _record(title: Any, context: dict[str, Any], question: Any) -> dict[str, Any] | BadLine:
    if not isinstance(question, dict):
        return _bad(f"a question is not an object but {type(question).__name__}", question)
    impossible = question.get("is_impossible", False)
    if not isinstance(impossible, bool):
        return _bad(f"is_impossible is neither true nor false but {impossible!r}", question)
    answers = question.get("answers")
    if impossible and answers:
        return _bad("is_impossible is true, but there are answers", question)
    record = {"id": question.get("id"), "title": title, **context}
    if "question" in question:
        record["question"] = question["question"]
    if impossible or answers or ("answers" in question and "is_impossible" not in question):
        record["answers"] = answers or []
    return record


def _bad(reason: str, question: Any) -> BadLine:
    return BadLine(reason, json.dumps(question, ensure_ascii=False))
