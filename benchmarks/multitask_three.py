"""One encoder for three tasks against three encoders: scores on test and seconds of training.

    OMP_NUM_THREADS=1 taskset -c 1 .venv/bin/python benchmarks/multitask_three.py --threads 1
        --data-dir DIR

mrpc (classify), stsb and sick (regress), MiniLM, the same epochs, rate, batch size and seed. Each
training has a process of its own, one after the other. What is in the work folder is not trained
again. Writes `results/tasks/multitask/three.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from commands import bertwright, options

from bertwright.evaluate.machine import machine, versions
from bertwright.files import write_json
from bertwright.training.checkpoints import CheckpointStore

OUT = Path(__file__).resolve().parent.parent / "results" / "tasks" / "multitask" / "three.json"
TASKS = {"mrpc": "classify", "stsb": "regress", "sick": "regress"}
OPTIONS = {"epochs": 4, "lr": 1e-4, "batch-size": 32, "max-length": 128, "seed": 0}
FIXED = ("--batch-tokens", "4096", "--precision", "bf16", "--evals-per-epoch", "1")


def train(verb: list[str], out: Path, threads: int) -> float:
    """Train unless it was done before; return the seconds of the run."""
    if not (out / "model").exists():
        given = [*options(OPTIONS), *FIXED, "--no-keep-best", "--threads", str(threads)]
        bertwright(
            [*verb, *given, "--out", str(out), *(["--resume"] if out.exists() else [])], threads
        )
    checkpoint: Any = CheckpointStore(out / "checkpoints").load()
    return float(checkpoint.state["seconds"])


def score(model: Path, head: str | None, data: Path, threads: int) -> dict[str, Any]:
    words = ["evaluate", "--model", str(model), "--data", str(data), "--json"]
    words += [] if head is None else ["--head", head]
    words += ["--threads", str(threads), "--repeats", "1", "--latency-rows", "1"]
    found = json.loads(bertwright(words, threads))
    return {key: found[key] for key in ("primary", "score", "score_low", "score_high", "metrics")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/multitask"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sampling", default="proportional")
    args = parser.parse_args()
    parts, singles = [], {}
    for name, task in TASKS.items():
        train_file, dev_file = (args.data_dir / name / f"{s}.jsonl" for s in ("train", "dev"))
        parts += ["--part", f"{name}:data={train_file},eval_data={dev_file},task={task}"]
        run = args.work_dir / name
        verb = ["finetune", "--task", task, "--data", str(train_file), "--eval-data", str(dev_file)]
        seconds = train(verb, run, args.threads)
        test = args.data_dir / name / "test.jsonl"
        singles[name] = {"seconds": seconds, **score(run, None, test, args.threads)}
    joint = args.work_dir / f"joint-{args.sampling}"
    seconds = train(["multitask", *parts, "--sampling", args.sampling], joint, args.threads)
    heads = {
        name: score(joint, name, args.data_dir / name / "test.jsonl", args.threads)
        for name in TASKS
    }
    write_json(
        OUT,
        {
            "what": "three tasks on one encoder against one each",
            "options": {**OPTIONS, "sampling": args.sampling, "threads": args.threads},
            "weights": "last",
            "tasks": TASKS,
            "single": singles,
            "joint": {"seconds": seconds, "heads": heads},
            "machine": machine(),
            "versions": versions(),
        },
    )


if __name__ == "__main__":
    main()
