"""Tables in 4 bits a number, against the formula number by number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bertwright.errors import UnsupportedRoleError
from bertwright.models.build import copy_with_factors
from bertwright.models.packed import PackedEmbedding, pack_words, packed_paths
from engines_models import inputs_of, make_model


@pytest.mark.parametrize(("width", "group"), [(64, 32), (48, 16), (10, 2), (2, 2)])
def test_what_is_looked_up_is_the_nearest_step_of_its_group(width, group):
    table = torch.randn(50, width, generator=torch.Generator().manual_seed(0))
    packed = PackedEmbedding(table)
    assert packed.packed.shape == (50, width // 2) and packed.packed.dtype == torch.uint8
    assert packed.scales.shape == (50, width // group)
    ids = torch.tensor([[3, 49, 0], [7, 7, 1]])
    found = packed(ids)
    assert found.shape == (2, 3, width) and found.dtype == torch.float32
    for row in (0, 3, 49):
        stored = packed.packed[row].numpy()
        steps = np.concatenate([stored & 15, stored >> 4]).astype(int) - 8
        assert np.abs(steps).max() <= 7
        scales = packed.scales[row].float().numpy().repeat(group)
        where = (ids == row).nonzero()[0]
        np.testing.assert_allclose(found[tuple(where)].numpy(), steps * scales, rtol=1e-6)
        nearest = np.clip(np.round(table[row].numpy() / scales), -7, 7)
        np.testing.assert_array_equal(steps, nearest)


def test_its_error_is_below_that_of_the_largest_number_as_the_end():
    table = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    found = PackedEmbedding(table)(torch.arange(200))
    groups = table.view(200, 2, 32)
    scale = groups.abs().amax(dim=-1, keepdim=True) / 7
    plain = ((groups / scale).round() * scale).view(200, 64)
    error, other = ((one - table).square().mean() for one in (found, plain))
    assert error < other and error.sqrt() < 0.12


def test_rows_of_zeros_stay_zeros_and_large_ones_are_finite():
    table = torch.zeros(3, 32)
    table[1] = 6e4
    table[2, 5] = 1e-9
    found = PackedEmbedding(table)(torch.arange(3))
    assert_close(found[0], table[0])
    assert_close(found[1], table[1], rtol=0.01, atol=0)
    assert found.isfinite().all()


@pytest.mark.parametrize("family", ["bert", "distilbert", "albert", "modernbert", "xlnet"])
def test_a_packed_model_answers_nearly_as_before(family):
    model = make_model(family)
    packed = pack_words(model)
    inputs = {k: torch.from_numpy(v) for k, v in inputs_of([12, 5, 1]).items()}
    with torch.no_grad():
        exact, found = model(**inputs).logits, packed(**inputs).logits
    assert 1e-4 < (found - exact).abs().max() < exact.std()
    assert len(packed_paths(packed)) == 1 and packed_paths(model) == []


def test_what_cannot_be_packed_is_refused():
    for model in (copy_with_factors(make_model(), 8), make_model("bart")):
        with pytest.raises(UnsupportedRoleError, match="4 bits"):
            pack_words(model)
