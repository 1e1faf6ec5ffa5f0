"""Does a word mean the same in two texts: by the states of each layer, and fine-tuned.

    OMP_NUM_THREADS=1 taskset -c 1 .venv/bin/python benchmarks/sense_layers.py --threads 1
        --data-dir DIR

mcl_wic_en with MiniLM. 7,000 pairs train, 1,000 tune the threshold and choose the weights, and the
800 of the dev file are the test. Nearest: the cosine of the word's states after the first K layers
against a threshold, nothing trained, K = 1 to 6. Fine-tuned: both texts in one sequence and a
classifier of the word's states, at the depths given. What is in the work folder is not done again.
Writes `results/tasks/mcl-wic-en/layers.json`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from pathlib import Path
from typing import Any

from commands import bertwright, options

from bertwright.evaluate.machine import machine, versions
from bertwright.files import atomic_write_text, write_json

OUT = Path(__file__).resolve().parent.parent / "results" / "tasks" / "mcl-wic-en" / "layers.json"
NUM_DEV = 1000
TRAINING = {
    **{"epochs": 2, "lr": 1e-4, "batch-size": 32, "max-length": 160, "seed": 0},
    "evals-per-epoch": 1,
}
KEYS = ("score", "score_low", "score_high", "metrics", "num_rows")


def split(source: Path, target: Path) -> tuple[Path, Path]:
    """Write and return the rows to train on and those to tune on."""
    with gzip.open(source / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        lines = file.readlines()
    random.Random(0).shuffle(lines)
    train, dev = target / "train.jsonl", target / "dev.jsonl"
    atomic_write_text(train, "".join(lines[NUM_DEV:]))
    atomic_write_text(dev, "".join(lines[:NUM_DEV]))
    return train, dev


def run(task: str, layers: int, files: tuple[Path, Path, Path], args: Any) -> dict[str, Any]:
    """Fine-tune (or only tune) and evaluate one model."""
    train, dev, test = files
    out = args.work_dir / f"{task.partition('=')[2] or 'classify'}-{layers}L"
    if not (out / "model").exists():
        given = ["--task", task, "--layers", str(layers), *options(TRAINING)]
        resume = ["--resume"] if out.exists() else []
        rows = ["--data", str(dev if "nearest" in task else train), "--eval-data", str(dev)]
        threads = ["--threads", str(args.threads)]
        bertwright(["finetune", *rows, *given, *threads, "--out", str(out), *resume], args.threads)
    words = ["evaluate", "--model", str(out), "--data", str(test), "--json", "--repeats", "1"]
    words += ["--latency-rows", "1", "--threads", str(args.threads)]
    found = json.loads(bertwright(words, args.threads))
    return {"layers": layers, **{key: found[key] for key in KEYS}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/senses"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--finetuned", type=int, nargs="*", default=[6])
    args = parser.parse_args()
    source = args.data_dir / "mcl_wic_en"
    files = (*split(source, args.work_dir / "data"), source / "dev.jsonl")
    nearest = [run("senses:how=nearest", layers, files, args) for layers in range(1, 7)]
    finetuned = [run("senses", layers, files, args) for layers in args.finetuned]
    write_json(
        OUT,
        {
            "what": "word in context on mcl_wic_en, accuracy by layer",
            "options": {**TRAINING, "threads": args.threads},
            "nearest": nearest,
            "finetuned": finetuned,
            "machine": machine(),
            "versions": versions(),
        },
    )


if __name__ == "__main__":
    main()
