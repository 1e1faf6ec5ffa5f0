"""Shallow students of MiniLM itself, distilled from raw text: a start for students of any task.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/general_students.py --threads 2 --data-dir DIR

52,000 English sentences of 3 to 32 words (books, Wikipedia, news, film reviews, questions), none of
them labelled, none of a task's own rows. The teacher is MiniLM as an embedding model; the student
follows its states, layer by layer, and its vectors, for one epoch. Judged by STS Benchmark's dev
pairs. A student stays in `runs/general/of-LAYERS`; what is there is not done again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from task_data import read_rows, write_rows

WANTED = {"books": 26000, "wiki": 5000, "news": 6000, "films": 13000, "squad": 3500}
"""Sentences of each source, or as many as there are."""
WORDS = (3, 32)
METHODS = ("--method", "soft_targets:alpha=1", "--method", "hidden_matching:hidden_loss=mse")
TRAINING = ("--epochs", "1", "--lr", "5e-4", "--batch-size", "64", "--max-length", "64")


def make_general(args: argparse.Namespace, layers: int) -> Path:
    """Return the folder of the student of so many layers, made where it is not there yet."""
    home = args.work_dir.parent / "general"
    folder = home / f"of-{layers}"
    if not (folder / "model").exists():
        texts = home / "texts.jsonl"
        if not texts.exists():
            home.mkdir(parents=True, exist_ok=True)
            write_rows(texts, [{"text": text} for text in draw_sentences(args.data_dir)])
        dev = args.data_dir / "stsb" / "dev.jsonl"
        command = ("distil", "--teacher", "minilm", "--layers", str(layers), "--out", str(folder))
        reading = ("--data", str(texts), "--eval-data", str(dev), "--threads", str(args.threads))
        subprocess.run(
            [sys.executable, "-m", "bertwright", *command, *reading, *METHODS, *TRAINING],
            check=True,
        )
    return folder


def draw_sentences(data: Path) -> list[str]:
    """Return sentences of all sources, mixed."""
    rng, drawn = random.Random(0), []
    for name, sentences in sentences_of(data):
        fitting = [s for s in dict.fromkeys(sentences) if WORDS[0] <= len(s.split()) <= WORDS[1]]
        drawn += rng.sample(fitting, min(WANTED[name], len(fitting)))
    rng.shuffle(drawn)
    return drawn


def sentences_of(data: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each source and its sentences."""
    with gzip.open(data / "books_text" / "train.txt.gz", "rt", encoding="utf-8") as books:
        yield "books", [line.strip() for line in books if line.strip()]
    wiki = (data / "wikitext2" / "valid.txt").read_text(encoding="utf-8")
    plain = wiki.replace(" @-@ ", "-").replace("<unk>", "").splitlines()
    yield "wiki", [s for line in plain if line[:2] != " =" for s in split_sentences(line)]
    yield "news", [row["text"] for row in read_rows(data / "ag_news" / "train.jsonl")]
    films = read_rows(data / "movie_reviews" / "train.jsonl")
    yield "films", [s for row in films for s in split_sentences(row["text"].replace("\n", " "))]
    yield "squad", [row["question"] for row in read_rows(data / "squad" / "train.jsonl")]


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, by their closing marks."""
    return [one.strip() for one in re.split(r"(?<=[.!?])\s+", text) if one.strip()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, nargs="*", default=[2, 1, 3])
    args = parser.parse_args()
    for layers in args.layers:
        folder = make_general(args, layers)
        lineage = json.loads((folder / "model" / "bertwright.json").read_text())["lineage"]
        print(f"{layers} layers: {lineage['scores']}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
