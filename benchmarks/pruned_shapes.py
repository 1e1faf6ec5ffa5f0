"""How much faster a pruned BERT-base really is: heads, neurons, layers or pieces taken out.

    .venv/bin/python benchmarks/pruned_shapes.py --threads 2

BERT-base shapes with random weights; 25, 50 and 75% of one kind taken out, saved, loaded again and
run by torch, ONNX Runtime and OpenVINO in fp32 beside the whole model, each in a process of its
own, in turn, on the same texts of 128 tokens: one by one (latency) and in batches (throughput).
Beside the speed-up stands what the floating-point operations promise. The pooling is the mean,
which needs every token of the last layer. Models and graphs (10 GB) stay in the work folder
(`--prepare` makes them and leaves the measurement for later, when the machine is quiet). Writes
`results/pruned_shapes/KIND-ENGINE.json`; what is there is not done again.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import asdict
from pathlib import Path

from transformers import BertConfig, BertModel

from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.engines.compile import compile_model
from bertwright.evaluate.machine import machine, versions
from bertwright.evaluate.measure import Target, measure_targets
from bertwright.files import write_json
from bertwright.methods.distil.student_init import choose_layers
from bertwright.methods.prune.vocabulary import VocabularyTrimming, VocabularyTrimmingConfig
from bertwright.models.build import build_task_model, copy_with_layers, copy_with_widths
from bertwright.models.encoder import load_tokenizer
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.models.widths import widths_of

RESULTS = Path(__file__).resolve().parent.parent / "results" / "pruned_shapes"
KINDS = ("heads", "neurons", "layers", "vocabulary")
ENGINES = ("torch", "onnxruntime", "openvino")
LENGTH, TEXTS = 128, 16
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
        config=ModelConfig(pooling="mean"),
        tokenizer=tokenizer,
        max_length=LENGTH,
    )


def pruned(model: TaskModel, kind: str, taken: int) -> TaskModel:
    """Return the model without so many percent of its heads, neurons, layers or pieces."""
    depth, share = model.roles.num_layers, 1 - taken / 100
    if kind == "vocabulary":
        pieces = model.encoder.config.vocab_size
        trimming = VocabularyTrimming(VocabularyTrimmingConfig(at_least=round(share * pieces)))
        rows = load_rows([{"text": text} for text in make_texts()], need_label=False)
        return trimming.apply(model, tokenise(rows, model.tokenizer, max_length=LENGTH))
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


def artifact_of(kind: str, engine: str, taken: int, args: argparse.Namespace) -> Path:
    """Return the folder of a shape in an engine, made where it is not there yet."""
    home = args.work_dir / (kind if taken else "whole")
    folder = home / f"{taken}-torch"
    if not folder.exists():
        pruned(make_model(args.layers), kind, taken).save(folder)
    if engine == "torch":
        return folder
    place = home / f"{taken}-{engine}"
    if not place.exists():
        compile_model(folder, f"{engine}:fp32", place, threads=args.threads)
    return place


def measure(kind: str, engine: str, args: argparse.Namespace) -> None:
    """Measure one kind in one engine, and write what came out."""
    targets, facts = [], {}
    for taken in TAKEN:
        place = artifact_of(kind, engine, taken, args)
        targets.append(Target(name=f"{taken}%", path=place, spec=f"{engine}:fp32"))
        facts[taken] = flops_per_token(TaskModel.load(artifact_of(kind, "torch", taken, args)))
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
        for taken, one in zip(TAKEN, measured, strict=True)
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
    parser.add_argument("--work-dir", type=Path, default=Path("runs/pruned_shapes"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--latency-rows", type=int, default=16)
    parser.add_argument("--prepare", action="store_true", help="make the models, measure nothing")
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        for engine in ENGINES:
            if (RESULTS / f"{kind}-{engine}.json").exists():
                continue
            for taken in TAKEN:
                artifact_of(kind, engine, taken, args)
            if not args.prepare:
                measure(kind, engine, args)


if __name__ == "__main__":
    main()
