"""Early exits in the engines that run graphs: how fast beside the whole model, and as promised.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/exit_engines.py --threads 2 --data-dir DIR

After exit_runs.py, whose models are compiled here for OpenVINO and ONNX Runtime, beside the whole
model in fp32 and, as the rival that a user would take, in int8. Then students of one and three
layers with a fitted head, and those of three with exits of their own: half of dev finds their
thresholds, as it does the whole model's. Some of them are compiled in int8 too, where the same half
finds thresholds anew. All stand beside `transformers`' pipeline. Agreement and accuracy are those
of each engine on test. All speeds are of one run: the same texts of test, text in, label out, each
target in a process of its own, in turn (`--prepare` leaves that for later, when the machine is
quiet). Leaves `results/exit_engines/SET.json`; what is there is not done again.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from exit_runs import speeds_of
from task_data import read_rows, write_rows
from transfer_runs import SETUPS, bertwright, make_teacher, make_trimmed_teacher

from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.engines.compile import compile_model
from bertwright.engines.predictor import Predictor
from bertwright.evaluate.measure import Target
from bertwright.files import read_json, write_json
from bertwright.models.export import export_transformers
from bertwright.models.task_model import TaskModel
from bertwright.training.precision import using_threads
from bertwright.verbs.exits import ExitsConfig, exits

RESULTS = Path(__file__).resolve().parent.parent / "results" / "exit_engines"
ENGINES, PROMISES = ("openvino", "onnxruntime"), (0.99, 0.95)
DEPTHS, STUDENT_PROMISES = (1, 3), (0.99, 0.97)
IN_INT8 = {
    "openvino": ("whole", "0.99"),
    "onnxruntime": ("whole", "0.99", "fitted 1", "fitted 3", "fitted 3, 0.99"),
}
"""int8 is tried of these; OpenVINO's is slower than its fp32 without VNNI (docs/int8.md)."""
PIPELINE = "pipeline"


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
        folder, out = args.work_dir / name / "exit-engines", RESULTS / f"{name}.json"
        if out.exists():
            continue
        if not (folder / "rows.json").exists():
            write_json(folder / "rows.json", {"set": name, "rows": compile_all(name, folder, args)})
        if not args.prepare:
            write_json(out, read_json(folder / "rows.json") | measure_speed(name, folder, args))


def compile_all(name: str, folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Compile the whole model and the promises for each engine; return what they do on test."""
    source = args.work_dir / name
    models = {"whole": make_teacher(args, name) / "model"}
    models |= {f"{one}": source / "exits" / f"agreement-{one}" for one in PROMISES}
    models |= make_students(name, folder, args)
    train, dev, test = (
        read_rows(args.data_dir / name / f"{split}.jsonl")
        for split in (SETUPS[name].train, "dev", "test")
    )
    model = TaskModel.load(models["whole"])
    half = read_rows(half_of_dev(name, folder, args))
    loaded = [load_rows(rows, labels=LabelSet(tuple(model.labels))) for rows in (train, dev, half)]
    texts, truths = [row["text"] for row in test], [row["label"] for row in test]
    whole = Predictor(models["whole"], threads=args.threads)
    expected, rows = np.stack(whole.logits(texts)).argmax(axis=1), []
    for engine in ENGINES:
        tried = [(who, "fp32") for who in models] + [(who, "int8") for who in IN_INT8[engine]]
        for model_name, precision in tried:
            spec, path = f"{engine}:{precision}", models[model_name]
            who = model_name + (", int8" if precision == "int8" else "")
            place = folder / f"{engine}-{who.replace(', ', '-').replace(' ', '-')}"
            tried_model = TaskModel.load(path)
            calibration, judging, finding = (
                tokenise(rows, tried_model.tokenizer, max_length=tried_model.max_length)
                for rows in loaded
            )
            compile_model(
                path,
                spec,
                place,
                calibration=calibration,
                dev=judging if tried_model.exits is None else finding,
            )
            predictor = Predictor(place, threads=args.threads)
            found = np.stack(predictor.logits(texts)).argmax(axis=1)
            predictor.close()
            right = [
                model.labels[index] == truth for index, truth in zip(found, truths, strict=True)
            ]
            row = {"engine": engine, "who": who, "spec": spec, "folder": place.name}
            row |= {"agreement": float((found == expected).mean()), "score": float(np.mean(right))}
            print(f"{name} {row}", file=sys.stderr, flush=True)
            rows.append(row)
    return rows


def half_of_dev(name: str, folder: Path, args: argparse.Namespace) -> Path:
    """Return the file of the rows that find thresholds, those of exit_runs.py."""
    path = folder / "half-of-dev.jsonl"
    if not path.exists():
        dev = read_rows(args.data_dir / name / "dev.jsonl")
        write_rows(path, random.Random(0).sample(dev, len(dev) // 2))
    return path


def make_students(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Path]:
    """Return students with a fitted head, and the deepest with exits: who -> folder."""
    data = [args.data_dir / name / f"{split}.jsonl" for split in (SETUPS[name].train, "dev")]
    made = {}
    for depth in DEPTHS:
        run = folder / f"fitted-{depth}"
        shutil.rmtree(run, ignore_errors=True)
        words = ("--data", data[0], "--eval-data", data[1], "--layers", depth, "--out", run)
        how = ("--method", "fitted_head", "--pooling", "mean", "--layer-choice", "first")
        teacher = make_trimmed_teacher(args, name)
        bertwright(args, *map(str, ("distil", "--teacher", teacher, *words, *how)))
        made[f"fitted {depth}"] = run / "model"
    for promise in STUDENT_PROMISES:
        out = folder / f"fitted-{DEPTHS[-1]}-early-{promise}"
        shutil.rmtree(out, ignore_errors=True)
        with using_threads(args.threads):
            config = ExitsConfig(
                model=str(run),
                data=str(data[0]),
                calibration=str(half_of_dev(name, folder, args)),
                agreement=promise,
                out=str(out),
            )
            exits(config)
        made[f"fitted {DEPTHS[-1]}, {promise}"] = out
    return made


def measure_speed(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure all that was compiled side by side."""
    targets = [
        Target(name=row["folder"], path=folder / row["folder"], spec=row["spec"])
        for row in read_json(folder / "rows.json")["rows"]
    ]
    model, stock = TaskModel.load(make_teacher(args, name) / "model"), folder / "stock"
    if not stock.exists():
        export_transformers(model, stock)
    targets += [Target(name=PIPELINE, path=stock, kind="pipeline", max_length=model.max_length)]
    return speeds_of(targets, name, args)


if __name__ == "__main__":
    main()
