"""A tiny task that can be learnt: the label is the word that the sentence contains."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from bertwright.data.load import load_rows
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.models.build import build_task_model
from bertwright.models.task_model import ModelConfig, TaskModel
from tiny import tiny_encoder, tiny_tokenizer

LABELS = ["bad", "good", "poor"]
FILLERS = "the a is was film movie book food place and but very really never always".split()


def make_texts(count: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        label = rng.choice(LABELS)
        words = rng.choices(FILLERS, k=rng.randint(1, 14))
        words.insert(rng.randint(0, len(words)), label)
        rows.append({"text": " ".join(words), "label": label})
    return rows


@pytest.fixture(scope="session")
def make_rows(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., EncodedRows]:
    cache = tmp_path_factory.mktemp("cache")

    def make(count: int, seed: int = 0) -> EncodedRows:
        rows = load_rows(make_texts(count, seed), cache_dir=cache)
        return tokenise(rows, tiny_tokenizer("bert"), max_length=32, cache_dir=cache)

    return make


@pytest.fixture
def make_model() -> Callable[..., TaskModel]:
    def make(seed: int = 0, *, dropout: float = 0.1, layers: int = 2) -> TaskModel:
        encoder, tokenizer = tiny_encoder(
            "bert",
            num_hidden_layers=layers,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        return build_task_model(
            encoder,
            task="classify",
            labels=LABELS,
            config=ModelConfig(head_dropout=dropout),
            max_length=32,
            seed=seed,
            tokenizer=tokenizer,
        )

    return make
