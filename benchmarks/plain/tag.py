"""Entities: AutoModelForTokenClassification, a tag for each word's first piece, F1 by seqeval.

Words beyond the cut at `--max-length` are answered with O.
"""

from __future__ import annotations

import argparse

from plain import common
from seqeval.metrics import f1_score, precision_score, recall_score
from transformers import AutoModelForTokenClassification, AutoTokenizer


def encode(rows: list[dict], tokenizer, max_length: int) -> tuple[list[dict], list[list[int]]]:
    """Return features, and for each row the place of each word's first piece (-1: it has none)."""
    encoded = tokenizer(
        [row["tokens"] for row in rows],
        is_split_into_words=True,
        truncation=True,
        max_length=max_length,
    )
    features, places = [], []
    for i, row in enumerate(rows):
        first: dict[int, int] = {}
        for place, word in enumerate(encoded.word_ids(i)):
            if word is not None:
                first.setdefault(word, place)
        places.append([first.get(word, -1) for word in range(len(row["tokens"]))])
        features.append({k: encoded[k][i] for k in ("input_ids", "token_type_ids")})
    return features, places


def main(args: argparse.Namespace) -> None:
    source, splits = common.start(args)
    tokenizer = AutoTokenizer.from_pretrained(source)
    names = sorted({tag for row in splits["train"] for tag in row["tags"]})
    encoded = {s: encode(rows, tokenizer, args.max_length) for s, rows in splits.items()}
    train = []
    for feature, places, row in zip(*encoded["train"], splits["train"], strict=True):
        labels = [common.IGNORED] * len(feature["input_ids"])
        for place, tag in zip(places, row["tags"], strict=True):
            if place >= 0:
                labels[place] = names.index(tag)
        train.append({**feature, "labels": labels})
    model = AutoModelForTokenClassification.from_pretrained(source, num_labels=len(names))
    pad_id = tokenizer.pad_token_id
    timing = common.fit(model, train, args, pad_id)
    metrics = {}
    for split in common.SPLITS[1:]:
        features, places = encoded[split]
        logits = common.predict(model, features, pad_id)
        answers = [
            [names[tags[p].argmax()] if p >= 0 else "O" for p in row]
            for tags, row in zip(logits, places, strict=True)
        ]
        gold = [row["tags"] for row in splits[split]]
        metrics[split] = {
            name: float(score(gold, answers))
            for name, score in (
                ("precision", precision_score),
                ("recall", recall_score),
                ("f1", f1_score),
            )
        }
    common.finish(args, "tag", timing, metrics)
