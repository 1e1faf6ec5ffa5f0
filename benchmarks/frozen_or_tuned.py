"""Where fine-tuning passes a frozen encoder: 100, 300, 1,000 and all rows of clinc150 and sst2.

    .venv/bin/python benchmarks/frozen_or_tuned.py --threads 2 --data-dir DIR

MiniLM. Frozen: the mean of the last layer's states and the classifier that cross-validation
prefers. Tuned: more epochs where rows are few, so that it takes 200 steps or more; the rows are
given several times over, so that there are six evaluations and not sixty. Rows are drawn anew with
each seed; all rows are trained on with one seed. Each run has a process of its own and leaves
`results/frozen_or_tuned/SET-ROWS-WAY-sSEED.json`; what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from task_data import read_rows

from bertwright.compare.worker import Job
from bertwright.evaluate.machine import machine, versions
from bertwright.files import read_json, write_json

RESULTS = Path(__file__).resolve().parent.parent / "results" / "frozen_or_tuned"
SETS = {
    "sst2": ("train_sentences", {"lr": 1e-4, "batch_size": 32}),
    "clinc150": ("train", {"lr": 3e-4, "batch_size": 64}),
}
TIMES = {100: 10, 300: 5, 1000: 3, None: 1}
"""How often the tuned encoder is given the rows; it sees that three times, all rows four times."""
SMALL_BATCH = 16
SEEDS = {None: 1}


def contenders(name: str, count: int | None) -> dict[str, str]:
    """Return the contender of each way."""
    options = SETS[name][1] | ({"batch_size": SMALL_BATCH} if count else {})
    words = ",".join(f"{key}={value}" for key, value in options.items())
    learner = "logistic" if count is None and name == "clinc150" else "best"
    return {
        "frozen": f"frozen:learner={learner}",
        "tuned": f"finetune:epochs={3 if count else 4},{words}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    for count in TIMES:
        for seed in range(SEEDS.get(count, args.seeds)):
            for name in SETS:
                for way, contender in contenders(name, count).items():
                    out = RESULTS / f"{name}-{count or 'all'}-{way}-s{seed}.json"
                    if not out.exists():
                        run(args, name, count, contender, seed, out)


def run(
    args: argparse.Namespace, name: str, count: int | None, contender: str, seed: int, out: Path
) -> None:
    """Fit one in a process of its own."""
    train_split = SETS[name][0]
    rows = {
        split: read_rows(args.data_dir / name / f"{file}.jsonl")
        for split, file in (("train", train_split), ("dev", "dev"), ("test", "test"))
    }
    if count is not None:
        rows["train"] = random.Random(seed).sample(rows["train"], count)
    num_rows = len(rows["train"])
    if contender.startswith("finetune"):
        rows["train"] = rows["train"] * TIMES[count]
    names = sorted({row["label"] for part in rows.values() for row in part})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for split, part in rows.items():
            labels = [names.index(row["label"]) for row in part]
            texts = [row["text"] for row in part]
            write_json(folder / f"{split}.json", {"texts": texts, "labels": labels})
        job = Job(
            **{"contender": contender, "rows": temporary, "out": str(folder / "result.json")},
            **{"models": str(folder / "models"), "num_classes": len(names), "model": "minilm"},
            **{"max_length": 128, "seed": seed, "threads": args.threads},
            **{"repeats": 1, "speed_rows": 500},
        )
        write_json(folder / "job.json", asdict(job))
        print(out.stem, file=sys.stderr, flush=True)
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "bertwright.compare.worker", str(folder / "job.json")],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": str(args.threads)},
            stderr=subprocess.DEVNULL,
        )
        result = read_json(folder / "result.json")
        print(
            f"  {time.perf_counter() - began:.0f} s {json.dumps(result['score'])}",
            file=sys.stderr,
            flush=True,
        )
        more = {"set": name, "rows": num_rows, "machine": machine()}
        write_json(out, {**result, **more, "versions": versions()})


if __name__ == "__main__":
    main()
