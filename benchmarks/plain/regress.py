"""A number for a text or a pair of texts: one output, squared error of standardised targets."""

from __future__ import annotations

import argparse

import numpy as np
from plain import common
from scipy.stats import pearsonr, spearmanr
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def main(args: argparse.Namespace) -> None:
    source, splits = common.start(args)
    tokenizer = AutoTokenizer.from_pretrained(source)
    features = {s: common.encode_texts(r, tokenizer, args.max_length) for s, r in splits.items()}
    targets = {s: np.array([float(row["label"]) for row in r]) for s, r in splits.items()}
    mean, spread = targets["train"].mean(), targets["train"].std()
    standard = ((targets["train"] - mean) / spread).tolist()
    train = [{**f, "labels": y} for f, y in zip(features["train"], standard, strict=True)]
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=1, problem_type="regression"
    )
    pad_id = tokenizer.pad_token_id
    timing = common.fit(model, train, args, pad_id)
    metrics = {}
    for split in common.SPLITS[1:]:
        answers = np.array(common.predict(model, features[split], pad_id))[:, 0] * spread + mean
        error = answers - targets[split]
        metrics[split] = {
            "rmse": float(np.sqrt((error**2).mean())),
            "mae": float(np.abs(error).mean()),
            "pearson": float(pearsonr(answers, targets[split]).statistic),
            "spearman": float(spearmanr(answers, targets[split]).statistic),
        }
    common.finish(args, "regress", timing, metrics)
