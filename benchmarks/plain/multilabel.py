"""Several labels a text: AutoModelForSequenceClassification, a sigmoid a label, cut at 0.5."""

from __future__ import annotations

import argparse

import numpy as np
from plain import common
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def main(args: argparse.Namespace) -> None:
    source, splits = common.start(args)
    tokenizer = AutoTokenizer.from_pretrained(source)
    names = sorted({name for row in splits["train"] for name in row["label"]})
    features = {s: common.encode_texts(r, tokenizer, args.max_length) for s, r in splits.items()}
    labels = {
        split: np.array([[name in row["label"] for name in names] for row in rows], np.float32)
        for split, rows in splits.items()
    }
    train = [{**f, "labels": y} for f, y in zip(features["train"], labels["train"], strict=True)]
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=len(names), problem_type="multi_label_classification"
    )
    pad_id = tokenizer.pad_token_id
    timing = common.fit(model, train, args, pad_id)
    metrics = {}
    for split in common.SPLITS[1:]:
        answers = np.array(common.predict(model, features[split], pad_id)) > 0
        gold = labels[split].astype(bool)
        metrics[split] = {
            "micro_f1": float(f1_score(gold, answers, average="micro", zero_division=0)),
            "macro_f1": float(f1_score(gold, answers, average="macro", zero_division=0)),
            "subset_accuracy": float((answers == gold).all(axis=1).mean()),
        }
    common.finish(args, "multilabel", timing, metrics)
