"""From a file, a folder, a glob, a Hub name, a list or a Dataset to the parts that are read."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from bertwright.data.corpus import CORPUS_SPLITS, builtin_corpus
from bertwright.data.readers import SUFFIXES, file_part, list_part, table_part
from bertwright.data.records import Part
from bertwright.data.sts_tables import STS_SUFFIXES, is_sts_input
from bertwright.errors import FileFormatError, UnknownChoiceError, closest_match

__all__ = ["Source", "open_source"]

Source = str | Path | Sequence[Mapping[str, Any]] | datasets.Dataset | datasets.DatasetDict

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
_SPLIT_NAMES = (("train", "training"), ("dev", "validation", "valid", "val"), ("test", "eval"))


def open_source(
    source: Source, *, split: str = "train", cache_dir: str | Path | None = None
) -> tuple[str, list[Part]]:
    """Return the name of a source and its files or tables.

    Raises:
        FileFormatError: nothing is there, or nothing of a known format.
    """
    if isinstance(source, datasets.DatasetDict):
        return "datasets.DatasetDict", [_split_part(source, split, "datasets.DatasetDict")]
    if isinstance(source, datasets.Dataset):
        return "datasets.Dataset", [table_part(source, "datasets.Dataset")]
    if not isinstance(source, str | Path):
        return "rows", [list_part(source, "rows")]
    name = str(source)
    if name == "builtin" or name.startswith("builtin:"):
        wanted = name.partition(":")[2] or "train"
        if wanted not in CORPUS_SPLITS:
            raise UnknownChoiceError("split of the built-in corpus", wanted, CORPUS_SPLITS)
        return name, [file_part(builtin_corpus(cache_dir)[wanted])]
    path = Path(name).expanduser()
    if path.is_dir():
        return name, _folder_parts(path, split)
    if path.exists():
        return name, [file_part(path)]
    if glob.has_magic(name):
        return name, _glob_parts(path)
    if _HUB_NAME.fullmatch(name) and not path.name.lower().endswith((*SUFFIXES, *STS_SUFFIXES)):
        return name, [_hub_part(name, split)]
    guess = closest_match(path.name, [p.name for p in path.parent.glob("*")])
    raise FileFormatError(
        "no such file or folder",
        path=name,
        hint=f"did you mean {path.parent / guess}?" if guess else "correct the path",
    )


def _glob_parts(pattern: Path) -> list[Part]:
    paths = sorted(p for p in map(Path, glob.glob(str(pattern), recursive=True)) if p.is_file())
    if not paths:
        raise FileFormatError("no file matches", path=pattern, hint="quote the pattern; check it")
    return [file_part(path) for path in paths]


def _folder_parts(path: Path, split: str) -> list[Part]:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        try:
            saved = datasets.load_from_disk(str(path))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise FileFormatError(f"the saved dataset is damaged: {error}", path=path) from None
        if isinstance(saved, datasets.DatasetDict):
            return [_split_part(saved, split, str(path))]
        return [table_part(saved, str(path))]
    files = sorted(p for p in path.iterdir() if _is_data_file(p.name))
    if not files:
        raise FileFormatError(
            "the folder holds no data file",
            path=path,
            hint=f"one of {', '.join(SUFFIXES)}; give a table in .txt (SICK) by its own name",
        )
    by_split: dict[int, list[Path]] = {}
    for file in files:
        by_split.setdefault(_file_group(file.name), []).append(file)
    named = {group for group in by_split if group >= 0}
    if not named:
        return [file_part(file) for file in files]
    chosen = by_split.get(_split_group(split), [])
    if not chosen:
        raise FileFormatError(
            f"the folder holds no {split} file, but {', '.join(file.name for file in files)}",
            path=path,
            hint="name the file itself",
        )
    return [file_part(file) for file in chosen]


def _is_data_file(name: str) -> bool:
    return name.lower().endswith(tuple(SUFFIXES)) or is_sts_input(name)


def _file_group(name: str) -> int:
    """Return which split a file is of, by what its name begins with: dev-01.csv, sts-dev.csv."""
    stem = name.lower().split(".")[0].removeprefix("sts-")
    return _split_group(stem.split("-")[0])


def _split_group(name: str) -> int:
    """Return which of train, dev, test a split name means; -1 for none of them."""
    low = name.lower()
    return next((i for i, names in enumerate(_SPLIT_NAMES) if low in names), -1)


def _split_part(found: datasets.DatasetDict, split: str, name: str) -> Part:
    group = _split_group(split)
    for key, dataset in found.items():
        if key == split or (group >= 0 and _split_group(str(key)) == group):
            return table_part(dataset, f"{name}[{key}]")
    raise FileFormatError(f"has no split {split!r}, but {', '.join(map(str, found))}", path=name)


def _hub_part(name: str, split: str) -> Part:
    repository, _, configuration = name.partition(":")
    try:
        found = datasets.load_dataset(repository, configuration or None)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise FileFormatError(
            f"no such file or folder, and as a Hub dataset it cannot be loaded: {reason[0]}",
            path=name,
            hint="check the spelling; without a network give a file or `builtin`",
        ) from error
    assert isinstance(found, datasets.DatasetDict)
    return _split_part(found, split, name)
