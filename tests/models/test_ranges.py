from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from bertwright.errors import CheckpointError
from bertwright.models.ranges import LearnedRanges, input_grid, row_scales
from bertwright.models.task_model import TaskModel
from engines_models import make_model

RANGES = LearnedRanges(
    inputs={"encoder.a": (-0.1, 1 / 3), "head.out": (0.0, 2.5)}, tables=("encoder.words",)
)


def test_they_are_saved_with_the_model_to_the_last_bit(tmp_path):
    model = make_model()
    model.save(tmp_path / "plain")
    assert "ranges" not in json.loads((tmp_path / "plain" / "bertwright.json").read_text())
    assert TaskModel.load(tmp_path / "plain").ranges is None
    model.ranges = RANGES
    model.save(tmp_path / "model")
    loaded = TaskModel.load(tmp_path / "model").ranges
    assert loaded == RANGES and loaded is not RANGES
    assert loaded.inputs["encoder.a"] == (-0.1, 1 / 3)


@pytest.mark.parametrize(
    "damage",
    [
        {"tables": []},
        {"inputs": {"a": [-1.0]}, "tables": []},
        {"inputs": {"a": [0.5, 1.0]}, "tables": []},
        {"inputs": {"a": ["x", 1.0]}, "tables": []},
        {"inputs": {"a": [-1e999, 1.0]}, "tables": []},
        {"inputs": {"a": [-1.0, 1.0]}, "tables": [], "weight_bits": 4},
        [],
    ],
)
def test_damaged_ranges_are_refused(tmp_path, damage):
    make_model().save(tmp_path / "model")
    file = tmp_path / "model" / "bertwright.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "ranges": damage}))
    with pytest.raises(CheckpointError, match="damaged"):
        TaskModel.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("ends", "scale", "zero_point"),
    [
        ((-1.0, 3.0), 4 / 255, 64),
        ((-255.0, 0.0), 1.0, 255),
        ((0.0, 510.0), 2.0, 0),
        ((0.5, 5.1), 0.02, 0),
        ((0.0, 0.0), 1e-12, 0),
    ],
)
def test_grid_of_a_range(ends, scale, zero_point):
    found_scale, found_zero = input_grid(torch.tensor(ends))
    assert found_scale.item() == pytest.approx(scale, rel=1e-6)
    assert found_zero.item() == zero_point and found_zero.dtype == torch.int32


def test_scales_of_rows():
    scales = row_scales(torch.tensor([[0.5, -1.27], [0.0, 0.0], [254.0, 3.0]]))
    assert scales.tolist() == pytest.approx([0.01, 1e-12, 2.0])
    scales = row_scales(torch.tensor([[0.5, -1.26], [126.0, 3.0]]), 7)
    assert scales.tolist() == pytest.approx([0.02, 2.0])


def test_ranges_of_an_older_model_have_weights_of_8_bits():
    values = RANGES.to_json()
    assert values.pop("weight_bits") == 8
    assert LearnedRanges.from_json(values) == RANGES
    seven = replace(RANGES, weight_bits=7)
    assert LearnedRanges.from_json(json.loads(json.dumps(seven.to_json()))) == seven
