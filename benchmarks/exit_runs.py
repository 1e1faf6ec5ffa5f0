"""What early exits promise and what they do: agreement, layers, score and speed.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/exit_runs.py --threads 2 --data-dir DIR

MiniLM fine-tuned on clinc150 and sst2 (seed 0; the teachers of transfer_runs.py, taken from its
work folder or trained). Half of dev, drawn at random, is what the promise is made on; agreement,
layers and scores are those on test. The heads are fitted once for all promises; the models stay in
the work folder. Then the whole model and all promises are measured side by side in torch fp32, one
text at a time and in batches (`--prepare` leaves that for later, when the machine is quiet). Writes
`results/exits/SET.json`; what is there is not done again.
"""

from __future__ import annotations

import argparse
import copy
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from task_data import read_rows
from transfer_runs import SETUPS, make_teacher

from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.evaluate.machine import machine, versions
from bertwright.evaluate.measure import Target, measure_targets
from bertwright.files import read_json, write_json
from bertwright.methods.exit.early_exit import EarlyExitConfig, calibrate_exits, fit_exits
from bertwright.models.task_model import TaskModel
from bertwright.tasks import find_task
from bertwright.training.precision import using_threads
from bertwright.verbs.exits import judge_exits

RESULTS = Path(__file__).resolve().parent.parent / "results" / "exits"
PROMISES = (0.99, 0.97, 0.95, 0.9)
SPEED_ROWS = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--latency-rows", type=int, default=200)
    parser.add_argument("--prepare", action="store_true", help="measure no speed, write no result")
    parser.add_argument("--sets", nargs="*", choices=list(SETUPS), default=list(SETUPS))
    args = parser.parse_args()
    for name in args.sets:
        folder, out = args.work_dir / name / "exits", RESULTS / f"{name}.json"
        if not (folder / "rows.json").exists():
            with using_threads(args.threads):
                write_json(folder / "rows.json", make_exits(name, folder, args))
        if not (args.prepare or out.exists()):
            write_json(out, read_json(folder / "rows.json") | measure_speed(name, folder, args))


def make_exits(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Write the models of all promises; return what they do on test."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model, task = TaskModel.load(make_teacher(args, name) / "model"), find_task("classify")
    train, dev, test = (
        read_rows(args.data_dir / name / f"{split}.jsonl")
        for split in (SETUPS[name].train, "dev", "test")
    )

    def encoded(rows: list[dict[str, Any]]) -> EncodedRows:
        loaded = load_rows(rows, labels=LabelSet(tuple(model.labels)))
        return tokenise(loaded, model.tokenizer, max_length=model.max_length)

    heads = fit_exits(model, encoded(train), EarlyExitConfig())
    calibration = encoded(random.Random(0).sample(dev, len(dev) // 2))
    judging, rows = encoded(test), []
    for promise in PROMISES:
        early = copy.deepcopy(model)
        early.exits = copy.deepcopy(heads)
        early.exits.agreement = promise
        found = calibrate_exits(model, early.exits, calibration)
        early.exits.threshold = found.threshold
        early.save(folder / f"agreement-{promise}")
        done = judge_exits(model, early, judging, task)
        print(f"{name} {promise}: {vars(done)}", file=sys.stderr, flush=True)
        row = {"promised": promise, "threshold": found.threshold, **vars(done)}
        rows.append({**row, "calibration_rows": len(calibration)})
    return {"set": name, "rows": rows}


def measure_speed(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure the whole model and those of all promises side by side."""
    targets = [Target(name="whole", path=make_teacher(args, name) / "model")]
    targets += [Target(name=f"{one}", path=folder / f"agreement-{one}") for one in PROMISES]
    return speeds_of(targets, name, args)


def speeds_of(targets: list[Target], name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure targets side by side on texts of test."""
    texts = [row["text"] for row in read_rows(args.data_dir / name / "test.jsonl")]
    return speeds_on(random.Random(0).sample(texts, min(SPEED_ROWS, len(texts))), targets, args)


def speeds_on(texts: list[str], targets: list[Target], args: argparse.Namespace) -> dict[str, Any]:
    """Measure targets side by side on these texts."""
    measured = measure_targets(
        targets,
        {"text": texts},
        threads=args.threads,
        repeats=args.repeats,
        latency_rows=args.latency_rows,
    )
    return {
        **{"speeds": [vars(one) for one in measured], "threads": args.threads},
        **{"machine": machine(), "versions": versions()},
    }


if __name__ == "__main__":
    main()
