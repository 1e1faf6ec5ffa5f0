"""Vectors of documents: topics, TF-IDF, BERT of the beginning, BERT in windows; one classifier.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/document_vectors.py --threads 2 --data-dir DIR

movie_reviews (documents of 750 words, sentiment) and ag_news (of 40 words, topic). Each vector is
judged by the same classifier (logistic regression, its penalty chosen by cross-validation), by the
five nearest neighbours (share of the same class) and by clusters (k-means, normalised mutual
information). Windows of 254 pieces overlap by 50; their means are weighted by the pieces that are
new in each. Writes `results/document_vectors/SET-VECTOR.json`, one at a time.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from task_data import read_rows

from bertwright.evaluate.machine import machine, versions
from bertwright.files import write_json
from bertwright.tasks.significance import bootstrap_interval

RESULTS = Path(__file__).resolve().parent.parent / "results" / "document_vectors"
SETS = {"movie_reviews": None, "ag_news": 4000}
"""Training rows that are used; None: all."""
TEST_ROWS = 2000
VECTORS = ("lda", "tfidf", "tfidf-svd", "bert", "bert-windows")
WINDOW, OVERLAP, FIRST = 254, 50, 254
TOPICS, SVD_WIDTH, FOLDS, NEIGHBOURS = 100, 300, 5, 5


def counts(train: Sequence[str], test: Sequence[str], kind: str) -> list[Any]:
    """Return vectors by counts of words, fitted to the training texts."""
    from sklearn.decomposition import LatentDirichletAllocation, TruncatedSVD
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    if kind == "lda":
        counter = CountVectorizer(min_df=2, max_df=0.5, stop_words="english")
        topics = LatentDirichletAllocation(
            TOPICS, learning_method="batch", max_iter=20, random_state=0
        )
        model = make_pipeline(counter, topics)
    else:
        words = TfidfVectorizer(min_df=2, sublinear_tf=True)
        svd = (TruncatedSVD(SVD_WIDTH, random_state=0),) if kind == "tfidf-svd" else ()
        model = make_pipeline(words, *svd)
    return [model.fit_transform(train), model.transform(test)]


class Reader:
    """MiniLM, asked for means of token states."""

    def __init__(self, threads: int) -> None:
        from bertwright.models.encoder import load_encoder

        torch.set_num_threads(threads)
        self.encoder, self.tokenizer = load_encoder("minilm")
        self.encoder.eval()

    def vectors(self, texts: Sequence[str], *, windows: bool) -> np.ndarray:
        """Return a vector a text: of its first pieces, or of all of them window by window."""
        pieces: list[list[int]] = []
        owners: list[int] = []
        news: list[int] = []
        for place, text in enumerate(texts):
            ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            step = WINDOW - OVERLAP
            last = max(len(ids) - OVERLAP, 1) if windows else 1
            for begin in range(0, last, step):
                pieces.append(ids[begin : begin + WINDOW])
                owners.append(place)
                news.append(len(pieces[-1]) - (OVERLAP if begin else 0))
        found = self._means(pieces)
        total = np.zeros((len(texts), found.shape[1]))
        weights = np.zeros(len(texts))
        np.add.at(total, owners, found * np.maximum(news, 1)[:, None])
        np.add.at(weights, owners, np.maximum(news, 1))
        return (total / weights[:, None]).astype(np.float32)

    @torch.no_grad()
    def _means(self, pieces: Sequence[list[int]]) -> np.ndarray:
        from bertwright.models.pooling.mean import mean_of_tokens

        tokenizer = self.tokenizer
        found = np.zeros((len(pieces), self.encoder.config.hidden_size), np.float32)
        order = np.argsort([-len(ids) for ids in pieces])
        for begin in range(0, len(order), 16):
            chosen = order[begin : begin + 16]
            ends = tokenizer.cls_token_id, tokenizer.sep_token_id
            rows = [[ends[0], *pieces[place], ends[1]] for place in chosen]
            length = max(map(len, rows))
            ids = torch.tensor(
                [row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows]
            )
            mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
            states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            found[chosen] = mean_of_tokens(states, mask).numpy()
        return found


def judge(
    x: Any, x_test: Any, y: np.ndarray, y_test: np.ndarray, num_classes: int
) -> dict[str, float]:
    """Return the scores of vectors."""
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import normalized_mutual_info_score
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler(with_mean=isinstance(x, np.ndarray))
    began = time.perf_counter()
    classifier = LogisticRegressionCV(
        Cs=np.logspace(-4, 1, 6),
        cv=FOLDS,
        max_iter=1000,
        use_legacy_attributes=False,
        l1_ratios=(0.0,),
        scoring="accuracy",
    ).fit(scaler.fit_transform(x), y)
    right = classifier.predict(scaler.transform(x_test)) == y_test
    fit_s = time.perf_counter() - began
    interval = bootstrap_interval(right.astype(float))
    near = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine", algorithm="brute").fit(x)
    found = near.kneighbors(x_test, return_distance=False)
    clusters = KMeans(num_classes, n_init=10, random_state=0).fit_predict(x_test)
    return {
        **{"accuracy": interval.score, "low": interval.low, "high": interval.high},
        "precision_at_5": float((y[found] == y_test[:, None]).mean()),
        "nmi": float(normalized_mutual_info_score(y_test, clusters)),
        "fit_s": fit_s,
    }


def measure(args: argparse.Namespace, name: str, kind: str) -> None:
    """Make the vectors of a set and judge them; a child process."""
    train = read_rows(args.data_dir / name / "train.jsonl")
    if SETS[name] is not None:
        order = np.random.default_rng(0).permutation(len(train))[: SETS[name]]
        train = [train[place] for place in order]
    test = read_rows(args.data_dir / name / "test.jsonl")[:TEST_ROWS]
    names = sorted({row["label"] for row in train})
    labels = [np.array([names.index(row["label"]) for row in part]) for part in (train, test)]
    texts = [[row["text"] for row in part] for part in (train, test)]
    began = time.perf_counter()
    if kind.startswith("bert"):
        reader = Reader(args.threads)
        vectors = [reader.vectors(part, windows=kind == "bert-windows") for part in texts]
    else:
        vectors = counts(*texts, kind)
    seconds = time.perf_counter() - began
    write_json(
        RESULTS / f"{name}-{kind}.json",
        {
            **{"set": name, "vector": kind, "width": int(vectors[0].shape[1])},
            **{"num_train": len(train), "num_test": len(test), "vectors_s": seconds},
            **judge(*vectors, *labels, len(names)),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            **{"threads": args.threads, "machine": machine(), "versions": versions()},
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        measure(args, *args.child)
        return
    for name in SETS:
        for kind in VECTORS:
            if not (RESULTS / f"{name}-{kind}.json").exists():
                print(name, kind, file=sys.stderr, flush=True)
                command = [sys.executable, __file__, "--data-dir", str(args.data_dir)]
                command += ["--threads", str(args.threads), "--child", name, kind]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
