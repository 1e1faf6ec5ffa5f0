"""Tiny saved models and tokenised rows for the engines to work on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.models.task_model import TaskModel
from engines_models import make_model, make_texts, own_label


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
