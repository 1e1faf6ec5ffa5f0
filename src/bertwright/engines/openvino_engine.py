"""OpenVINO: fp32, bf16, and int8 by NNCF's post-training quantization.

A model that was trained with rounding has its int8 from the ranges that it learned, without NNCF.

Sources: OpenVINO's documentation on inference precision and asynchronous queues; NNCF's on
post-training quantization of transformers.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import Type, opset13

from bertwright.engines.base import Batch, Precision, check_right_padded
from bertwright.engines.exact_sums import exact_weight_bits
from bertwright.engines.first_token import keep_first_token
from bertwright.engines.openvino_ranges import apply_ranges
from bertwright.engines.streams import JOBS_PER_STREAM
from bertwright.engines.trace import (
    as_traced,
    example_inputs,
    group_of,
    inputs_of,
    is_in,
    layer_paths,
    tracing,
    with_inputs,
)
from bertwright.models.packed import packed_paths
from bertwright.models.ranges import WeightBits
from bertwright.models.task_model import TaskModel

__all__ = [
    "OpenVinoCompiler",
    "OpenVinoSession",
    "make_compiler",
    "missing_feature",
    "open_artifact",
    "version",
]

_XML = "model.xml"
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
_NAMES = {"f32": "fp32", "bf16": "bf16"}


def make_compiler(model: TaskModel, precision: Precision) -> OpenVinoCompiler:
    """Convert the model to an OpenVINO graph."""
    return OpenVinoCompiler(model, precision)


class OpenVinoCompiler:
    """A converted graph, to be quantized and written."""

    def __init__(self, model: TaskModel, precision: Precision) -> None:
        traced = as_traced(model)
        example = example_inputs(traced)
        with tracing(traced):
            graph = openvino.convert_model(traced, example_input=example)
        for port, name in zip(graph.inputs, traced.input_names, strict=True):
            port.get_tensor().set_names({name})
            width = [traced.roles.hidden_size] if name == "hidden" else []
            port.get_node().set_partial_shape(openvino.PartialShape([-1, -1, *width]))
        graph.validate_nodes_and_infer_types()
        self._facts = {
            "inputs": traced.input_names,
            "cls_at_end": traced.roles.cls_at_end,
            "first_token_nodes": keep_first_token(graph),
        }
        self._graph = graph
        self._precision = precision
        self._paths = layer_paths(traced)
        self._packed = packed_paths(traced)
        self._ranges = model.ranges
        if model.ranges is not None:
            tables = tuple(path for path in model.ranges.tables if path not in self._packed)
            self._ranges = replace(model.ranges, tables=tables)

    def groups(self) -> Sequence[str]:
        """Return the parts that can be left in higher precision."""
        return list(self._paths)

    def write(
        self, folder: Path, *, calibration: Sequence[Batch], kept: Sequence[str]
    ) -> dict[str, Any]:
        """Write model.xml and model.bin; int8 is calibrated on `calibration`.

        Where the model learned ranges in training, these are used and no rows are needed. Matrices
        that are not 8-bit are stored in 16 bits, but for fp32.
        """
        graph, facts = self._graph, dict(self._facts)
        if self._precision == "int8" and self._ranges is not None:
            bits: WeightBits = min(self._ranges.weight_bits, exact_weight_bits())
            facts["weight_bits"] = bits
            graph = apply_ranges(
                graph, self._ranges, lambda name: group_of(name, self._paths) in kept, bits
            )
        elif self._precision == "int8":
            facts["weight_bits"] = exact_weight_bits()
            graph = self._quantize(calibration, kept)
        if self._precision == "int8":
            _halve_matrices(graph)
        openvino.save_model(graph, folder / _XML, compress_to_fp16=self._precision != "fp32")
        return {**facts, "quantized": _quantized_layers(graph)}

    def _quantize(self, calibration: Sequence[Batch], kept: Sequence[str]) -> Any:
        import nncf

        nodes = [node.get_friendly_name() for node in self._graph.get_ordered_ops()]
        spared = [
            name
            for name in nodes
            if group_of(name, self._paths) in kept or is_in(name, self._packed)
        ]
        ignored = nncf.IgnoredScope(names=spared, validate=False)
        names: list[str] = self._facts["inputs"]  # type: ignore[assignment]
        at_end: bool = self._facts["cls_at_end"]  # type: ignore[assignment]

        halved = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
        with _quiet_nncf():
            return nncf.quantize(
                self._graph,
                nncf.Dataset(calibration, functools.partial(inputs_of, names, at_end)),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(calibration),
                ignored_scope=ignored,
                advanced_parameters=halved if exact_weight_bits() == 7 else None,
            )


@contextlib.contextmanager
def _quiet_nncf() -> Iterator[None]:
    """Keep NNCF's log lines and bars, which go to stdout, from being seen inside the block."""
    log = logging.getLogger("nncf")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(level)


