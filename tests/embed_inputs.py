"""Rows of every form that `embed` reads, and a model for them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.models.build import build_task_model
from bertwright.models.task_model import ModelConfig
from bertwright.tasks import find_task
from bertwright.tasks.embed_rows import TextsEncoder
from tiny import tiny_encoder, tiny_tokenizer

TASK: Any = find_task("embed")
NO_MODEL: Any = None
SCALE = 20.0


def unit(rng, *shape):
    vectors = rng.normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def log_sum_exp(values):
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def contrastive_by_hand(rows, vectors, scale):
    """rows: (first, second[, negative]) as numbers of texts; vectors: one a text of a row."""
    seconds: dict[int, set[int]] = {}
    for row in rows:
        seconds.setdefault(row[0], set()).add(row[1])
    placed, start = [], 0
    for row in rows:
        placed.append(vectors[start : start + len(row)])
        start += len(row)
    losses = []
    for i, row in enumerate(rows):
        own = scale * dot(placed[i][0], placed[i][1])
        others = [
            scale * dot(placed[i][0], placed[j][place])
            for j, other in enumerate(rows)
            for place in range(1, len(other))
            if (j, place) != (i, 1) and other[place] not in {row[0], *seconds[row[0]]}
        ]
        losses.append(log_sum_exp([own, *others]) - own)
    return losses


ROWS = st.integers(2, 3).flatmap(
    lambda width: st.lists(st.tuples(*[st.integers(0, 6)] * width), min_size=1, max_size=9)
)

SCORED = [
    {"text": "a film", "text_b": "the film", "score": 5},
    {"text": "a dog", "text_b": "the film", "score": 0},
    {"text": "a cat", "text_b": "the dog", "score": 2},
]
PAIRS = [{name: row[name] for name in ("text", "text_b")} for row in SCORED]
TRIPLETS = [{**row, "negative": "house"} for row in PAIRS]
LABELLED = [{"text": row["text"], "label": str(row["score"] > 1)} for row in SCORED]
ALONE = [{"text": row["text"]} for row in SCORED]


def encode(rows, *, twice=False):
    rows = load_rows(rows, schema=TASK.schema)
    return tokenise(rows, tiny_tokenizer(), encoder=TextsEncoder(twice=twice), max_length=20)


def tiny_model(**config) -> Any:
    encoder, tokenizer = tiny_encoder("bert")
    return build_task_model(
        encoder,
        task="embed",
        labels=[],
        config=ModelConfig(**config),
        tokenizer=tokenizer,
        max_length=20,
        outputs=TASK.outputs([]),
    )
