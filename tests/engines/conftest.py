"""Tiny saved models and tokenised rows for the engines to work on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_encoder

from bertwright.data.schema import LabelSet
from bertwright.data.sources import load_rows
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.models.task_model import ModelConfig, TaskModel, build_task_model

WORDS = (
    "good bad great poor fine film movie book food place time day man woman dog cat house car red "
    "blue green fast slow big small new old return array value function tensor model data index"
).split()
LABELS = ["a", "b", "c", "d", "e"]


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Return texts of 1 to 20 known words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 21))) for _ in range(count)]


def make_model(family: str = "bert", *, pooling: str = "cls", **overrides: object) -> TaskModel:
    """Return a tiny model whose logits are of the size of 1, so that differences mean something."""
    encoder, tokenizer = tiny_encoder(family, **overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in encoder.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
        model = build_task_model(
            encoder,
            task="classify",
            labels=LABELS,
            config=ModelConfig(pooling=pooling),
            max_length=32,
            tokenizer=tokenizer,
        )
        for parameter in model.head.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function from a family (and pooling) to a saved model's directory."""
    made: dict[tuple[str, str], Path] = {}

    def get(family: str = "bert", pooling: str = "cls") -> Path:
        if (family, pooling) not in made:
            path = tmp_path_factory.mktemp(f"{family}-{pooling}") / "model"
            make_model(family, pooling=pooling).save(path)
            made[family, pooling] = path
        return made[family, pooling]

    return get


@pytest.fixture(scope="session")
def encode(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., EncodedRows]:
    """Return a function that tokenises texts for a model, labelled by the model itself."""
    cache = tmp_path_factory.mktemp("cache")

    def get(model: TaskModel, count: int = 64, seed: int = 0) -> EncodedRows:
        rows = [{"text": t, "label": own_label(model, t)} for t in make_texts(count, seed)]
        loaded = load_rows(rows, labels=LabelSet(tuple(model.labels)), cache_dir=cache)
        return tokenise(loaded, model.tokenizer, max_length=32, cache_dir=cache)

    return get


def own_label(model: TaskModel, text: str) -> str:
    """Return what the model itself says, so that torch scores 100 points."""
    batch = model.tokenizer([text], return_tensors="pt")  # type: ignore[misc]
    with torch.inference_mode():
        logits = model(
            batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids")
        ).logits
    return model.labels[int(logits.argmax())]
