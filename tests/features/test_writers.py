"""Files of vectors: written in chunks, read back by the libraries they are for."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from bertwright.errors import ConfigError
from bertwright.features.writers import WRITERS, open_vectors

ROWS = np.array([0, 1, 4, 5, 9])
VECTORS = {
    "mean": np.arange(15, dtype=np.float32).reshape(5, 3),
    "wk@2": np.arange(10, dtype=np.float32).reshape(5, 2) - 7.5,
}
WIDTHS = {"mean": 3, "wk@2": 2}


def write(path, names=("mean", "wk@2"), chunks=((0, 2), (2, 5))):
    with open_vectors(path, {name: WIDTHS[name] for name in names}, len(ROWS)) as take:
        for begin, end in chunks:
            take(ROWS[begin:end], {name: VECTORS[name][begin:end] for name in names})
    return path


def test_npy_is_one_matrix(tmp_path):
    found = np.load(write(tmp_path / "deep" / "v.npy", names=("mean",)))
    assert found.dtype == np.float32 and np.array_equal(found, VECTORS["mean"])
    with pytest.raises(ConfigError, match=r"one matrix, and 2 are asked for: mean, wk@2"):
        write(tmp_path / "two.npy")
    assert not (tmp_path / "two.npy").exists()


def test_safetensors_has_a_tensor_a_name(tmp_path):
    found = load_file(write(tmp_path / "v.safetensors"))
    assert set(found) == {"row", *VECTORS}
    assert np.array_equal(found["row"], ROWS)
    for name, expected in VECTORS.items():
        assert np.array_equal(found[name], expected)


def test_parquet_has_a_column_a_name(tmp_path):
    table = pq.read_table(write(tmp_path / "v.parquet"))
    assert table.column_names == ["row", *VECTORS]
    assert table["row"].to_pylist() == ROWS.tolist()
    assert table.schema.field("mean").type.list_size == 3
    for name, expected in VECTORS.items():
        assert np.array_equal(np.array(table[name].to_pylist(), np.float32), expected)


@pytest.mark.parametrize("ending", sorted(WRITERS))
def test_no_rows_are_a_file_too(tmp_path, ending):
    path = tmp_path / f"v{ending}"
    with open_vectors(path, {"mean": 3}, 0):
        pass
    assert path.exists()
    if ending == ".npy":
        assert np.load(path).shape == (0, 3)
    elif ending == ".safetensors":
        assert load_file(path)["mean"].shape == (0, 3)


@pytest.mark.parametrize("ending", sorted(WRITERS))
def test_a_file_is_there_whole_or_not_at_all(tmp_path, ending):
    path = tmp_path / f"v{ending}"
    path.write_text("before")
    with (
        pytest.raises(RuntimeError, match="stop"),
        open_vectors(path, {"mean": 3}, 5) as take,
    ):
        take(ROWS[:2], {"mean": VECTORS["mean"][:2]})
        raise RuntimeError("stop")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"\.npy, \.parquet, \.safetensors"):
        write(tmp_path / "v.csv")
