"""Int8 by the ranges that a model learned in training: no calibration, no NNCF.

Weights and tables become 8-bit constants with a scale a row; before each matrix product stands a
FakeQuantize on the learned range, from which OpenVINO makes its int8 kernels.

Source: OpenVINO's documentation on low-precision transformations.
Shape letters: O outputs (or table rows), I inputs (or features of a row).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from openvino import Model, opset13

from bertwright.errors import UsageError
from bertwright.models.ranges import (
    LEVELS,
    LearnedRanges,
    WeightBits,
    input_grid,
    largest_step,
    row_scales,
)

__all__ = ["apply_ranges"]


def apply_ranges(
    graph: Model,
    ranges: LearnedRanges,
    is_spared: Callable[[str], bool],
    weight_bits: WeightBits = 8,
) -> Model:
    """Return a copy of a converted graph that computes in int8 where ranges were learned.

    Args:
        graph: left as it is; its nodes are named by the modules that they were traced from.
        ranges: of the model that was converted.
        is_spared: whether a node of this name stays in higher precision.
        weight_bits: of the weights of matrix products; those of tables have 8.

    Raises:
        UsageError: a layer or table cannot be found in the graph.
    """
    graph = graph.clone()
    missing = {*ranges.inputs, *ranges.tables}
    made: dict[tuple[str, int, tuple[float, float]], Any] = {}
    for node in graph.get_ordered_ops():
        name = node.get_friendly_name()
        path = _module_of(node)
        if path in ranges.inputs and _multiplies_weights(node):
            missing.discard(path)
            if not is_spared(name):
                _round_weights(node, weight_bits)
                _round_input(node, ranges.inputs[path], made)
        elif path in ranges.tables and _looks_up(node):
            missing.discard(path)
            if not is_spared(name):
                _round_table(node)
    if missing:
        raise UsageError(
            f"no matrix product of {', '.join(sorted(missing))} is in OpenVINO's graph, so the "
            "ranges learned for it cannot be used",
            hint="compile this model in fp32 or bf16; please report it",
        )
    graph.validate_nodes_and_infer_types()
    return graph


def _module_of(node: Any) -> str:
    """Return the path of the module that a node was traced from."""
    return node.get_friendly_name().removeprefix("__module.").partition("/")[0]


def _multiplies_weights(node: Any) -> bool:
    return node.get_type_name() == "MatMul" and _is_constant(node, 1)


def _looks_up(node: Any) -> bool:
    return node.get_type_name() == "Gather" and _is_constant(node, 0)


def _is_constant(node: Any, index: int) -> bool:
    return node.input_value(index).get_node().get_type_name() == "Constant"


def _round_weights(node: Any, bits: WeightBits) -> None:
    """Store the weights [O, I] of a matrix product as int8 with a scale for each output."""
    assert node.get_attributes()["transpose_b"], "linear layers multiply by W^T"
    values, scales = _rounded(node.input_value(1).get_node().data, bits)
    name = node.input_value(1).get_node().get_friendly_name()
    stored = opset13.constant(values, name=name)
    exact = opset13.multiply(opset13.convert(stored, "f32"), opset13.constant(scales))
    node.input(1).replace_source_output(exact.output(0))


def _round_table(node: Any) -> None:
    """Look up int8 rows and their scales, and multiply only what was looked up."""
    values, scales = _rounded(node.input_value(0).get_node().data, 8)
    readers = list(node.output(0).get_target_inputs())
    name = node.input_value(0).get_node().get_friendly_name()
    node.input(0).replace_source_output(opset13.constant(values, name=name).output(0))
    found = opset13.gather(opset13.constant(scales), node.input_value(1), node.input_value(2))
    exact = opset13.multiply(opset13.convert(node.output(0), "f32"), found)
    for reader in readers:
        reader.replace_source_output(exact.output(0))


def _rounded(weight: np.ndarray, bits: WeightBits) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 [O, I] in -127..127 (-63..63 in 7 bits) and float32 scales [O, 1]."""
    weight_OI = torch.from_numpy(np.array(weight, dtype=np.float32))
    scales, most = row_scales(weight_OI, bits)[:, None], largest_step(bits)
    values = (weight_OI / scales).round().clamp(-most, most).to(torch.int8)
    return values.numpy(), scales.numpy()


def _round_input(
    node: Any, ends: tuple[float, float], made: dict[tuple[str, int, tuple[float, float]], Any]
) -> None:
    """Put a FakeQuantize before a matrix product; those that would be alike are one."""
    source = node.input_value(0)
    key = (source.get_node().get_friendly_name(), source.get_index(), ends)
    if key not in made:
        scale, zero_point = (float(one) for one in input_grid(torch.tensor(ends)))
        low, high = (np.float32(scale * (step - zero_point)) for step in (0, LEVELS))
        made[key] = opset13.fake_quantize(source, low, high, low, high, LEVELS + 1)
    node.input(0).replace_source_output(made[key].output(0))
