"""Poolings: hand-computed values, and padding that never leaks."""

from __future__ import annotations

import pytest
import torch

from bertwright.errors import UnknownChoiceError
from bertwright.models.pooling import POOLINGS, get_pooling, pool_first, pool_last, pool_mean

HIDDEN = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, -100.0]]])
MASK = torch.tensor([[1, 1, 0]])
ALL = {"first": pool_first, "last": pool_last, "mean": pool_mean}


def test_values_worked_out_by_hand():
    assert pool_first(HIDDEN, MASK).tolist() == [[1.0, 2.0]]
    assert pool_last(HIDDEN, MASK).tolist() == [[3.0, 6.0]]
    assert pool_mean(HIDDEN, MASK).tolist() == [[2.0, 4.0]]
    left = torch.tensor([[0, 1, 1]])
    assert pool_first(HIDDEN, left).tolist() == [[3.0, 6.0]]
    assert pool_last(HIDDEN, left).tolist() == [[100.0, -100.0]]


def test_names():
    assert get_pooling("cls") is pool_first
    assert get_pooling("cls", cls_at_end=True) is pool_last
    assert get_pooling("mean", cls_at_end=True) is pool_mean
    assert set(POOLINGS) == {"cls", "mean"}
    with pytest.raises(UnknownChoiceError, match="mena"):
        get_pooling("mena")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.float32])
def test_padding_never_leaks(name, kind):
    pool = ALL[name]
    torch.manual_seed(0)
    hidden = torch.randn(3, 5, 4, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0]]).to(kind)
    pooled = pool(hidden, mask)
    assert pooled.shape == (3, 4) and pooled.abs().min() > 0

    junk = torch.full((3, 7, 4), float("nan"))
    more = torch.cat([hidden, junk], dim=1), torch.cat([mask, torch.zeros(3, 7).to(kind)], dim=1)
    torch.testing.assert_close(pool(*more), pooled, atol=1e-6, rtol=0)
    flipped = torch.cat([junk, hidden], dim=1), torch.cat([torch.zeros(3, 7).to(kind), mask], dim=1)
    torch.testing.assert_close(pool(*flipped), pooled, atol=1e-6, rtol=0)

    pooled.sum().backward()
    assert hidden.grad[~mask.bool()].abs().max() == 0 and hidden.grad.abs().max() > 0


@pytest.mark.parametrize("name", ALL)
def test_single_tokens_and_empty_rows(name):
    pool = ALL[name]
    hidden = torch.randn(1, 1, 4)
    assert torch.equal(pool(hidden, torch.ones(1, 1)), hidden[:, 0])
    nothing = torch.full((2, 3, 4), float("nan"))
    assert torch.equal(pool(nothing, torch.zeros(2, 3)), torch.zeros(2, 4))
    constant = torch.full((2, 3, 4), 0.5, dtype=torch.float16)
    assert torch.equal(pool(constant, torch.tensor([[1, 1, 0], [1, 1, 1]])), constant[:, 0])
