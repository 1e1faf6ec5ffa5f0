from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest
import torch

from tiny import tiny_encoder

WORDS = {"good": ("great", "fine", "love", "good"), "bad": ("bad", "poor", "hate", "never")}
OTHERS = ("the", "film", "book", "place", "dog", "house", "red", "small", "time", "day")


def make_rows(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts of which one word gives the label away."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        label = ("good", "bad")[number % 2]
        words = rng.choices(OTHERS, k=rng.randint(2, 9))
        words.insert(rng.randrange(len(words)), rng.choice(WORDS[label]))
        rows.append((" ".join(words), label))
    return rows


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory) -> Path:
    """A tiny encoder with its tokenizer, as transformers saves them."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    encoder, tokenizer = tiny_encoder("bert", num_hidden_layers=4)
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    return {
        name: str(write_csv(folder / f"{name}.csv", make_rows(count, seed)))
        for seed, (name, count) in enumerate((("train", 160), ("dev", 60), ("test", 60)))
    }


@pytest.fixture(scope="session")
def teacher(encoder_dir, data, tmp_path_factory) -> Path:
    """The run of a tiny teacher that knows its task."""
    import bertwright

    out = tmp_path_factory.mktemp("runs") / "teacher"
    result = bertwright.finetune(
        model=str(encoder_dir),
        data=data["train"],
        eval_data=data["dev"],
        out=str(out),
        epochs=12,
        lr=3e-3,
        max_length=16,
        precision="fp32",
        evals_per_epoch=1,
    )
    assert result.score > 0.9, "the tiny task is learned"
    return out
