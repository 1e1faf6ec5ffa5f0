"""Vocabularies trimmed to five whole sets: is every text split and scored as before?

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/trimmed_corpora.py --data-dir DIR

All splits of a set together, labels left out. English sets: MiniLM with a new head. Chinese sets:
two random layers above the vocabulary of BERT-base-chinese. `bertwright trim` compares the pieces
of every text and the scores of every text, bit for bit, and writes nothing unless all are equal.
Leaves `results/trimmed_corpora/SET.json`; what is there is not done again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from task_data import read_rows, write_rows
from transformers import BertConfig, BertModel, BertTokenizerFast

from bertwright import trim
from bertwright.evaluate.machine import machine, versions
from bertwright.files import write_json
from bertwright.models.build import build_task_model
from bertwright.models.task_model import TaskModel

RESULTS = Path(__file__).resolve().parent.parent / "results" / "trimmed_corpora"
SPLITS = {
    "sst2": ("train_sentences", "dev", "test"),
    "clinc150": ("train", "dev", "test"),
    "ag_news": ("train", "test"),
    "chnsenticorp_htl": ("train", "dev", "test"),
    "waimai_10k": ("train", "dev", "test"),
}
CHINESE = ("chnsenticorp_htl", "waimai_10k")
ALL_ROWS = 10**9


def make_model(name: str, data_dir: Path) -> TaskModel:
    """Return a two-class model that reads the set's language."""
    options: dict[str, Any] = {"task": "classify", "labels": ["no", "yes"], "max_length": 128}
    if name not in CHINESE:
        return build_task_model("minilm", **options)
    tokenizer = BertTokenizerFast(str(data_dir / "vocab/bert-base-chinese.txt"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=2,
        hidden_size=384,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    return build_task_model(BertModel(config), tokenizer=tokenizer, **options)


def run(name: str, data_dir: Path) -> dict[str, Any]:
    """Trim to all texts of a set, and return what was proved."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        splits = [read_rows(data_dir / name / f"{split}.jsonl") for split in SPLITS[name]]
        texts = [{"text": row["text"]} for rows in splits for row in rows]
        write_rows(folder / "texts.jsonl", texts)
        make_model(name, data_dir).save(folder / "whole")
        began = time.perf_counter()
        found = trim(
            model=str(folder / "whole"),
            data=(str(folder / "texts.jsonl"),),
            score_rows=ALL_ROWS,
            out=str(folder / "trimmed"),
        )
        seconds = time.perf_counter() - began
    return {
        **{"set": name, "texts": len(texts), "seconds": seconds},
        **{key: value for key, value in vars(found).items() if key != "out"},
        **{"machine": machine(), "versions": versions()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", choices=list(SPLITS), default=list(SPLITS))
    args = parser.parse_args()
    for name in args.sets:
        out = RESULTS / f"{name}.json"
        if not out.exists():
            write_json(out, run(name, args.data_dir))
            print(f"{name}: {out.read_text()[:300]}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