def _halve_matrices(graph: Any) -> None:
    """Store the matrices that products and look-ups read in 16 bits.

    `save_model` does not do it in a graph that has 8-bit parts. Scales of rows, a column, stay.
    """
    for node in graph.get_ordered_ops():
        if node.get_type_name() not in ("MatMul", "Gather"):
            continue
        for port in (node.input(0), node.input(1)):
            exact = port.get_source_output().get_node()
            if exact.get_type_name() != "Constant" or exact.get_element_type() != Type.f32:
                continue
            with np.errstate(over="ignore"):
                half = exact.data.astype(np.float16)
            if half.ndim == 2 and half.shape[1] > 1 and np.isfinite(half).all():
                stored = opset13.constant(half, name=exact.get_friendly_name())
                port.replace_source_output(opset13.convert(stored, "f32").output(0))


def _quantized_layers(graph: Any) -> list[str]:
    """Return the names of matrix products and look-ups whose weights are 8-bit integers."""
    found = []
    for node in graph.get_ordered_ops():
        if node.get_type_name() in ("MatMul", "Gather"):
            weights = [_constant_behind(node.input_value(i).get_node()) for i in (0, 1)]
            if any(w is not None and w.get_element_type().size == 1 for w in weights):
                found.append(node.get_friendly_name())
    return sorted(found)


def _constant_behind(node: Any) -> Any:
    """Follow what only rescales a constant (FakeQuantize, Multiply, Convert) to the constant."""
    while node.get_type_name() in ("FakeQuantize", "Multiply", "Subtract", "Convert", "Reshape"):
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None


class OpenVinoSession:
    """A compiled graph, with as many infer requests as are at work at once."""

    def __init__(
        self, folder: Path, facts: Mapping[str, Any], threads: int | None, streams: int
    ) -> None:
        precision = facts["precision"]
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "NUM_STREAMS": str(streams),
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        self._compiled: Any = openvino.Core().compile_model(str(folder / _XML), "CPU", options)
        self._idle: list[Any] = []
        self._streams = streams
        self._names: list[str] = list(facts["inputs"])
        self._cls_at_end = bool(facts["cls_at_end"])
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.precision = "int8" if precision == "int8" else _NAMES.get(hint, hint)

    def _inputs(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, token_type_ids: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        check_right_padded(attention_mask)
        return with_inputs(self._names, self._cls_at_end, input_ids, attention_mask, token_type_ids)

    def __call__(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        token_type_ids: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return logits, float32 [B, C]."""
        return self.run(self._inputs(input_ids, attention_mask, token_type_ids))[0]

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs of the graph, in order; threads may call it at the same time."""
        request = self._idle.pop() if self._idle else self._compiled.create_infer_request()
        try:
            request.infer(dict(inputs))
            return [tensor.data.copy() for tensor in request.output_tensors]
        finally:
            self._idle.append(request)

    def run_many(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        """Yield logits in order; every stream works on a batch of its own."""
        if self._streams == 1:
            for batch in batches:
                yield self(**batch)
            return
        idle = [
            self._compiled.create_infer_request() for _ in range(self._streams * JOBS_PER_STREAM)
        ]
        running: deque[Any] = deque()
        for batch in batches:
            if not idle:
                yield _finish(running, idle)
            request = idle.pop()
            request.start_async(self._inputs(**{"token_type_ids": None, **batch}))
            running.append(request)
        while running:
            yield _finish(running, idle)

    def close(self) -> None:
        """Drop the graph and its memory."""
        self._idle, self._compiled = [], None


def _finish(running: deque[Any], idle: list[Any]) -> np.ndarray:
    request = running.popleft()
    request.wait()
    idle.append(request)
    return request.get_output_tensor(0).data.copy()


def open_artifact(
    folder: Path, facts: Mapping[str, Any], *, threads: int | None, streams: int
) -> OpenVinoSession:
    """Load what `OpenVinoCompiler.write` wrote."""
    return OpenVinoSession(folder, facts, threads, streams)


def missing_feature(precision: Precision) -> str | None:
    """Say why this processor cannot compute in `precision` (bf16 would silently be fp32)."""
    if precision != "bf16":
        return None
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return None if "BF16" in able else "this processor has no bfloat16 instructions"


def version() -> str:
    """Return OpenVINO's version."""
    return openvino.__version__
