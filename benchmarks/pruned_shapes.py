"""How much faster a pruned BERT-base really is: heads, neurons or layers taken out, by engine.

    .venv/bin/python benchmarks/pruned_shapes.py --threads 2

BERT-base shapes with random weights; 25, 50 and 75% of one kind taken out, saved, loaded again and
run by torch, ONNX Runtime and OpenVINO in fp32 beside the whole model, each in a process of its
own, in turn, on the same texts of 128 tokens: one by one (latency) and in batches (throughput).
Beside the speed-up stands what the floating-point operations promise. Writes
`results/pruned_shapes/KIND-ENGINE.json`; what is there is not done again.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from dataclasses import asdict
from pathlib import Path

from transformers import BertConfig, BertModel

from bertwright.engines.compile import compile_model
from bertwright.evaluate.machine import machine, versions
from bertwright.evaluate.measure import Target, measure_targets
from bertwright.files import write_json
from bertwright.methods.distil.student_init import choose_layers
from bertwright.models.build import build_task_model, copy_with_layers, copy_with_widths
from bertwright.models.encoder import load_tokenizer
from bertwright.models.task_model import TaskModel
from bertwright.models.widths import widths_of

RESULTS = Path(__file__).resolve().parent.parent / "results" / "pruned_shapes"
KINDS = ("heads", "neurons", "layers")
ENGINES = ("torch", "onnxruntime", "openvino")
LENGTH, TEXTS = 128, 64
TAKEN = (0, 25, 50, 75)
"""Percent."""


def make_model(layers: int, seed: int = 0) -> TaskModel:
    """Return a classifier of BERT-base's width with random weights."""
    import torch

    torch.manual_seed(seed)
    config = BertConfig(num_hidden_layers=layers)
    tokenizer = load_tokenizer("minilm")
    return build_task_model(
        BertModel(config, add_pooling_layer=False),
        task="classify",
        labels=["no", "yes"],
        tokenizer=tokenizer,
        max_length=LENGTH,
    )


def pruned(model: TaskModel, kind: str, taken: int) -> TaskModel:
    """Return the model without so many percent of its heads, neurons or layers."""
    depth, share = model.roles.num_layers, 1 - taken / 100
    if kind == "layers":
        return copy_with_layers(model, choose_layers(depth, round(share * depth)))
    widths = widths_of(model.encoder)
    every = (widths.heads if kind == "heads" else widths.neurons) or ()
    kept = {i: range(round(share * count)) for i, count in enumerate(every)}
    return copy_with_widths(model, **{kind: kept})


def flops_per_token(model: TaskModel) -> float:
    """Return the floating-point operations of the layers for a token of a full text."""
    widths, config = widths_of(model.encoder), model.encoder.config
    total = 0.0
    for heads, neurons in zip(widths.heads or (), widths.neurons or (), strict=True):
        attended = heads * config.hidden_size // config.num_attention_heads
        total += 2 * attended * (4 * config.hidden_size + 2 * LENGTH)
        total += 4 * neurons * config.hidden_size
    return total


def make_texts() -> list[str]:
    """Return texts of 126 words, a piece each, drawn from the vocabulary."""
    tokenizer = load_tokenizer("minilm")
    assert tokenizer is not None
    words = [w for w in sorted(tokenizer.get_vocab()) if w.isalpha() and len(w) > 2]
    rng = random.Random(0)
    return [" ".join(rng.choices(words, k=LENGTH - 2)) for _ in range(TEXTS)]


def measure(kind: str, engine: str, models: dict[int, Path], args: argparse.Namespace) -> None:
    """Measure one kind in one engine, and write what came out."""
    targets, facts = [], {}
    for taken, folder in models.items():
        place = folder
        if engine != "torch":
            place = folder.parent / f"{folder.name}-{engine}"
            compile_model(folder, f"{engine}:fp32", place, threads=args.threads)
        targets.append(Target(name=f"{taken}%", path=place, spec=f"{engine}:fp32"))
        facts[taken] = flops_per_token(TaskModel.load(folder))
    measured = measure_targets(
        targets,
        {"text": make_texts()},
        threads=args.threads,
        repeats=args.repeats,
        latency_rows=args.latency_rows,
    )
    whole = measured[0]
    rows = [
        {
            "taken_percent": taken,
            "flops_ratio": facts[0] / facts[taken],
            "throughput_ratio": one.throughput_texts_s / whole.throughput_texts_s,
            "latency_ratio": whole.latency_p50_ms / one.latency_p50_ms,
            **asdict(one),
        }
        for taken, one in zip(models, measured, strict=True)
    ]
    write_json(
        RESULTS / f"{kind}-{engine}.json",
        {
            **{"kind": kind, "engine": engine, "precision": "fp32", "length": LENGTH},
            **{"rows": rows, "threads": args.threads},
            **{"machine": machine(), "versions": versions()},
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--latency-rows", type=int, default=20)
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        missing = [e for e in ENGINES if not (RESULTS / f"{kind}-{e}.json").exists()]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            model, models = make_model(args.layers), {}
            for taken in TAKEN:
                models[taken] = Path(temporary) / f"{kind}-{taken}"
                pruned(model, kind, taken).save(models[taken])
            for engine in missing:
                measure(kind, engine, models, args)


if __name__ == "__main__":
    main()
