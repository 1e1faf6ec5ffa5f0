"""Candidates of a query with sentence-transformers' CrossEncoder and its list loss.

A batch is so many queries with all their candidates. The seconds are the trainer's own; it
tokenises as it goes, so that is in them. Before the training, the same candidates are ranked by
the cosines of MiniLM's own embeddings: what a bi-encoder does without any training.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
from datasets import Dataset
from plain import common
from sentence_transformers import SentenceTransformer
from sentence_transformers.cross_encoder import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
)
from sentence_transformers.cross_encoder.losses import ListNetLoss


def ranking_scores(rows: list[dict], rank: Callable[[dict], Sequence[float]]) -> dict[str, float]:
    """Return the mean reciprocal rank of the first relevant candidate, and the share of firsts."""
    reciprocals = []
    for row in rows:
        relevance = np.array(row["relevance"])[np.argsort(-np.asarray(rank(row)), kind="stable")]
        reciprocals.append(1 / (1 + int(np.flatnonzero(relevance)[0])))
    return {
        "mrr": float(np.mean(reciprocals)),
        "hits_at_1": float(np.mean([value == 1 for value in reciprocals])),
    }


def cosines(source: str, args: argparse.Namespace) -> Callable[[dict], np.ndarray]:
    model = SentenceTransformer(source, device="cpu")
    model.max_seq_length = args.max_length

    def rank(row: dict) -> np.ndarray:
        texts = [row["query"], *row["candidates"]]
        vectors = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return vectors[1:] @ vectors[0]

    return rank


def training_lists(rows: list[dict]) -> Dataset:
    columns = {"query": "query", "docs": "candidates", "labels": "relevance"}
    return Dataset.from_dict({name: [row[key] for row in rows] for name, key in columns.items()})


def count_tokens(rows: list[dict], tokenizer, args: argparse.Namespace) -> int:
    """Return the tokens of training, padding not counted."""
    pairs = [(row["query"], text) for row in rows for text in row["candidates"]]
    queries, texts = zip(*pairs, strict=True)
    ids = tokenizer(list(queries), list(texts), truncation=True, max_length=args.max_length)
    steps = args.epochs * -(-len(rows) // args.batch_size)
    done = min(1.0, args.max_steps / steps) if args.max_steps else 1.0
    return round(done * args.epochs * sum(map(len, ids["input_ids"])))


def main(args: argparse.Namespace) -> None:
    source, splits = common.start(args)
    untrained = ranking_scores(splits["test"], cosines(source, args))
    model = CrossEncoder(source, num_labels=1, max_length=args.max_length, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        trainer = CrossEncoderTrainer(
            model=model,
            args=CrossEncoderTrainingArguments(**common.trainer_options(args, folder)),
            train_dataset=training_lists(splits["train"]),
            loss=ListNetLoss(model, mini_batch_size=-1),
        )
        trained = trainer.train()
    timing = {
        "train_seconds": trained.metrics["train_runtime"],
        "train_tokens": count_tokens(splits["train"], model.tokenizer, args),
    }

    def rank(row: dict) -> np.ndarray:
        pairs = [(row["query"], text) for text in row["candidates"]]
        return model.predict(pairs, show_progress_bar=False)

    metrics = {split: ranking_scores(splits[split], rank) for split in common.SPLITS[1:]}
    metrics["test by cosines before training"] = untrained
    common.finish(args, "rerank", timing, metrics, library="sentence-transformers")
