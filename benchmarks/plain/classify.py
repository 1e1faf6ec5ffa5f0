"""One label for a text or a pair of texts: AutoModelForSequenceClassification."""

from __future__ import annotations

import argparse

import numpy as np
from plain import common
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def run(args: argparse.Namespace) -> tuple[dict, dict]:
    """Train; return seconds and tokens, and accuracy and macro-F1 of dev and test."""
    source, splits = common.start(args)
    tokenizer = AutoTokenizer.from_pretrained(source)
    names = sorted({row["label"] for row in splits["train"]})
    features = {s: common.encode_texts(r, tokenizer, args.max_length) for s, r in splits.items()}
    labels = {s: [names.index(row["label"]) for row in rows] for s, rows in splits.items()}
    train = [{**f, "labels": y} for f, y in zip(features["train"], labels["train"], strict=True)]
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=len(names))
    pad_id = tokenizer.pad_token_id
    timing = common.fit(model, train, args, pad_id)
    metrics = {}
    for split in common.SPLITS[1:]:
        answers = np.array(common.predict(model, features[split], pad_id)).argmax(-1)
        metrics[split] = {
            "accuracy": float((answers == np.array(labels[split])).mean()),
            "macro_f1": float(f1_score(labels[split], answers, average="macro")),
        }
    return timing, metrics


def main(args: argparse.Namespace) -> None:
    timing, metrics = run(args)
    common.finish(args, "classify", timing, metrics)
