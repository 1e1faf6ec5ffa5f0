"""Sentence embeddings with sentence-transformers' own trainer.

`--loss cosine`: the cosine of each pair against its score over 5 (CosineSimilarityLoss); `ranking`:
pairs scored at least 4 as positives (MultipleNegativesRankingLoss). Metrics are the correlations of
cosines and scores. The seconds are the trainer's own; it tokenises as it goes, so that is in
them.
"""

from __future__ import annotations

import argparse
import tempfile

from datasets import Dataset
from plain import common
from scipy.stats import pearsonr, spearmanr
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import (
    CosineSimilarityLoss,
    MultipleNegativesRankingLoss,
)

MOST_SCORE = 5.0
POSITIVE_SCORE = 4.0


def training_pairs(rows: list[dict], loss: str) -> Dataset:
    if loss == "ranking":
        kept = [r for r in rows if r["label"] >= POSITIVE_SCORE]
        return Dataset.from_dict(
            {"anchor": [r["text"] for r in kept], "positive": [r["text_b"] for r in kept]}
        )
    columns = {name: [r[name] for r in rows] for name in ("text", "text_b")}
    return Dataset.from_dict(columns | {"label": [r["label"] / MOST_SCORE for r in rows]})


def count_tokens(pairs: Dataset, tokenizer, args: argparse.Namespace) -> int:
    """Return the tokens of training, padding not counted."""
    texts = [text for name in pairs.column_names[:2] for text in pairs[name]]
    ids = tokenizer(texts, truncation=True, max_length=args.max_length)["input_ids"]
    whole = args.epochs * sum(map(len, ids))
    steps = args.epochs * -(-len(pairs) // args.batch_size)
    return whole if not args.max_steps else round(whole * min(1, args.max_steps / steps))


def score(model: SentenceTransformer, rows: list[dict]) -> dict[str, float]:
    first, second = (
        model.encode(
            [row[name] for row in rows],
            normalize_embeddings=True,
            batch_size=common.EVAL_BATCH,
            show_progress_bar=False,
        )
        for name in ("text", "text_b")
    )
    cosines, gold = (first * second).sum(axis=1), [row["label"] for row in rows]
    return {
        "spearman": float(spearmanr(cosines, gold).statistic),
        "pearson": float(pearsonr(cosines, gold).statistic),
    }


def main(args: argparse.Namespace) -> None:
    source, splits = common.start(args)
    model = SentenceTransformer(source, device="cpu")
    model.max_seq_length = args.max_length
    pairs = training_pairs(splits["train"], args.loss)
    untrained = score(model, splits["test"])
    losses = {"cosine": CosineSimilarityLoss, "ranking": MultipleNegativesRankingLoss}
    with tempfile.TemporaryDirectory() as folder:
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(**common.trainer_options(args, folder)),
            train_dataset=pairs,
            loss=losses[args.loss](model),
        )
        trained = trainer.train()
    timing = {
        "train_seconds": trained.metrics["train_runtime"],
        "train_tokens": count_tokens(pairs, model.tokenizer, args),
    }
    metrics = {split: score(model, splits[split]) for split in common.SPLITS[1:]}
    metrics["test before training"] = untrained
    common.finish(
        args,
        "embed",
        timing,
        metrics,
        library="sentence-transformers",
        more={"loss": args.loss, "num_pairs": len(pairs)},
    )
