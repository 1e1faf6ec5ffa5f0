"""Dropping layers, and the plan that records it."""

from __future__ import annotations

import pytest

from bertwright.errors import CheckpointError, UsageError
from bertwright.surgery.layers import check_layer_indices, keep_layers
from bertwright.surgery.plan import SurgeryPlan, apply_plan


def test_keep_layers_picks_in_order_and_leaves_the_original():
    layers = ["a", "b", "c", "d"]
    assert keep_layers(layers, [0, 3]) == ["a", "d"]
    assert keep_layers(layers, range(4)) == layers
    assert layers == ["a", "b", "c", "d"]


@pytest.mark.parametrize("indices", [[], [4], [-1], [1, 1], [2, 0]])
def test_bad_indices_are_refused(indices):
    with pytest.raises(UsageError):
        check_layer_indices(indices, 4)


def test_a_plan_goes_through_json_and_replays_as_it_was_done():
    layers = list("abcdef")
    plan = SurgeryPlan().then_keep_layers([0, 2, 4, 5]).then_keep_layers((1, 3))
    again = SurgeryPlan.from_json(plan.to_json())
    assert again == plan
    assert apply_plan(again, layers) == keep_layers(keep_layers(layers, [0, 2, 4, 5]), [1, 3])
    assert apply_plan(again, layers) == ["c", "f"]
    assert apply_plan(SurgeryPlan(), layers) == layers


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
        ["keep_layers"],
        [{}],
    ],
)
def test_a_malformed_plan_is_refused(value):
    with pytest.raises(CheckpointError):
        SurgeryPlan.from_json(value)


def test_a_plan_for_a_deeper_model_is_refused():
    with pytest.raises(UsageError):
        apply_plan(SurgeryPlan().then_keep_layers([0, 5]), list("abc"))
