"""What is traced for the engines that run graphs: a TaskModel as a function of tensors alone.

Shapes: B batch, L length, D model width, C classes.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from bertwright.engines.base import Batch
from bertwright.models.encoder import quiet_transformers
from bertwright.models.task_model import TaskModel

__all__ = [
    "TracedModel",
    "as_traced",
    "example_inputs",
    "group_of",
    "inputs_of",
    "is_in",
    "layer_paths",
    "tracing",
    "with_inputs",
]

_CLS_SEGMENT = 2


class TracedModel(TaskModel):
    """A view of a TaskModel that returns logits and takes the first token by its place.

    It shares the model's modules. Rows must be padded on the right, as the `Predictor` does: then
    the first token is at 0, and a graph can drop what only other places of the last layer need.
    """

    rows_begin_at_0 = True

    def __init__(self, model: TaskModel) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(model.__dict__)

    @property
    def input_names(self) -> list[str]:
        """The names of the tensors that make a difference, in order."""
        types = ["token_type_ids"] if self.uses_token_types else []
        return ["input_ids", "attention_mask", *types]

    @property
    def output_axes(self) -> dict[str, dict[int, str]]:
        """The names of the tensors that come out, in order, and their axes of any size."""
        axes = {0: "batch", 1: "length"} if self.outputs.level == "token" else {0: "batch"}
        return {"logits": axes}

    def scope_of(self, path: str) -> str:
        """Return what the names of nodes begin with that TorchScript traced from a module.

        It is the module's path, where all modules on the way to it are called too.
        """
        return path

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Return logits [B, C] (or [B, L, C]) from int64 [B, L]."""
        return super().forward(input_ids, attention_mask, token_type_ids).logits


def as_traced(model: TaskModel) -> TracedModel:
    """Return the view of a model that is traced, in eval mode; one that is a view, itself."""
    return (model if isinstance(model, TracedModel) else TracedModel(model)).eval()


def example_inputs(model: TracedModel) -> dict[str, Tensor]:
    """Return two rows to trace with, one of them padded; id 0 is legal in any vocabulary."""
    zeros = torch.zeros(2, 8, dtype=torch.int64)
    mask = torch.ones_like(zeros)
    mask[1, 5:] = 0
    values = {
        **{"input_ids": zeros, "attention_mask": mask, "token_type_ids": zeros.clone()},
        "hidden": torch.zeros(2, 8, model.roles.hidden_size),
    }
    return {name: values[name] for name in model.input_names}


def with_inputs(
    names: list[str],
    cls_at_end: bool,
    input_ids: np.ndarray,
    attention_mask: np.ndarray,
    token_type_ids: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Return the tensors that a graph of these inputs takes; absent token types are made.

    They are 0, and where the classification token is the last (XLNet) it has its own segment, 2.
    """
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if "token_type_ids" in names:
        if token_type_ids is None:
            token_type_ids = np.zeros_like(input_ids)
            if cls_at_end:
                last = attention_mask.sum(axis=1) - 1
                token_type_ids[np.arange(len(last)), last] = _CLS_SEGMENT
        inputs["token_type_ids"] = token_type_ids
    return {name: np.ascontiguousarray(array, dtype=np.int64) for name, array in inputs.items()}


def inputs_of(names: list[str], cls_at_end: bool, batch: Mapping[str, np.ndarray]) -> Batch:
    """Return what a graph of these inputs takes of a batch; it may be of states, not ids alone."""
    types = batch.get("token_type_ids")
    made = with_inputs(names, cls_at_end, batch["input_ids"], batch["attention_mask"], types)
    return {name: made[name] if name in made else batch[name] for name in names}


def layer_paths(model: TracedModel) -> dict[str, str]:
    """Return the parts that quantization can spare: name -> module path.

    They are the embeddings, each layer (those that share weights count once), the head, and the
    pooling where it is more than a choice or a mean of tokens.
    """
    names = {id(module): name for name, module in model.named_modules()}
    parts: dict[str, nn.Module] = {"embeddings": model.roles.embeddings}
    for number, layer in enumerate(model.roles.layers):
        if all(layer is not part for part in parts.values()):
            parts[f"layer {number}"] = layer
    parts["head"] = model.head
    pooling = model.pooling
    if pooling is not None and (pooling.reads_layers or list(pooling.parameters())):
        parts["pooling"] = pooling
    return {part: names[id(module)] for part, module in parts.items()}


def group_of(name: str, paths: dict[str, str]) -> str | None:
    """Return which part of `layer_paths` a graph node belongs to, by the path in its name."""
    return next((part for part, path in paths.items() if is_in(name, [path])), None)


def is_in(name: str, paths: Iterable[str]) -> bool:
    """Return whether a graph node was traced from one of these modules, by the path in its name."""
    dotted = f".{name.replace('/', '.')}."
    return any(f".{path}." in dotted for path in paths)


@contextlib.contextmanager
def tracing(model: TracedModel) -> Iterator[None]:
    """Prepare the block for tracing: no gradients, plain attention, no warnings.

    Plain ("eager") attention adds the mask as a large negative number. Its fused form may take a
    boolean mask, and then a padding token that sees no real one (in a sliding window) is NaN in
    some engines. Tracers warn about branches; the parity check decides whether these matter.
    """
    encoder = model.encoder
    attention = encoder.config._attn_implementation
    try:
        with warnings.catch_warnings(), quiet_transformers(), torch.no_grad():
            warnings.simplefilter("ignore")
            if attention not in (None, "eager"):
                encoder.set_attn_implementation("eager")
            yield
    finally:
        if attention not in (None, "eager"):
            encoder.set_attn_implementation(attention)
