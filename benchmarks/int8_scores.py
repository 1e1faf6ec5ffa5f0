"""What int8 costs in score: MiniLM on five sets, each engine, with and without repair, and qat.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/int8_scores.py --threads 2 --data-dir DIR

A model a set is fine-tuned (seed 0) and exported as `bertwright export` does it: to bf16, to int8
as it comes (nothing spared; by NNCF's ranges and by ours), and to int8 with the default tolerance
of half a point on dev and with none, where parts are spared or the export is refused. What this
machine cannot compute is left out. Then it is trained on, as long with `qat` as without, and both
are exported to int8, as it comes. All are judged on test. A set leaves
`results/int8_scores/SET.json`; what is there is not done again. Models stay in the work folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import bertwright, options

from bertwright.engines.base import available_engines
from bertwright.evaluate.machine import machine, versions
from bertwright.files import read_json, write_json

RESULTS = Path(__file__).resolve().parent.parent / "results" / "int8_scores"
ANY_DROP = {"tolerance-points": 1000}
"""More points than there are: nothing is spared."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One set, and how it is trained."""

    task: str = "classify"
    train: str = "train"
    epochs: int
    lr: float
    batch_size: int = 32


SETUPS = {
    "clinc150": Setup(epochs=5, lr=3e-4, batch_size=64),
    "sst2": Setup(train="train_sentences", epochs=3, lr=1e-4),
    "mrpc": Setup(epochs=4, lr=1e-4),
    "stsb": Setup(task="regress", epochs=4, lr=1e-4),
    "wnut17": Setup(task="tag", epochs=5, lr=2e-4),
}
MORE_EPOCHS = 2
"""Of the training with rounding, and of its control; at half the rate."""
EXPORTS = {
    "openvino-bf16": ("openvino:bf16", {}),
    "openvino-int8": ("openvino:int8", ANY_DROP),
    "openvino-int8-repaired": ("openvino:int8", {}),
    "openvino-int8-tables-4": ("openvino:int8", ANY_DROP | {"table-bits": 4}),
    "openvino-int8-min-max": ("openvino:int8", ANY_DROP | {"ranges": "min-max"}),
    "openvino-int8-percentile": ("openvino:int8", ANY_DROP | {"ranges": "percentile"}),
    "openvino-int8-mse": ("openvino:int8", ANY_DROP | {"ranges": "mse"}),
    "openvino-int8-mse-smooth": ("openvino:int8", ANY_DROP | {"ranges": "mse:smooth=0.5"}),
    "openvino-int8-strict": ("openvino:int8", {"tolerance-points": 0}),
    "onnxruntime-int8": ("onnxruntime:int8", ANY_DROP),
    "onnxruntime-int8-repaired": ("onnxruntime:int8", {}),
    "onnxruntime-int8-strict": ("onnxruntime:int8", {"tolerance-points": 0}),
}
"""Name -> engine and precision, further options."""
MORE = {"more": (), "qat": ("--method", "qat")}
"""How the teacher is trained on, with rounding and without."""
OF_MORE = ("torch-fp32", "openvino-int8")
FORMATS = {"openvino": "openvino", "onnxruntime": "onnx"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/int8_scores"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sets", nargs="*", choices=list(SETUPS), default=list(SETUPS))
    args = parser.parse_args()
    for name in args.sets:
        out = RESULTS / f"{name}.json"
        known = {row["name"]: row for row in read_json(out)["rows"]} if out.exists() else {}
        if not known.keys() >= names_of_rows():
            print(name, file=sys.stderr, flush=True)
            write_json(out, measure_set(name, known, args))


def names_of_rows() -> set[str]:
    """Return what is measured of a set with the engines that this machine has."""
    able = available_engines()
    exports = [name for name, (spec, _) in EXPORTS.items() if able[spec] is None]
    return {"torch-fp32", *exports, *(f"{kind}-{what}" for kind in MORE for what in OF_MORE)}


def measure_set(
    name: str, known: Mapping[str, dict[str, Any]], args: argparse.Namespace
) -> dict[str, Any]:
    """Train what is not there yet, export and judge what is not known yet."""
    setup, folder = SETUPS[name], args.work_dir / name
    teacher = folder / "teacher"
    train(name, teacher, "minilm", setup.epochs, setup.lr, (), args)
    for kind, methods in MORE.items():
        train(name, folder / kind, str(teacher), MORE_EPOCHS, setup.lr / 2, methods, args)
    rows: list[dict[str, Any]] = []

    def add(label: str, measure: Callable[..., dict[str, Any]], *of: Any) -> None:
        rows.append(known.get(label) or measure(label, *of, name, args))

    add("torch-fp32", judged, teacher)
    able = available_engines()
    for export, (spec, more) in EXPORTS.items():
        if able[spec] is None:
            add(export, exported, teacher, spec, more)
    for kind in MORE:
        add(f"{kind}-torch-fp32", judged, folder / kind)
        add(f"{kind}-openvino-int8", exported, folder / kind, "openvino:int8", ANY_DROP)
    return {
        **{"set": name, "task": setup.task, "seed": 0, "rows": rows, "threads": args.threads},
        **{"machine": machine(), "versions": versions()},
    }


def train(
    name: str,
    folder: Path,
    model: str,
    epochs: int,
    lr: float,
    methods: Sequence[str],
    args: argparse.Namespace,
) -> None:
    """Fine-tune a model where it is not there yet."""
    if (folder / "model").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    setup = SETUPS[name]
    values = {
        **{"model": model, "task": setup.task, "data": data_file(name, setup.train, args)},
        **{"eval-data": data_file(name, "dev", args), "epochs": epochs, "lr": lr},
        **{"batch-size": setup.batch_size, "seed": 0},
        **{"threads": args.threads, "out": folder},
    }
    bertwright(["finetune", *options(values), *methods], args.threads)


def data_file(name: str, split: str, args: argparse.Namespace) -> Path:
    return args.data_dir / name / f"{split}.jsonl"


def exported(
    label: str,
    model: Path,
    spec: str,
    more: Mapping[str, object],
    name: str,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Export a model and judge what came out; a refusal is a result too."""
    out = model.parent / label
    engine, _, precision = spec.partition(":")
    values = {
        **{"model": model, "format": FORMATS[engine], "precision": precision, "out": out},
        **{"data": data_file(name, SETUPS[name].train, args)},
        **{"eval-data": data_file(name, "dev", args), "threads": args.threads},
        **more,
    }
    if not (out / "artifact.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        try:
            bertwright(["export", *options(values)], args.threads)
        except subprocess.CalledProcessError:
            return {"name": label, "refused": True}
    artifact = read_json(out / "artifact.json")
    spared = artifact.get("kept_in_high_precision", [])
    return {**judged(label, out, name, args), "spared": spared}


def judged(label: str, model: Path, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the score of a model or an exported folder on test."""
    values = {
        **{"model": model, "data": data_file(name, "test", args), "threads": args.threads},
        **{"repeats": 1, "latency-rows": 1, "speed-rows": 100},
    }
    found: Mapping[str, Any] = json.loads(
        bertwright(["evaluate", *options(values), "--json"], args.threads)
    )
    keys = ("primary", "score", "score_low", "score_high", "size_mb", "engine", "precision")
    return {"name": label, **{key: found[key] for key in keys}}


if __name__ == "__main__":
    main()
