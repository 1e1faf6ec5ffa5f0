"""Compute in the last layer only what the first token's state needs.

A classifier that reads the first token discards the last layer's other rows, yet a converted graph
computes them: query, attention output and feed-forward network for every token. This rewrites an
OpenVINO graph so that the choice of row 0 moves up, through all that works row by row, to where
the full sequence is really needed (the keys and values). The numbers stay the same. Of a one-layer
student it saves some two thirds of the work, of six layers about a ninth.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["keep_first_token"]

_BINARY = {
    "Add",
    "Divide",
    "Maximum",
    "Minimum",
    "Multiply",
    "Power",
    "SquaredDifference",
    "Subtract",
}
_UNARY = {"Convert", "Erf", "Exp", "Gelu", "Negative", "Relu", "Sigmoid", "Sqrt", "Swish", "Tanh"}

_Edge = tuple[Any, int]
"""An input of a node, and the axis along which only its first slice is needed."""


def keep_first_token(model: Any) -> int:
    """Rewrite an `openvino.Model` [B, L] -> [B, C] in place where it picks a row's first state.

    Returns:
        How many nodes now work on one token instead of all; 0 when there is nothing to gain.
    """
    count = 0
    for gather in [node for node in model.get_ordered_ops() if _picks_first_token(node)]:
        count += _move_up(model, gather)
    if count:
        model.validate_nodes_and_infer_types()
    return count


def _move_up(model: Any, gather: Any) -> int:
    """Move the slice above `gather` up as far as it goes; return how many nodes it passed.

    A node is passed when every reader of its output is content with the first slice.
    """
    wanted: dict[str, list[_Edge]] = {_producer(gather.input(0)): [(gather.input(0), 1)]}
    cuts: list[_Edge] = []
    passed = 0
    for node in reversed(model.get_ordered_ops()):
        edges = wanted.pop(node.get_friendly_name(), [])
        if not edges:
            continue
        sources = _slices_of_inputs(node, edges[0][1]) if _all_content(node, edges) else None
        if sources is None:
            cuts += edges
            continue
        passed += 1
        for index, axis in sources:
            edge = (node.input(index), axis)
            wanted.setdefault(_producer(edge[0]), []).append(edge)
    for reader, axis in cuts:
        reader.replace_source_output(_first_slice(reader.get_source_output(), axis))
    return passed


def _producer(reader: Any) -> str:
    return reader.get_source_output().get_node().get_friendly_name()


def _all_content(node: Any, edges: list[_Edge]) -> bool:
    if node.get_output_size() != 1 or len({axis for _, axis in edges}) != 1:
        return False
    return len(edges) == len(node.output(0).get_target_inputs())


def _first_slice(output: Any, axis: int) -> Any:
    from openvino import opset13

    zero, one, along = (opset13.constant(np.array([n], np.int64)) for n in (0, 1, axis))
    return opset13.slice(output, zero, one, one, along).output(0)


def _picks_first_token(node: Any) -> bool:
    if node.get_type_name() != "Gather" or node.get_input_size() != 3:
        return False
    hidden, index, axis = node.input_values()
    return (
        _rank(hidden) == 3
        and hidden.get_element_type().is_real()
        and _constant(index) == [0]
        and _constant(axis) in ([1], [-2])
    )


def _constant(output: Any) -> list[int] | None:
    node = output.get_node()
    if node.get_type_name() != "Constant" or node.get_element_type().is_real():
        return None
    return [int(value) for value in node.data.flatten()]


def _rank(output: Any) -> int | None:
    rank = output.get_partial_shape().rank
    return rank.get_length() if rank.is_static else None


def _size(output: Any, axis: int) -> int | None:
    size = output.get_partial_shape()[axis]
    return size.get_length() if size.is_static else None


def _slices_of_inputs(node: Any, axis: int) -> list[tuple[int, int]] | None:
    """Return which inputs, along which axes, may be cut to their first slice.

    So that the node's output is what it was, cut along `axis`. None: the node needs its whole
    inputs, or is not known to work slice by slice.
    """
    kind, inputs = node.get_type_name(), node.input_values()
    ranks = [_rank(value) for value in inputs]
    rank = _rank(node.output(0))
    if rank is None or None in ranks:
        return None
    if kind in _BINARY:
        axes = [axis - rank + r for r in ranks if r is not None]
        return [(i, a) for i, a in enumerate(axes) if a >= 0 and _size(inputs[i], a) != 1]
    if kind in _UNARY:
        return [(0, axis)]
    if kind == "MVN":
        along = _constant(inputs[1])
        return None if along is None or axis in [a % rank for a in along] else [(0, axis)]
    if kind == "Softmax":
        return None if node.get_attributes()["axis"] % rank == axis else [(0, axis)]
    if kind == "MatMul":
        if axis != rank - 2 or ranks[0] != rank:
            return None
        return [(0, rank - 1 if node.get_attributes()["transpose_a"] else rank - 2)]
    if kind == "ScaledDotProductAttention":
        return _slices_of_attention(node, inputs, ranks, axis)
    if kind == "Transpose":
        order = _constant(inputs[1])
        return None if order is None else [(0, order[axis])]
    if kind == "Reshape":
        return [(0, axis)] if _reshape_keeps(node, inputs, axis) else None
    return None


def _slices_of_attention(
    node: Any, inputs: list[Any], ranks: list[int | None], axis: int
) -> list[tuple[int, int]] | None:
    """Only queries, and the rows of a mask that differs by query, can be cut."""
    if ranks[0] is None or axis != ranks[0] - 2 or node.get_attributes().get("causal"):
        return None
    sources = [(0, axis)]
    if len(inputs) > 3 and ranks[3] is not None and ranks[3] >= 2:
        query_axis = ranks[3] - 2
        if _size(inputs[3], query_axis) != 1:
            sources.append((3, query_axis))
    return sources


def _reshape_keeps(node: Any, inputs: list[Any], axis: int) -> bool:
    """Whether the axis and all before it stay, and the target says so without their sizes."""
    target, rank = _constant(inputs[1]), _rank(inputs[0])
    if target is None or rank is None or rank <= axis or not node.get_attributes()["special_zero"]:
        return False
    before = all(target[i] == 0 or target[i] == _size(inputs[0], i) for i in range(axis))
    if not before:
        return False
    return target[axis] == 0 or (
        target[axis] == -1 and _same_tail(target[axis + 1 :], inputs[0], axis + 1, rank)
    )


def _same_tail(target: list[int], value: Any, start: int, rank: int) -> bool:
    """Whether the sizes behind multiply to the same, so that -1 stands for the axis itself."""
    sizes = [_size(value, i) for i in range(start, rank)]
    if None in sizes or 0 in target:
        return target == [0] * len(target) and len(target) == rank - start
    return int(np.prod(target)) == int(np.prod([s for s in sizes if s is not None]))
