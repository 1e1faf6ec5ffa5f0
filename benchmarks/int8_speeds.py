"""How fast int8 is beside fp32 in the same engine: the six layers of int8_scores.py's teachers.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/int8_speeds.py --threads 2 --data-dir DIR

After int8_scores.py, whose exported folders are measured; fp32 is compiled here. All on the same
texts of test, text in, label out, each in a process of its own, in turn. Leaves
`results/int8_speeds/SET.json`; what is there is not done again. For a quiet machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from task_data import read_rows

from bertwright.engines.base import available_engines
from bertwright.engines.compile import compile_model
from bertwright.evaluate.machine import machine, versions
from bertwright.evaluate.measure import Target, measure_targets
from bertwright.files import write_json

RESULTS = Path(__file__).resolve().parent.parent / "results" / "int8_speeds"
ENGINES, SETS, TEXTS, LATENCY_TEXTS = ("openvino", "onnxruntime"), ("clinc150", "sst2"), 600, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/int8_scores"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--sets", nargs="*", choices=list(SETS), default=list(SETS))
    args = parser.parse_args()
    for name in args.sets:
        out = RESULTS / f"{name}.json"
        if not out.exists():
            texts = [row["text"] for row in read_rows(args.data_dir / name / "test.jsonl")]
            measured = measure_targets(
                targets(args, name),
                {"text": texts[:TEXTS]},
                threads=args.threads,
                repeats=args.repeats,
                latency_rows=LATENCY_TEXTS,
            )
            found = {"set": name, "speeds": [vars(one) for one in measured]}
            facts = {"threads": args.threads, "machine": machine(), "versions": versions()}
            write_json(out, found | facts)


def targets(args: argparse.Namespace, name: str) -> list[Target]:
    """Return the teacher of a set in every engine, in fp32 and int8."""
    home, found = args.work_dir / name, []
    able = available_engines()
    for engine in (one for one in ENGINES if able[f"{one}:int8"] is None):
        place = home / f"{engine}-fp32"
        if not place.exists():
            compile_model(home / "teacher", f"{engine}:fp32", place, threads=args.threads)
        for precision in ("fp32", "int8"):
            folder, spec = home / f"{engine}-{precision}", f"{engine}:{precision}"
            found.append(Target(name=spec, path=folder, spec=spec))
    return found


if __name__ == "__main__":
    main()
