"""Stored readings: what was written comes back, of any shape, in any order, and never padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertwright.data.reads import ReadsWriter, StoredReads
from bertwright.errors import FileFormatError


def write(folder, arrays, batches, by_token):
    """Write readings [..., n, D] of features by batches of positions, padded with NaN."""
    folder.mkdir()
    writer = ReadsWriter(folder, count=len(arrays), by_token=by_token)
    for positions in batches:
        chosen = [arrays[place] for place in positions]
        if not by_token:
            writer.add(np.array(positions), torch.stack(chosen), torch.ones(len(chosen), 3))
            continue
        longest = max(one.shape[-2] for one in chosen)
        mask = torch.tensor([[t < one.shape[-2] for t in range(longest)] for one in chosen])
        padded = [
            torch.nn.functional.pad(one, (0, 0, 0, longest - one.shape[-2]), value=torch.nan)
            for one in chosen
        ]
        writer.add(np.array(positions), torch.stack(padded), mask)
    writer.close()
    return StoredReads(folder)


@pytest.mark.parametrize("shape", [(5,), (3, 5)])
def test_vectors_come_back_in_any_order(shape, tmp_path):
    arrays = [torch.randn(shape) for _ in range(6)]
    reads = write(tmp_path / "a", arrays, [[4, 1], [0, 5, 3], [2]], by_token=False)
    assert len(reads) == 6
    found = reads.batch(np.array([3, 0, 3]), 99)
    assert torch.equal(found, torch.stack([arrays[3], arrays[0], arrays[3]]))
    flat = torch.stack(arrays).flatten(1).numpy()
    np.testing.assert_array_equal(reads.vectors(np.arange(6)), flat)
    chosen = reads.select(np.array([5, 2]))
    assert len(chosen) == 2 and torch.equal(chosen.batch(np.array([1]), 1)[0], arrays[2])
    assert torch.equal(chosen.select(np.array([0])).batch(np.array([0]), 1)[0], arrays[5])


@pytest.mark.parametrize("layers", [(), (2,)])
def test_states_of_tokens_are_padded_with_zeros(layers, tmp_path):
    lengths = [3, 1, 4, 2]
    arrays = [torch.randn(*layers, length, 5) for length in lengths]
    reads = write(tmp_path / "a", arrays, [[2, 0], [1, 3]], by_token=True)
    found = reads.batch(np.array([0, 3, 2]), 6)
    assert found.shape == (3, *layers, 6, 5)
    for row, place in enumerate((0, 3, 2)):
        length = lengths[place]
        assert torch.equal(found[row, ..., :length, :], arrays[place])
        assert found[row, ..., length:, :].abs().sum() == 0
    with pytest.raises(ValueError, match="tokens"):
        reads.vectors(np.array([0]))


def test_no_features_at_all(tmp_path):
    assert len(write(tmp_path / "a", [], [], by_token=False)) == 0


def test_half_written_readings_are_no_readings(tmp_path):
    writer = ReadsWriter(tmp_path, count=2, by_token=False)
    writer.add(np.array([0]), torch.ones(1, 4), torch.ones(1, 2))
    writer.close(whole=False)
    with pytest.raises(FileFormatError, match="no usable readings"):
        StoredReads(tmp_path)
