"""Factors of a table, against numpy's singular values and a weighted distance in naive loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bertwright.errors import UsageError
from bertwright.surgery.factors import factorise, rank_for

V, D = 40, 12


def make_table(num_pieces=V, width=D, seed=0):
    """Return a table whose columns have lengths of their own, so that a rank matters."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(num_pieces, width, generator=generator, dtype=torch.float64)
    return table @ torch.randn(width, width, generator=generator, dtype=torch.float64)


def make_weights(seed=1):
    return torch.rand(V, generator=torch.Generator().manual_seed(seed)).double() ** 4 + 1e-3


def weighted_error(table, factors, weights):
    """Return the sum over pieces of weight times squared distance, number by number."""
    small, projection = (factor.tolist() for factor in factors)
    total = 0.0
    for v, row in enumerate(table.tolist()):
        for d, number in enumerate(row):
            near = sum(small[v][r] * projection[r][d] for r in range(len(projection)))
            total += float(weights[v]) * (number - near) ** 2
    return total


@pytest.mark.parametrize("rank", [1, 5, 11])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_error_is_the_energy_that_is_dropped(rank, weighted):
    table = make_table()
    weights = make_weights() if weighted else torch.ones(V).double()
    factors = factorise(table, rank, weights if weighted else None)
    assert factors[0].shape == (V, rank) and factors[1].shape == (rank, D)
    singular = np.linalg.svd(table.numpy() * np.sqrt(weights.numpy())[:, None], compute_uv=False)
    dropped = float((singular[rank:] ** 2).sum())
    assert dropped > 1e-3
    assert weighted_error(table, factors, weights) == pytest.approx(dropped, rel=1e-9)
    others = factorise(table, rank, make_weights(seed=2))
    assert weighted_error(table, others, weights) > dropped * 1.001, "other weights are not as good"


def test_rows_scaled_and_scaled_back_are_the_same_product():
    table, weights = make_table(), make_weights()
    scale = np.sqrt(weights.numpy())[:, None]
    left, singular, right = np.linalg.svd(table.numpy() * scale, full_matrices=False)
    expected = (left[:, :4] * singular[:4]) @ right[:4] / scale
    small, projection = factorise(table, 4, weights)
    assert_close(small @ projection, torch.from_numpy(expected), atol=1e-9, rtol=0)
    assert_close(projection @ projection.T, torch.eye(4).double(), atol=1e-12, rtol=0)


def test_by_hand():
    table = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    small, projection = factorise(table, 1)
    assert_close(small @ projection, torch.tensor([[3.0, 0.0], [0.0, 0.0]]))
    small, projection = factorise(table, 1, torch.tensor([1.0, 3.0]))  # 9 against 12
    assert_close(small @ projection, torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    assert rank_for(table, 9 / 13 - 0.01) == 1 and rank_for(table, 9 / 13 + 0.01) == 2
    weights = torch.tensor([1.0, 3.0])
    assert rank_for(table, 12 / 21 - 0.01, weights) == 1
    assert rank_for(table, 12 / 21 + 0.01, weights) == 2


def test_full_rank_and_full_energy_are_the_table():
    table = make_table().float()
    small, projection = factorise(table, D)
    assert small.dtype == table.dtype
    assert_close(small @ projection, table, atol=1e-5, rtol=0)
    assert rank_for(table, 1.0) == D
    thin = (
        make_table()[:, :3] @ torch.randn(3, D, generator=torch.Generator().manual_seed(3)).double()
    )
    assert rank_for(thin, 1 - 1e-9) == 3
    few = make_table()[:5]
    small, projection = factorise(few, 5)
    assert_close(small @ projection, few, atol=1e-9, rtol=0)


def test_equal_weights_are_none_and_a_piece_without_weight_has_its_best_place():
    table = make_table()
    for one, other in zip(
        factorise(table, 5), factorise(table, 5, torch.full((V,), 2.0)), strict=True
    ):
        assert_close(one.abs(), other.abs(), atol=1e-9, rtol=0)
    weights = make_weights()
    weights[7] = 0
    small, projection = factorise(table, 5, weights)
    nearest = np.linalg.lstsq(projection.T.numpy(), table[7].numpy(), rcond=None)[0]
    assert_close(small[7], torch.from_numpy(nearest), atol=1e-9, rtol=0)
    assert float(small[7].norm()) > 0


@pytest.mark.parametrize(
    ("rank", "weights", "says"),
    [
        (0, None, "rank 0"),
        (D + 1, None, "rank 13"),
        (2, torch.ones(V - 1), "weights for 40 rows"),
        (2, torch.zeros(V), "not all 0"),
        (2, torch.full((V,), -1.0), "0 or more"),
        (2, torch.full((V,), float("nan")), "finite"),
    ],
)
def test_what_makes_no_factors_is_refused(rank, weights, says):
    with pytest.raises(UsageError, match=says):
        factorise(make_table(), rank, weights)
