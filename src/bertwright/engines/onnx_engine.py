"""ONNX Runtime: fp32 and dynamic int8 (weights 8-bit, activations scaled at each call).

The graph is exported with the TorchScript exporter and plain attention, which is what the fusions
of `onnxruntime.transformers` recognise. A family whose graph they do not recognise, or change for
the worse, runs unfused.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from bertwright.engines.base import Batch, Precision, check_right_padded
from bertwright.engines.exact_sums import exact_weight_bits
from bertwright.engines.streams import run_on_streams
from bertwright.engines.trace import (
    TracedModel,
    as_traced,
    example_inputs,
    group_of,
    is_in,
    layer_paths,
    tracing,
    with_inputs,
)
from bertwright.models.packed import packed_paths
from bertwright.models.stream import saved_attention_width
from bertwright.models.task_model import TaskModel
from bertwright.models.widths import widths_of

__all__ = [
    "OnnxCompiler",
    "OnnxSession",
    "make_compiler",
    "missing_feature",
    "open_artifact",
    "version",
]

_FILE = "model.onnx"
_OPSET = 17
_INT8_OPS = ("MatMul", "Gemm", "Attention", "Gather")
_FUSED_OPS = ("Attention", "MultiHeadAttention", "SkipLayerNormalization", "BiasGelu", "Gelu")
_FUSION_TOLERANCE = 1e-3


def make_compiler(model: TaskModel, precision: Precision) -> OnnxCompiler:
    """Export the model as an ONNX graph and fuse it."""
    return OnnxCompiler(model, precision)


class OnnxCompiler:
    """An exported and, where possible, fused graph, to be quantized and written."""

    def __init__(self, model: TaskModel, precision: Precision) -> None:
        traced = as_traced(model)
        plain = _export(traced)
        self._graph, fused = _fuse(plain, traced)
        self._facts = {
            "inputs": traced.input_names,
            "cls_at_end": traced.roles.cls_at_end,
            "fused": fused,
        }
        self._precision = precision
        self._scopes = _scopes(traced)
        self._packed = [traced.scope_of(path) for path in packed_paths(traced)]

    def groups(self) -> Sequence[str]:
        """Return the parts that can be left in higher precision."""
        return list(self._scopes)

    def write(
        self, folder: Path, *, calibration: Sequence[Batch], kept: Sequence[str]
    ) -> dict[str, Any]:
        """Write model.onnx. Dynamic quantization needs no calibration rows."""
        if self._precision != "int8":
            onnx.save_model(self._graph, folder / _FILE)
            return {**self._facts, "quantized": []}
        spared = [
            node.name
            for node in self._graph.graph.node
            if _part_of(node, self._scopes) in kept or is_in(node.name, self._packed)
        ]
        return {
            **self._facts,
            "weight_bits": exact_weight_bits(),
            "quantized": _quantize(self._graph, folder / _FILE, spared),
        }


def _scopes(traced: TracedModel) -> dict[str, str]:
    """Return the parts that can be spared: name -> where their nodes are, by name."""
    return {part: traced.scope_of(path) for part, path in layer_paths(traced).items()}


def _export(traced: TracedModel) -> onnx.ModelProto:
    """Export with dynamic batch and length."""
    axes: dict[str, dict[int, str]] = {n: {0: "batch", 1: "length"} for n in traced.input_names}
    outputs = traced.output_axes
    buffer = io.BytesIO()
    with tracing(traced):
        torch.onnx.export(
            traced,
            tuple(example_inputs(traced).values()),
            buffer,  # type: ignore[arg-type]
            input_names=traced.input_names,
            output_names=list(outputs),
            dynamic_axes=axes | outputs,
            opset_version=_OPSET,
            dynamo=False,
        )
    graph = onnx.load_model_from_string(buffer.getvalue())
    for number, node in enumerate(graph.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    _say_heads(graph, traced)
    return graph


def _say_heads(graph: onnx.ModelProto, traced: TracedModel) -> None:
    """Write each layer's number of heads where the graph says "as many as there are" (-1).

    The fusion of attention takes the same number for all layers otherwise, which after pruning is
    wrong.
    """
    heads = widths_of(traced.encoder).heads or ()
    layers = {f"layer {index}": count for index, count in enumerate(heads)}
    scopes, constants = _scopes(traced), _constants(graph)
    for node in graph.graph.node:
        count = layers.get(group_of(node.name, scopes) or "")
        if count is None or node.op_type != "Concat" or len(node.input) != 4:
            continue
        if constants.get(node.input[2]) == [-1] and node.input[3] in constants:
            name = f"{node.name}_heads"
            graph.graph.initializer.append(
                onnx.numpy_helper.from_array(np.array([count], np.int64), name)
            )
            node.input[2] = name


def _constants(graph: onnx.ModelProto) -> dict[str, list[int]]:
    """Return the constant lists of integers in a graph, by name."""
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    small = {name: one for name, one in tensors.items() if len(one.dims) <= 1}
    return {
        name: onnx.numpy_helper.to_array(one).flatten().tolist()
        for name, one in small.items()
        if one.data_type == onnx.TensorProto.INT64
    }


def _fuse(plain: onnx.ModelProto, traced: TracedModel) -> tuple[onnx.ModelProto, list[str]]:
    """Return the graph with fused operators and their names; the plain one if that fails.

    The fused graph must load and agree with the plain one on padded rows.
    """
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions("bert")
    options.enable_embed_layer_norm = False
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        copied = onnx.ModelProto()
        copied.CopyFrom(plain)
        roles = traced.roles
        optimized = optimizer.optimize_model(
            copied,
            model_type="bert",
            num_heads=roles.num_heads,
            hidden_size=saved_attention_width(roles.encoder.config) or roles.hidden_size,
            optimization_options=options,
            opt_level=0,
        )
        fused = optimized.model
        if all(opset.domain != "com.microsoft" for opset in fused.opset_import):
            fused.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
        operators = sorted({node.op_type for node in fused.graph.node} & set(_FUSED_OPS))
        if operators and _agree(plain, fused, traced):
            return fused, operators
    except Exception:  # the optimizer fails in many ways on graphs that it was not written for
        pass
    finally:
        logging.disable(level)
    return plain, []


def _agree(plain: onnx.ModelProto, fused: onnx.ModelProto, traced: TracedModel) -> bool:
    generator = np.random.default_rng(0)
    vocabulary, width = traced.roles.encoder.config.vocab_size, traced.roles.hidden_size
    ids = generator.integers(0, vocabulary, (3, 11))
    mask = (np.arange(11) < np.array([[11], [6], [1]])).astype(np.int64)
    made = with_inputs(traced.input_names, traced.roles.cls_at_end, ids, mask, None)
    made["hidden"] = generator.normal(size=(*ids.shape, width)).astype(np.float32)
    inputs = {name: made[name] for name in traced.input_names}
    expected, found = (
        [np.asarray(one) for one in _load(graph.SerializeToString(), 1).run(None, inputs)]
        for graph in (plain, fused)
    )
    for e, f, axes in zip(expected, found, traced.output_axes.values(), strict=True):
        difference = np.abs(e - f)[mask > 0] if 1 in axes else np.abs(e - f)
        if not difference.max() <= _FUSION_TOLERANCE:
            return False
    return True


def _quantize(graph: onnx.ModelProto, file: Path, spared: Sequence[str]) -> list[str]:
    """Write the graph with 8-bit weights, `spared` nodes as they are; return what was quantized."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        copied = onnx.ModelProto()
        copied.CopyFrom(graph)
        quantize_dynamic(
            copied,
            file,
            op_types_to_quantize=list(_INT8_OPS),
            per_channel=True,
            reduce_range=exact_weight_bits() == 7,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(spared),
            extra_options={
                "DefaultTensorType": onnx.TensorProto.FLOAT,
                "MatMulConstBOnly": True,
            },
        )
    finally:
        logging.disable(level)
    written = onnx.load_model(file)
    eight_bits = {
        tensor.name
        for tensor in written.graph.initializer
        if tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) and tensor.dims
    }
    return sorted(node.name for node in written.graph.node if eight_bits.intersection(node.input))


