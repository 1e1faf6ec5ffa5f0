"""How far the latency table is off: 30 random sizes of MiniLM, priced and measured, each engine.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/price_errors.py --threads 2 --data-dir DIR

MiniLM with a new head for clinc150. Sizes are drawn at random: 1 to 6 layers, and in all of them
the same heads and neurons of a few. Their prices come from the table
(`bertwright.compress.pricing`); then they are cut, compiled without a check of their answers, and
measured beside each other in processes of their own, text in, label out: throughput on 1,000 texts
of dev, latency on 100 single ones. Writes `results/price_errors/ENGINE-PRECISION.json`; what is
there is not done again. For a quiet machine.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from task_data import read_rows

from bertwright.compress.latency_table import LayerShape, MeasuredModel
from bertwright.compress.pricing import PriceList, layers_of, make_price_list
from bertwright.compress.shape_worker import cut_model
from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.engines.compile import compile_model
from bertwright.evaluate.machine import machine, versions
from bertwright.evaluate.measure import Target, measure_targets
from bertwright.files import write_json
from bertwright.models.build import build_task_model
from bertwright.models.encoder import load_tokenizer
from bertwright.models.task_model import ModelConfig, TaskModel

RESULTS = Path(__file__).resolve().parent.parent / "results" / "price_errors"
SPECS = ("torch:fp32", "onnxruntime:fp32", "onnxruntime:int8", "openvino:fp32", "openvino:int8")
SIZES, TEXTS, TOGETHER = 30, 1000, 6
"""Random sizes, texts, and how many sizes are measured at once."""
DEPTHS, HEADS, NEURONS = range(1, 7), (3, 4, 6, 8, 9, 12), (192, 384, 512, 768, 1024, 1536)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/price_errors"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--specs", nargs="*", choices=SPECS, default=list(SPECS))
    args = parser.parse_args()
    whole = make_whole(args)
    for spec in args.specs:
        out = RESULTS / f"{spec.replace(':', '-')}.json"
        if not out.exists():
            write_json(out, errors_of(spec, whole, args))


def make_whole(args: argparse.Namespace) -> Path:
    """Return the folder of MiniLM with a new head."""
    folder = args.work_dir / "whole"
    if not folder.exists():
        labels = sorted({row["label"] for row in read_rows(args.data_dir / "clinc150/dev.jsonl")})
        build_task_model(
            "minilm",
            task="classify",
            labels=labels,
            config=ModelConfig(pooling="mean"),
            tokenizer=load_tokenizer("minilm"),
            max_length=64,
        ).save(folder)
    return folder


def draw_sizes(model: TaskModel) -> list[MeasuredModel]:
    """Return different sizes, drawn at random."""
    rng, drawn = random.Random(0), {}
    whole = layers_of(model)
    while len(drawn) < SIZES:
        shape = LayerShape(rng.choice(HEADS), rng.choice(NEURONS))
        drawn[MeasuredModel(rng.choice(DEPTHS), shape)] = None
    assert whole[0] == LayerShape(max(HEADS), max(NEURONS)) and len(whole) == max(DEPTHS)
    return list(drawn)


def errors_of(spec: str, whole: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Price and measure all sizes in one engine."""
    model = TaskModel.load(whole)
    texts = [row["text"] for row in read_rows(args.data_dir / "clinc150" / "dev.jsonl")][:TEXTS]
    encoded = tokenise(
        load_rows([{"text": text} for text in texts], need_label=False),
        model.tokenizer,
        max_length=model.max_length,
    )
    options: dict[str, Any] = {"threads": args.threads, "rounds": args.rounds}
    prices = make_price_list(whole, spec, {"text": texts}, encoded.lengths, **options)
    sizes, rows = draw_sizes(model), []
    for start in range(0, len(sizes), TOGETHER):
        some, targets = sizes[start : start + TOGETHER], []
        for size in some:
            name = f"{size.layers}L-{size.shape.heads}h-{size.shape.neurons}n"
            folder = args.work_dir / spec.replace(":", "-") / name
            if not folder.exists():
                plain = folder.with_name(f"{name}-torch")
                shutil.rmtree(plain, ignore_errors=True)
                cut_model(model, size).save(plain)
                compile_model(
                    plain, spec, folder, calibration=encoded.select(range(8)), tolerance_points=1000
                )
            targets.append(Target(name=name, path=folder, spec=spec))
        measured = measure_targets(
            targets,
            {"text": texts},
            threads=args.threads,
            repeats=args.rounds,
            latency_rows=100,
        )
        rows += [
            compared(size, prices, vars(one)) for size, one in zip(some, measured, strict=True)
        ]
    errors = [abs(row[f"{what}_error"]) for row in rows for what in ("throughput", "latency")]
    print(f"{spec}: median {np.median(errors):.3f}, most {max(errors):.3f}", file=sys.stderr)
    return {
        **{"spec": spec, "rows": rows, "threads": args.threads},
        **{"machine": machine(), "versions": versions()},
    }


def compared(size: MeasuredModel, prices: PriceList, found: dict[str, Any]) -> dict[str, Any]:
    """Return what was priced beside what was measured."""
    layers = [size.shape] * size.layers
    throughput, latency = prices.throughput_texts_s(layers), prices.latency_p50_ms(layers)
    return {
        **{"layers": size.layers, **vars(size.shape)},
        **{"throughput_priced": throughput, "throughput": found["throughput_texts_s"]},
        "throughput_error": throughput / found["throughput_texts_s"] - 1,
        **{"latency_priced": latency, "latency": found["latency_p50_ms"]},
        "latency_error": latency / found["latency_p50_ms"] - 1,
    }


if __name__ == "__main__":
    main()
