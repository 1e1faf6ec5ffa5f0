"""What early exits promise and what they do: agreement, layers, score and speed.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/exit_runs.py --threads 2 --data-dir DIR

MiniLM fine-tuned on clinc150 and sst2 (seed 0; the teachers of transfer_runs.py, taken from its
work folder or trained). Half of dev, drawn at random, is what the promise is made on; agreement,
layers and scores are those on test. Then the whole model and all promises are measured side by
side in torch fp32, one text at a time and in batches. Writes `results/exits/SET.json`; what is
there is not done again.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from task_data import read_rows, write_rows
from transfer_runs import SETUPS, make_teacher

from bertwright import exits
from bertwright.evaluate.machine import machine, versions
from bertwright.evaluate.measure import Target, measure_targets
from bertwright.files import write_json

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
    parser.add_argument("--sets", nargs="*", choices=list(SETUPS), default=list(SETUPS))
    args = parser.parse_args()
    for name in args.sets:
        out = RESULTS / f"{name}.json"
        if not out.exists():
            write_json(out, measure_set(name, args))


def measure_set(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Make the exits of all promises, and measure them beside the whole model."""
    teacher = make_teacher(args, name)
    folder = args.work_dir / name / "exits"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data = args.data_dir / name
    dev = read_rows(data / "dev.jsonl")
    write_rows(folder / "calibration.jsonl", random.Random(0).sample(dev, len(dev) // 2))
    rows, targets = [], [Target(name="whole", path=teacher / "model")]
    for promise in PROMISES:
        place = folder / f"agreement-{promise}"
        found = exits(
            model=str(teacher),
            data=str(data / f"{SETUPS[name].train}.jsonl"),
            calibration=str(folder / "calibration.jsonl"),
            test_data=str(data / "test.jsonl"),
            agreement=promise,
            out=str(place),
        )
        assert found.test is not None
        print(f"{name} {promise}: {vars(found.test)}", file=sys.stderr, flush=True)
        rows.append(
            {
                "promised": promise,
                "threshold": found.threshold,
                "calibration_rows": len(dev) // 2,
                **vars(found.test),
            }
        )
        targets.append(Target(name=f"{promise}", path=place))
    texts = [row["text"] for row in read_rows(data / "test.jsonl")]
    measured = measure_targets(
        targets,
        {"text": random.Random(0).sample(texts, min(SPEED_ROWS, len(texts)))},
        threads=args.threads,
        repeats=args.repeats,
        latency_rows=args.latency_rows,
    )
    speeds = [vars(one) for one in measured]
    return {
        **{"set": name, "rows": rows, "speeds": speeds, "threads": args.threads},
        **{"machine": machine(), "versions": versions()},
    }


if __name__ == "__main__":
    main()
