"""Readers of the tables in which sentence similarity is published.

All are tab-separated, one pair a line, and quotes are plain characters:

- STS Benchmark: `sts-train.csv`, `sts-dev.csv`, `sts-test.csv`, without a header;
- SemEval STS: `STS.input.NAME.txt` with the pairs, `STS.gs.NAME.txt` beside it with the scores;
- SICK, GLUE's STS-B and KorSTS: with a header, by which they are known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bertwright.data.records import BadLine, Part, Record, guarded, open_binary
from bertwright.errors import FileFormatError

__all__ = ["STS_SUFFIXES", "Unscored", "is_sts_input", "sts_part"]

STS_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
"""Endings of the names of files that may be such a table."""

SCORE = "score"
BENCHMARK_COLUMNS = ("genre", "file", "year", "id", SCORE, "sentence1", "sentence2")
_BENCHMARK_COUNTS = (7, 9)
_BENCHMARK_NAME = re.compile(r"sts-(train|dev|test)\.(csv|tsv|txt)(\.gz)?", re.IGNORECASE)
_YEAR = re.compile(r"\d{4}[a-z]*")

PAIR_COLUMNS = ("sentence1", "sentence2", SCORE)
_PAIR_COUNTS = (2, 4)
_PAIR_NAME = re.compile(r"(STS\d*\.)(input|gs)(\..+\.txt)(\.gz)?")

HEADERS = (
    ("pair_id", "sentence_a", "sentence_b"),
    (
        "index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1",
        "sentence2",
    ),
    ("genre", "filename", "year", "id", SCORE, "sentence1", "sentence2"),
)  # fmt: skip
"""What the headers of SICK, of GLUE's STS-B and of KorSTS begin with."""


class Unscored(BadLine):
    """A pair without a score, which its format allows, where scores are asked for."""

    __slots__ = ()


def is_sts_input(name: str) -> bool:
    """Say whether a file is one of SemEval's files of pairs, by its name."""
    found = _PAIR_NAME.fullmatch(name)
    return found is not None and found[2] == "input"


def sts_part(path: Path) -> Part | None:
    """Open one of the tables that this module reads; None for any other file.

    SemEval's files are known by their names, STS Benchmark's by name and a year in the third field
    of the first line, the others by the header. What a pair without a score is read as: see
    `Unscored`; where the column of scores is not asked for (to predict), it is a pair like others.

    Raises:
        FileFormatError: it cannot be read; it holds scores without pairs; or it looks like STS
            Benchmark's and has another name.
    """
    if is_sts_input(path.name):
        gold = _gold_of(path)
        return _part(path, PAIR_COLUMNS, lambda only: _read_pairs(path, gold, SCORE in only))
    if _PAIR_NAME.fullmatch(path.name):
        raise FileFormatError(
            "holds scores and no sentences",
            path=path,
            hint=f"give {path.name.replace('.gs.', '.input.', 1)}: its scores are read from here",
        )
    first = next((line for _, line in _lines(path) if line.strip()), b"")
    fields = first.decode("utf-8", errors="replace").split("\t")
    names = tuple(field.strip().lower() for field in fields)
    if any(names[: len(header)] == header for header in HEADERS):
        return _part(path, fields, lambda only: _read_with_header(path))
    if len(fields) < 3 or not _YEAR.fullmatch(fields[2]):
        return None
    if _BENCHMARK_NAME.fullmatch(path.name):
        return _part(path, BENCHMARK_COLUMNS, lambda only: _read_benchmark(path, SCORE in only))
    if len(fields) in _BENCHMARK_COUNTS and (not fields[4] or _is_number(fields[4])):
        raise FileFormatError(
            "looks like a table of STS Benchmark, which has no header, but has another name",
            path=path,
            line=1,
            hint="call it sts-train.csv, sts-dev.csv or sts-test.csv, "
            "or write a first line that names its columns",
        )
    return None


