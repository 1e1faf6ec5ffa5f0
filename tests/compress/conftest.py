from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from bertwright.compress.budget import Budget
from bertwright.compress.config import SearchConfig
from bertwright.compress.pipeline import SearchResult, SearchRows, search
from bertwright.data.load import load_rows
from bertwright.data.rows import Rows
from bertwright.data.tokenise import tokenise
from bertwright.models.build import build_task_model
from bertwright.tasks import find_task
from bertwright.training.config import TrainingConfig
from bertwright.training.loop import train
from tiny import tiny_encoder

WORDS = {"good": ("great", "fine", "love", "good"), "bad": ("bad", "poor", "hate", "never")}
OTHERS = ("the", "film", "book", "place", "dog", "house", "red", "small", "time", "day")
TRAINING = TrainingConfig(
    epochs=6, lr=3e-3, evals_per_epoch=1, precision="fp32", threads=1, max_length=16
)
SEARCH = SearchConfig(
    depths=(2,), engines=("torch",), precisions=("fp32",), repeats=1, latency_rows=4
)


def make_rows(count: int, seed: int, *, noise: float = 0.1) -> Rows:
    """Texts of which one word gives the label away; a share of the labels is wrong."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        label = ("good", "bad")[number % 2]
        words = rng.choices(OTHERS, k=rng.randint(2, 9))
        words.insert(rng.randrange(len(words)), rng.choice(WORDS[label]))
        if rng.random() < noise:
            label = rng.choice(("good", "bad"))
        rows.append({"text": " ".join(words), "label": label})
    return load_rows(rows)


@pytest.fixture(scope="session")
def rows() -> SearchRows:
    return SearchRows(make_rows(160, 0), make_rows(60, 1), make_rows(50, 2))


@pytest.fixture(scope="session")
def teacher_dir(tmp_path_factory, rows) -> Path:
    """A tiny teacher of 4 layers, trained for a moment, with its run's curve beside it."""
    base = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    encoder, tokenizer = tiny_encoder("bert")
    encoder.save_pretrained(base)
    tokenizer.save_pretrained(base)
    assert rows.train.labels is not None
    model = build_task_model(
        str(base), task="classify", labels=list(rows.train.labels.names), max_length=16
    )
    run = tmp_path_factory.mktemp("teacher")
    encoded = tokenise(rows.train, model.tokenizer, max_length=16)
    train(
        model,
        encoded,
        tokenise(rows.dev, model.tokenizer, max_length=16),
        task=find_task("classify"),
        config=TRAINING,
        run_dir=run,
    )
    model.save(run / "model")
    return run


@pytest.fixture(scope="session")
def searched(tmp_path_factory, rows, teacher_dir) -> tuple[Path, SearchResult]:
    """A whole search: three students of 2 layers, torch in fp32, a budget nobody can meet."""
    out = tmp_path_factory.mktemp("search")
    result = search(
        teacher_dir,
        rows,
        budget=Budget(keep=0.5, max_size_mb=0.001),
        config=SEARCH,
        training=TRAINING,
        out=out,
        command="again",
    )
    return out, result