def _part_of(node: Any, scopes: dict[str, str]) -> str | None:
    """Return the part a node belongs to; fused ones say so only by their outputs' names."""
    for name in (node.name, *node.output):
        part = group_of(name, scopes)
        if part is not None:
            return part
    return None


def _load(model: bytes | str, threads: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxSession:
    """A loaded graph. With one stream each call uses all threads.

    With several, `run_many` has a call at work on each, with its share of the threads.
    """

    def __init__(
        self, folder: Path, facts: Mapping[str, Any], threads: int | None, streams: int
    ) -> None:
        if streams > 1:
            threads = max(1, (threads or streams) // streams)
        self._session: Any = _load(str(folder / _FILE), threads)
        self._streams = streams
        self._names: list[str] = list(facts["inputs"])
        self._cls_at_end = bool(facts["cls_at_end"])
        self.precision: str = facts["precision"]

    def __call__(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        token_type_ids: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return logits, float32 [B, C]."""
        check_right_padded(attention_mask)
        inputs = with_inputs(
            self._names, self._cls_at_end, input_ids, attention_mask, token_type_ids
        )
        return self.run(inputs)[0]

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs of the graph, in order; threads may call it at the same time."""
        return self._session.run(None, dict(inputs))

    def run_many(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        """Yield logits in order; every stream works on a batch of its own."""
        return run_on_streams(self, batches, self._streams)

    def close(self) -> None:
        """Drop the graph."""
        self._session = None


def open_artifact(
    folder: Path, facts: Mapping[str, Any], *, threads: int | None, streams: int
) -> OnnxSession:
    """Load what `OnnxCompiler.write` wrote."""
    return OnnxSession(folder, facts, threads, streams)


def missing_feature(precision: Precision) -> str | None:
    """Return None: both precisions run on every processor."""
    return None


def version() -> str:
    """Return ONNX Runtime's version."""
    return onnxruntime.__version__
