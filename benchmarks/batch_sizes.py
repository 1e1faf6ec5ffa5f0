"""How large a batch should be: throughput by most tokens and most rows of one.

    .venv/bin/python benchmarks/batch_sizes.py --threads 2 --data-dir DIR

The first two layers of MiniLM with a new head answer a thousand texts of clinc150, sst2 and ag_news
(about 10, 25 and 50 tokens), text in, label out, in each engine. All sizes of an engine are
measured in one process, in turn, beside the one that was the default; medians count. Nothing else
may run meanwhile. Writes `results/batch_sizes/ENGINE-PRECISION.json`.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from task_data import read_rows

from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.engines.compile import compile_model
from bertwright.engines.predictor import Predictor
from bertwright.evaluate.machine import machine, versions
from bertwright.files import write_json
from bertwright.models.build import build_task_model, copy_with_layers
from bertwright.models.encoder import load_tokenizer

RESULTS = Path(__file__).resolve().parent.parent / "results" / "batch_sizes"
SPECS = ("openvino:int8", "openvino:fp32", "onnxruntime:int8", "onnxruntime:fp32", "torch:fp32")
SETS = ("clinc150", "sst2", "ag_news")
SIZES = ((1024, 32), (1024, 64), (1024, 128), (2048, 64), (2048, 128), (4096, 128))
"""Most tokens, padding counted, and most rows; the first is what the others stand beside."""
NUM_TEXTS = 1000
LAYERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--specs", nargs="*", choices=SPECS, default=SPECS)
    parser.add_argument("--one", choices=SPECS, help="measure it in this very process")
    args = parser.parse_args()
    if args.one:
        measure(args, args.one)
        return
    for spec in args.specs:
        if not place_of(spec).exists():
            print(spec, file=sys.stderr, flush=True)
            subprocess.run([sys.executable, *sys.argv, "--one", spec], check=True)


def place_of(spec: str) -> Path:
    return RESULTS / f"{spec.replace(':', '-')}.json"


def texts_of(data: Path, name: str) -> list[str]:
    rows = read_rows(data / name / "test.jsonl")
    return [row["text"] for row in random.Random(0).sample(rows, NUM_TEXTS)]


def measure(args: argparse.Namespace, spec: str) -> None:
    """Measure all sizes of one engine, and write what was found."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        for name in SETS:
            texts = texts_of(args.data_dir, name)
            place = compiled(home / name, spec, texts, args.threads)
            predictors = {
                size: Predictor(
                    place, spec=spec, threads=args.threads, batch_tokens=size[0], batch_size=size[1]
                )
                for size in SIZES
            }
            seconds = in_turn(predictors, texts, args.repeats)
            tokens = predictors[SIZES[0]].count_tokens({"text": texts})
            for size, times in seconds.items():
                rate = len(texts) / statistics.median(times)
                print(f"  {name} {size}: {rate:,.0f} texts/s", file=sys.stderr, flush=True)
                found.append(
                    {
                        **{"set": name, "batch_tokens": size[0], "batch_size": size[1]},
                        **{"throughput_texts_s": rate, "seconds": times},
                        **{"tokens_a_text": tokens / len(texts)},
                    }
                )
            for predictor in predictors.values():
                predictor.close()
    facts = {"spec": spec, "layers": LAYERS, "texts": NUM_TEXTS, "threads": args.threads}
    write_json(
        place_of(spec), {**facts, "rows": found, "machine": machine(), "versions": versions()}
    )


def compiled(home: Path, spec: str, texts: list[str], threads: int) -> Path:
    """Return the folder of the model in an engine; int8's ranges are of these texts."""
    whole = build_task_model(
        "minilm", task="classify", labels=["no", "yes"], tokenizer=load_tokenizer("minilm")
    )
    model = copy_with_layers(whole, range(LAYERS))
    model.save(home / "model")
    rows = tokenise(
        load_rows([{"text": text} for text in texts], need_label=False), model.tokenizer
    )
    place = home / "artifact"
    compile_model(
        home / "model",
        spec,
        place,
        calibration=rows.select(range(300)),
        tolerance_points=1000,
        threads=threads,
    )
    return place


def in_turn(
    predictors: dict[tuple[int, int], Predictor], texts: list[str], repeats: int
) -> dict[tuple[int, int], list[float]]:
    """Return the seconds of each size, round after round; a first round is thrown away."""
    seconds: dict[tuple[int, int], list[float]] = {size: [] for size in predictors}
    for turn in range(repeats + 1):
        order = list(predictors)
        for size in order[turn % len(order) :] + order[: turn % len(order)]:
            began = time.perf_counter()
            predictors[size].predict(texts)
            if turn:
                seconds[size].append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    main()
