"""Every method's result, of every family: saved, loaded, exported to each engine, compared.

    PYTHONPATH=tests python -m methods.round_trips --out results/round_trips.json

Tiny random models (4 layers of width 32), each method as `test_settings` runs it, two steps where
it trains. What was saved is loaded and compared bit for bit; then it is exported to fp32 for ONNX
Runtime and OpenVINO and its logits are compared with torch's on padded rows, single rows and single
tokens; and stock `transformers` loads what a configuration can say. What a family cannot do is
refused, and the reason is written down.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from bertwright.engines.compile import compile_model
from bertwright.errors import BertwrightError
from bertwright.evaluate.machine import machine, versions
from bertwright.files import read_json, write_json
from bertwright.models.export import export_transformers
from bertwright.models.task_model import TaskModel
from methods.cases import inputs_of, some_batch, tiny_rows
from methods.settings import SETTINGS
from methods.test_settings import run_method
from tiny import FAMILY_NAMES

ENGINES = ("onnxruntime", "openvino")
SIMULATED = ("int8_ptq",)
"""They round at each call; what an engine stores is not their result."""


def try_round_trip(name: str, family: str, folder: Path) -> dict[str, Any]:
    """Return what became of a method's result, or why the family refuses the method."""
    try:
        model = run_method(name, folder / "run", family=family, max_steps=2).eval()
    except BertwrightError as error:
        return {"refused": error.message}
    batch = inputs_of(some_batch(tiny_rows(model)))
    model.save(folder / "model")
    with torch.no_grad():
        logits = model(**batch).logits
        again = TaskModel.load(folder / "model")(**batch).logits
    found: dict[str, Any] = {
        "finite": bool(logits.isfinite().all()),
        "max_logit": float(logits.abs().max()),
        "loaded_equal": bool(torch.equal(again, logits)),
        "stock": _stock(model, batch, logits, folder / "stock"),
    }
    for engine in ENGINES:
        found[engine] = _exported(folder / "model", engine, folder / engine, model)
    return found


def _stock(
    model: TaskModel, batch: dict[str, Any], logits: torch.Tensor, folder: Path
) -> dict[str, Any]:
    try:
        export_transformers(model, folder)
    except BertwrightError as error:
        return {"refused": error.message}
    stock = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    if model.roles.cls_at_end:
        batch = _padded_on_the_left(batch)
    with torch.no_grad():
        return {"max_abs": float((stock(**batch).logits - logits).abs().max())}


def _padded_on_the_left(batch: dict[str, Any]) -> dict[str, Any]:
    """Return the batch as tokenizers of families give it that read the last token."""
    pads = (batch["attention_mask"] == 0).sum(dim=1).tolist()
    return {
        name: torch.stack([row.roll(shift) for row, shift in zip(rows, pads, strict=True)])
        for name, rows in batch.items()
    }


def _exported(place: Path, engine: str, out: Path, model: TaskModel) -> dict[str, Any]:
    try:
        artifact = compile_model(place, f"{engine}:fp32", out, parity=tiny_rows(model, seed=3))
    except BertwrightError as error:
        return {"refused": error.message}
    return {"max_abs": artifact.parity["max_abs"], "max_logit": artifact.parity["max_logit"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--families", nargs="*", choices=FAMILY_NAMES, default=list(FAMILY_NAMES))
    args = parser.parse_args()
    found = read_json(args.out)["found"] if args.out.exists() else {}
    for family in args.families:
        for name in SETTINGS:
            done = found.setdefault(name, {})
            if family in done or name in SIMULATED:
                continue
            with tempfile.TemporaryDirectory() as folder:
                done[family] = try_round_trip(name, family, Path(folder))
            print(f"{family} {name}: {done[family]}", file=sys.stderr, flush=True)
            write_json(args.out, {"found": found, "machine": machine(), "versions": versions()})


if __name__ == "__main__":
    main()
