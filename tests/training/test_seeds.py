from __future__ import annotations

import random

import numpy as np
import torch

from bertwright.training.seeds import random_state, restore_random_state, seed_everything


def draw() -> list[float]:
    values = [random.random(), random.gauss(0, 1), float(np.random.rand())]
    return [*values, float(np.random.randn()), float(torch.rand(1)), float(torch.randn(1))]


def test_the_same_seed_gives_the_same_numbers_and_another_others():
    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(4)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_the_state_goes_through_a_file_and_back(tmp_path):
    seed_everything(0)
    draw()  # an odd number of gauss calls leaves one in reserve
    torch.save(random_state(), tmp_path / "state.pt")
    expected = [draw(), draw()]
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [draw(), draw()] == expected
