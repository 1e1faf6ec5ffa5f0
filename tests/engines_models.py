"""What the engines' tests share: tiny models with logits that mean something, and texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertwright.engines.exact_sums import exact_weight_bits
from bertwright.models.build import build_task_model
from bertwright.models.task_model import ModelConfig, TaskModel
from tiny import tiny_encoder

__all__ = ["LABELS", "inputs_of", "make_model", "make_texts", "needs_vnni", "own_label"]


needs_vnni = pytest.mark.skipif(
    exact_weight_bits() < 8, reason="no VNNI here: weights have 7 bits, which is tested"
)

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


def inputs_of(lengths, vocab_size=60, width=None):
    """Return ids and mask of rows of these lengths, padded on the right."""
    rng = np.random.default_rng(0)
    mask = (np.arange(width or max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    return {"input_ids": rng.integers(5, vocab_size, mask.shape) * mask, "attention_mask": mask}


def own_label(model: TaskModel, text: str) -> str:
    """Return what the model itself says, so that torch scores 100 points."""
    batch = model.tokenizer([text], return_tensors="pt")  # type: ignore[misc]
    with torch.inference_mode():
        logits = model(
            batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids")
        ).logits
    return model.labels[int(logits.argmax())]
