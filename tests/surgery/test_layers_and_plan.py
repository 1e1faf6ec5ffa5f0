"""Dropping layers, and the plan that records it."""

from __future__ import annotations

import pytest

from bertwright.errors import CheckpointError, UsageError
from bertwright.surgery.kept import check_kept
from bertwright.surgery.layers import keep_layers
from bertwright.surgery.plan import SurgeryPlan


def test_keep_layers_picks_in_order_and_leaves_the_original():
    layers = ["a", "b", "c", "d"]
    assert keep_layers(layers, [0, 3]) == ["a", "d"]
    assert keep_layers(layers, range(4)) == layers
    assert layers == ["a", "b", "c", "d"]


@pytest.mark.parametrize("indices", [[], [4], [-1], [1, 1], [2, 0]])
def test_bad_indices_are_refused(indices):
    with pytest.raises(UsageError):
        check_kept(indices, 4, "layer")


def test_a_plan_goes_through_json():
    plan = SurgeryPlan().then_keep_layers([0, 2, 4, 5])
    plan = plan.then_narrow({1: (0, 2)}, {3: range(4), 0: [7]}).then_keep_layers((1, 3))
    again = SurgeryPlan.from_json(plan.to_json())
    assert again == plan
    assert [op["op"] for op in plan.ops] == [
        "keep_layers",
        "keep_heads",
        "keep_neurons",
        "keep_neurons",
        "keep_layers",
    ]
    assert plan.ops[2] == {"op": "keep_neurons", "layer": 0, "indices": [7]}


@pytest.mark.parametrize(
    "value",
    [
        {"op": "keep_layers", "indices": [0]},
        [{"op": "drop_heads", "indices": [0]}],
        [{"op": "keep_layers"}],
        [{"op": "keep_layers", "indices": []}],
        [{"op": "keep_layers", "indices": [1, 0]}],
        [{"op": "keep_layers", "indices": [True]}],
        [{"op": "keep_layers", "indices": ["0"]}],
        [{"op": "keep_layers", "indices": [0], "more": 1}],
        [{"op": "keep_heads", "indices": [0]}],
        [{"op": "keep_heads", "layer": -1, "indices": [0]}],
        [{"op": "keep_neurons", "layer": 0, "indices": []}],
        ["keep_layers"],
        [{}],
    ],
)
def test_a_malformed_plan_is_refused(value):
    with pytest.raises(CheckpointError):
        SurgeryPlan.from_json(value)
