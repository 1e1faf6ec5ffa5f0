"""Data sets that are made of others for the runs of task_runs.py and compress_tasks.py.

Each maker reads the folder of a set and writes `train`, `dev` and `test` of the new one as JSON
Lines. Samples are drawn with a fixed seed: the same files give the same rows.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bertwright.files import atomic_write_text

SEED = 0
SPLITS = ("train", "dev", "test")
SQUAD_TEST_ROWS = 2000
SQUAD_DEV_SHARE = 0.05
ARTICLE_ROWS = {"dev": 800, "test": 1600}
ARTICLES = {"train": 22, "dev": 4}
"""Articles of SQuAD's dev file that passages are made of; the rest are for test."""
QUESTIONS = {"train": 1000, "dev": 60, "test": 250}
PASSAGES = {"train": 4, "dev": 20, "test": 20}
"""Candidates a question has, the paragraph it was asked of among them."""

Row = dict[str, Any]


class Made(NamedTuple):
    """A set that is made: of which other, and how."""

    source: str
    make: Callable[[Path], Mapping[str, Iterable[Row]]]


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a JSON Lines file, or of the gzip file beside it."""
    packed = path.with_name(path.name + ".gz")
    with (
        open(path, encoding="utf-8")
        if path.exists()
        else gzip.open(packed, "rt", encoding="utf-8") as file
    ):
        return [json.loads(line) for line in file]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    atomic_write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def squad(source: Path) -> dict[str, list[Row]]:
    """Train and dev (a twentieth of the training contexts), and a sample of dev as test."""
    rows = read_rows(source / "train.jsonl")
    contexts = sorted({row["context"] for row in rows})
    held = set(random.Random(SEED).sample(contexts, round(SQUAD_DEV_SHARE * len(contexts))))
    return {
        "train": [row for row in rows if row["context"] not in held],
        "dev": [row for row in rows if row["context"] in held],
        "test": random.Random(SEED).sample(read_rows(source / "dev.jsonl"), SQUAD_TEST_ROWS),
    }


def squad_by_article(source: Path) -> dict[str, list[Row]]:
    """The same training rows; dev and test are samples of different articles of dev."""
    draw = random.Random(SEED)
    by_article = articles(source)
    names = sorted(by_article)
    draw.shuffle(names)
    halves = {"dev": names[: len(names) // 3], "test": names[len(names) // 3 :]}
    return {"train": squad(source)["train"]} | {
        split: draw.sample([row for name in part for row in by_article[name]], ARTICLE_ROWS[split])
        for split, part in halves.items()
    }


def articles(source: Path) -> dict[str, list[Row]]:
    """Return the rows of SQuAD's dev file by article."""
    found: dict[str, list[Row]] = {}
    for row in read_rows(source / "dev.jsonl"):
        found.setdefault(row["title"], []).append(row)
    return found


def passages(source: Path) -> dict[str, list[Row]]:
    """Questions with the paragraph they were asked of among others of its article.

    No article is in two splits. Candidates are in random order.
    """
    draw = random.Random(SEED)
    by_article = articles(source)
    names = sorted(by_article)
    draw.shuffle(names)
    ends = (ARTICLES["train"], ARTICLES["train"] + ARTICLES["dev"], len(names))
    parts = zip(SPLITS, (names[i:j] for i, j in zip((0, *ends), ends, strict=False)), strict=True)
    made = {}
    for split, part in parts:
        asked = [(row, by_article[name]) for name in part for row in by_article[name]]
        asked = draw.sample(asked, min(QUESTIONS[split], len(asked)))
        made[split] = [ranked_row(row, article, PASSAGES[split], draw) for row, article in asked]
    return made


def ranked_row(row: Row, article: list[Row], num_candidates: int, draw: random.Random) -> Row:
    """Return a row of the task `rerank` with one relevant candidate."""
    others = sorted({other["context"] for other in article} - {row["context"]})
    candidates = [row["context"], *draw.sample(others, min(num_candidates - 1, len(others)))]
    draw.shuffle(candidates)
    relevance = [int(text == row["context"]) for text in candidates]
    return {"query": row["question"], "candidates": candidates, "relevance": relevance}


def kinds_of_entities(source: Path) -> dict[str, list[Row]]:
    """Texts labelled with the types of the entities that are tagged in them, often none."""
    return {
        split: [
            {
                "text": " ".join(row["tokens"]),
                "label": sorted({tag[2:] for tag in row["tags"] if tag != "O"}),
            }
            for row in read_rows(source / f"{split}.jsonl")
        ]
        for split in SPLITS
    }


MADE = {
    "squad": Made("squad", squad),
    "squad-by-article": Made("squad", squad_by_article),
    "squad-passages": Made("squad", passages),
    "wnut17-kinds": Made("wnut17", kinds_of_entities),
}


def data_folder(name: str, data_dir: Path, made_dir: Path) -> Path:
    """Return the folder of a set: as it stands below `data_dir`, or made below `made_dir`."""
    if name not in MADE:
        return data_dir / name
    source, make = MADE[name]
    for split, rows in make(data_dir / source).items():
        write_rows(made_dir / name / f"{split}.jsonl", rows)
    return made_dir / name


def split_file(folder: Path, split: str) -> str:
    path = folder / f"{split}.jsonl"
    return str(path if path.exists() else path.with_name(path.name + ".gz"))
