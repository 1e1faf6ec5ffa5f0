"""Referees: the entropy of pieces, the states of one text by hand, toy tasks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bertwright.compare.language_models import CausalLanguageModel
from bertwright.compare.lm_training import (
    Budget,
    LmHead,
    layer_vectors,
    piece_loss,
    train_classifier,
    train_lm,
)


def chains(num: int, seed: int) -> list[np.ndarray]:
    """Return texts in which each piece but the first follows from the one before."""
    rng = np.random.default_rng(seed)
    rows = []
    for start, length in zip(rng.integers(10, size=num), rng.integers(6, 9, size=num), strict=True):
        rows.append(np.array([2, *((start + 3 * np.arange(length)) % 10 + 4), 3]))
    return rows


def small_model() -> CausalLanguageModel:
    torch.manual_seed(0)
    counts = torch.from_numpy(np.bincount(np.concatenate(chains(50, 0)), minlength=14)).float()
    return CausalLanguageModel(counts, 16, max_pieces=12, num_layers=1, num_heads=2)


def test_the_loss_falls_far_below_the_entropy_of_single_pieces():
    rows, dev_rows = chains(200, 0), chains(50, 1)
    predicted = np.concatenate([row[1:] for row in dev_rows])
    shares = np.bincount(predicted) / len(predicted)
    entropy = -sum(p * math.log(p) for p in shares if p > 0)
    model = small_model()
    before = piece_loss(model, dev_rows)
    budget = Budget(epochs=10, lr=1e-2, batch_tokens=256)
    losses = train_lm(model, rows, dev_rows, budget, seed=0)
    assert before > 0.9 * entropy > 1.5
    assert min(losses) < 0.5 * entropy
    # the best epoch is kept; what cannot be known costs ln 10 for the first piece of a text
    assert piece_loss(model, dev_rows) == pytest.approx(min(losses), abs=1e-6)
    assert min(losses) > math.log(10) * len(dev_rows) / len(predicted)


def test_minutes_end_the_training():
    model, rows = small_model(), chains(50, 0)
    budget = Budget(epochs=100_000, minutes=0.005, lr=1e-3, batch_tokens=256)
    told: list[float] = []
    losses = train_lm(
        model, rows, rows, budget, seed=0, progress=lambda what, share: told.append(share)
    )
    assert 1 <= len(losses) < 1000
    assert told == sorted(told) and told[-1] == 1.0


def test_a_worse_epoch_is_not_kept():
    model, rows = small_model(), chains(60, 0)
    other = [np.array([2, *row[-2:0:-1], 3]) for row in rows]  # learning one unlearns the other
    budget = Budget(epochs=8, lr=2e-2, batch_tokens=128)
    losses = train_lm(model, rows, other, budget, seed=0)
    assert losses[-1] > min(losses) + 0.1
    assert piece_loss(model, other) == pytest.approx(min(losses), abs=1e-5)


@pytest.mark.parametrize(("tokens", "expected"), [(100, 256), (50_000, 1000), (10**6, 2048)])
def test_batches_grow_with_the_texts(tokens, expected):
    lengths = np.full(tokens // 10, 10)
    assert Budget(epochs=1, lr=1.0).tokens_of_a_batch(lengths) == expected
    assert Budget(epochs=1, lr=1.0, batch_tokens=77).tokens_of_a_batch(lengths) == 77


def test_layers_are_mixed_by_shares_that_sum_to_one():
    torch.manual_seed(0)
    head = LmHead([4, 4, 4], 2, dropout=0.0, last_only=False)
    assert torch.equal(head.shares, torch.full((3,), 1 / 3))
    with torch.no_grad():
        head.s.copy_(torch.tensor([0.0, math.log(2), math.log(5)]))
        head.gamma.fill_(3.0)
    assert float(head.shares.detach().sum()) == pytest.approx(1)
    vectors = [torch.randn(5, 4) for _ in range(3)]
    mixed = 3 * (vectors[0] / 8 + vectors[1] * 2 / 8 + vectors[2] * 5 / 8)
    torch.testing.assert_close(head(vectors), head.linear(mixed))
    last = LmHead([4, 4, 4], 2, dropout=0.0, last_only=True)
    torch.testing.assert_close(last(vectors), last.linear(vectors[2]))
    assert not torch.allclose(head(vectors), head.linear(vectors[2]))


def test_layer_vectors_are_in_the_order_of_the_texts():
    model, rows = small_model(), chains(7, 0)
    vectors = layer_vectors(model, rows)
    assert vectors.shape == (2, 7, 16)
    for row, ids in enumerate(rows):
        one = torch.from_numpy(ids)[None]
        states = model.eval()(one, torch.ones_like(one, dtype=torch.bool))
        torch.testing.assert_close(vectors[1, row], states[1][0, -1].detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("tune_model", "lm_weight"), [(True, 0.5), (True, 0.0), (False, 0.5)])
def test_the_model_moves_only_if_it_is_asked_to(tune_model, lm_weight):
    model, rows = small_model(), chains(120, 0)
    labels = np.array([int(row[-2] >= 9) for row in rows])
    head = LmHead(model.widths, 2, dropout=0.0, last_only=False)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    scores = train_classifier(
        model,
        head,
        rows,
        labels,
        rows,
        labels,
        Budget(epochs=12, lr=1e-2, batch_tokens=256),
        tune_model=tune_model,
        lm_weight=lm_weight,
        seed=0,
    )
    moved = {
        name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])
    }
    assert len(scores) == 12 and max(scores) > (0.8 if tune_model else 0.6)
    assert ("layers.0.up.weight" in moved) == tune_model
    assert ("softmax.bias" in moved) == (tune_model and lm_weight > 0)
    assert tune_model or not moved
