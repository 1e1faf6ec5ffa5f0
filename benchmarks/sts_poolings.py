"""Frozen vectors of MiniLM on the STS sets of 2012 to 2016: Spearman by year and pooling.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/sts_poolings.py --threads 2 --data-dir DIR

One pass of the encoder for all poolings that need no training, after all layers and, of the mean
and the classification token, after each. `words` is the mean of the word embeddings below the
first layer: what a sum of word vectors knows (the cosine of sum and mean is the same), and with
the weights of tfidf and sif. All pairs of a year count together. The weights of words are fitted
to the texts themselves, without scores. Writes `results/sts_poolings.json`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from task_data import read_rows

from bertwright.data.load import load_rows
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.evaluate.machine import machine, versions
from bertwright.evaluate.measure import model_folder
from bertwright.features.extract import Extractor, Wanted
from bertwright.files import write_json
from bertwright.models.encoder import read_checkpoint_tensors
from bertwright.models.pooling.words import (
    idf_weights,
    main_direction,
    sif_weights,
    weightless_ids,
)
from bertwright.models.task_model import TaskModel
from bertwright.progress import Progress
from bertwright.tasks import find_task
from bertwright.training.precision import using_threads

OUT = Path(__file__).resolve().parent.parent / "results" / "sts_poolings.json"
POOLINGS = (
    *("cls", "pooler", "mean", "max", "mean-max", "tfidf", "sif"),
    *("cls-layer", "concat-last", "weighted-layers", "wk", "wk:1", "wk:2", "wk:3"),
)
BY_LAYER = ("mean", "cls")


def encode(model: TaskModel, texts: list[str]) -> EncodedRows:
    task = find_task("classify")
    rows = load_rows([{"text": text} for text in texts], schema=task.schema, need_label=False)
    return tokenise(rows, model.tokenizer, encoder=task.encoder, max_length=128)


def word_vectors(model: TaskModel, encoded: EncodedRows) -> dict[str, np.ndarray]:
    """Return means of the word embeddings of each text, plain and weighted."""
    table = model.encoder.get_input_embeddings().weight.detach().numpy()
    texts = encoded.tokens(np.arange(len(encoded)))
    special = sorted(weightless_ids(model.tokenizer))
    texts = [ids[~np.isin(ids, special)] for ids in texts]
    weights = {
        "words": np.ones(len(table), np.float32),
        "words, tfidf": idf_weights(texts, len(table)),
        "words, sif": sif_weights(texts, len(table)),
    }
    found = {
        name: np.stack([mean_of(table[ids], weight[ids]) for ids in texts])
        for name, weight in weights.items()
    }
    direction = main_direction(found["words, sif"])
    found["words, sif"] -= np.outer(found["words, sif"] @ direction, direction)
    return found


def mean_of(vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted mean of vectors [n, D]; zeros of none."""
    return weights @ vectors / max(float(weights.sum()), 1e-9)


def spearman_by_year(
    vectors: np.ndarray, pairs: np.ndarray, scores: np.ndarray, years: np.ndarray
) -> dict[str, float]:
    """Return the correlation of cosines and scores of each year, and the years' mean."""
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = (units[pairs[:, 0]] * units[pairs[:, 1]]).sum(axis=1)
    found = {
        str(year): float(spearmanr(cosines[years == year], scores[years == year]).statistic)
        for year in np.unique(years).tolist()
    }
    return {**found, "mean": float(np.mean(list(found.values())))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-rows", type=int, help="to try it; nothing is written")
    args = parser.parse_args()
    rows = read_rows(args.data_dir / "sts12_16" / "test.jsonl")[: args.max_rows]
    texts = sorted({row[name] for row in rows for name in ("text", "text_b")})
    places = {text: place for place, text in enumerate(texts)}
    pairs = np.array([[places[row["text"]], places[row["text_b"]]] for row in rows])
    scores = np.array([row["label"] for row in rows])
    years = np.array([row["year"] for row in rows])
    folder = model_folder("minilm")
    model = TaskModel.load(folder)
    wanted = [Wanted(pooling=pooling) for pooling in POOLINGS]
    depth = model.roles.num_layers
    wanted += [Wanted(pooling=p, layer=k) for p in BY_LAYER for k in range(1, depth)]
    extractor = Extractor(
        model, wanted, read=lambda names: read_checkpoint_tensors("minilm", names)
    )
    encoded = encode(model, texts)
    with using_threads(args.threads):
        extractor.fit(encoded)
        parts: list[dict[str, np.ndarray]] = []
        with Progress("embed", total=len(encoded), unit="texts") as bar:
            for part in extractor.chunks(encoded):
                parts.append(part)
                bar.advance(len(next(iter(part.values()))))
    vectors = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    found = {
        name: spearman_by_year(matrix, pairs, scores, years)
        for name, matrix in (word_vectors(model, encoded) | vectors).items()
    }
    for name, by_year in found.items():
        print(f"{name:18} {100 * by_year['mean']:.2f}", file=sys.stderr)
    if args.max_rows is None:
        write_json(
            OUT,
            {
                "what": "Spearman of cosines and scores, MiniLM frozen, pairs of a year together",
                **{"num_pairs": len(rows), "num_texts": len(texts), "spearman": found},
                **{"machine": machine(), "versions": versions()},
            },
        )


if __name__ == "__main__":
    main()