def _part(
    path: Path, columns: Sequence[str], read: Callable[[Sequence[str]], Iterator[Record]]
) -> Part:
    return Part(name=str(path), columns=list(columns), read=read)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (1-based number, line without its end)."""
    with open_binary(path) as file:
        for number, line in enumerate(guarded(path, file), start=1):
            yield number, line.rstrip(b"\r\n")


def _fields(line: bytes) -> list[str] | BadLine:
    try:
        return line.decode("utf-8").split("\t")
    except UnicodeDecodeError:
        return BadLine("is not valid UTF-8", line.decode("utf-8", errors="replace"))


def _shown(fields: Sequence[str]) -> str:
    return " | ".join(fields)


def _read_with_header(path: Path) -> Iterator[Record]:
    header: list[str] = []
    for number, line in _lines(path):
        if not line.strip():
            continue
        fields = _fields(line)
        if isinstance(fields, BadLine):
            yield number, fields
        elif not header:
            header = fields
        elif len(fields) != len(header):
            reason = f"has {len(fields)} fields, the first line names {len(header)} columns"
            yield number, BadLine(reason, _shown(fields))
        else:
            yield number, dict(zip(header, fields, strict=True))


def _read_benchmark(path: Path, scored: bool) -> Iterator[Record]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        fields = _fields(line)
        if isinstance(fields, BadLine):
            yield number, fields
        elif len(fields) not in _BENCHMARK_COUNTS:
            reason = f"has {len(fields)} fields, a line of STS Benchmark has 7, or 9 with licences"
            yield number, BadLine(reason, _shown(fields))
        elif scored and not fields[4].strip():
            yield number, Unscored("has no score", _shown(fields))
        else:
            yield number, dict(zip(BENCHMARK_COLUMNS, fields, strict=False))


def _gold_of(path: Path) -> Path:
    """Return the file of the scores of a file of pairs, packed or not; it may not be there."""
    found = _PAIR_NAME.fullmatch(path.name)
    assert found is not None
    plain = f"{found[1]}gs{found[3]}"
    names = (plain + (found[4] or ""), plain, f"{plain}.gz")
    paths = [path.with_name(name) for name in names]
    return next((gold for gold in paths if gold.is_file()), paths[1])


def _read_pairs(path: Path, gold: Path, scored: bool) -> Iterator[Record]:
    """Yield the pairs, with the scores on the same lines of `gold` if they are asked for.

    Empty lines at the end of either file do not count.
    """
    there = gold.is_file()
    scores = _lines(gold) if scored and there else None
    for number, line in _lines(path):
        score = ""
        if scores is not None:
            _, raw = next(scores, (0, None))
            if raw is None and line.strip():
                raise _of_other_length(path, gold)
            score = (raw or b"").decode("utf-8", errors="replace").strip()
        if line.strip():
            pair = _pair(line)
            if scored and isinstance(pair, dict):
                pair = _scored(pair, score if there else None, gold.name)
            yield number, pair
        elif score:
            raise FileFormatError(
                f"is empty, but has the score {score} in {gold}",
                path=path,
                line=number,
                hint="the lines of the two files belong together: fetch both again",
            )
    if scores is not None and any(raw.strip() for _, raw in scores):
        raise _of_other_length(path, gold)


def _pair(line: bytes) -> dict[str, str] | BadLine:
    fields = _fields(line)
    if isinstance(fields, BadLine):
        return fields
    if len(fields) not in _PAIR_COUNTS:
        reason = f"has {len(fields)} fields, not two sentences, or two and a source of each"
        return BadLine(reason, _shown(fields))
    return dict(zip(PAIR_COLUMNS, fields[:2], strict=False))


def _scored(pair: dict[str, str], score: str | None, gold: str) -> dict[str, str] | BadLine:
    """Return a pair with its score; None says that there is no file of scores."""
    raw = _shown(list(pair.values()))
    if score is None:
        reason = f"has no score: the scores belong in {gold} beside it, which is not there"
        return BadLine(reason, raw)
    if not score:
        return Unscored(f"has no score in {gold}", raw)
    if not _is_number(score):
        return BadLine(f"score {score!r} in {gold} is not a number", raw)
    return {**pair, SCORE: score}


def _of_other_length(path: Path, gold: Path) -> FileFormatError:
    pairs, scores = (sum(1 for _ in _lines(file)) for file in (path, gold))
    return FileFormatError(
        f"has {pairs:,} lines, but {gold} with its scores has {scores:,}",
        path=path,
        hint="each pair has its score on the same line there, or an empty line: fetch both again",
    )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
