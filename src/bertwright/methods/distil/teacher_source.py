"""What a teacher answers, and the teacher that is asked live.

Shape letters: B batch, L length, D model width, N heads, C classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from bertwright.methods.distil.projections import (
    ProjectionReader,
    Projections,
    ProjectionShape,
    heads_of,
    projection_shape,
)
from bertwright.models.roles import get_roles
from bertwright.models.task_model import TaskModel, TaskOutput

__all__ = ["Batch", "LiveTeacher", "TeacherSource", "as_teacher_source", "run_teacher"]

Batch = Mapping[str, Any]


@runtime_checkable
class TeacherSource(Protocol):
    """Anything that can say what the teacher gives for a batch of `data.batching.collate`."""

    labels: list[str]
    num_layers: int
    hidden_size: int
    heads: tuple[int, ...]
    """Attention heads of each layer."""

    def logits(self, batch: Batch) -> Tensor:
        """Return [B, C] or [B, L, C], float32, no gradient."""
        ...

    def hidden(self, batch: Batch, layer: int) -> Tensor:
        """Return [B, L, D] after `layer` layers (0: the embeddings); padding is undefined."""
        ...

    def attention(self, batch: Batch, layer: int) -> Tensor:
        """Return [B, N, L, L] of layer `layer` (from 1), queries before keys."""
        ...

    def projections(self, batch: Batch, layer: int) -> Projections:
        """Return queries, keys and values of layer `layer` (from 1); padding is undefined."""
        ...

    def projection_shape(self, layer: int) -> ProjectionShape:
        """Return how many heads, and how wide, the projections of layer `layer` (from 1) are."""
        ...


def as_teacher_source(teacher: TeacherSource | TaskModel) -> TeacherSource:
    """Return `teacher` itself, or a `LiveTeacher` around a model."""
    return LiveTeacher(teacher) if isinstance(teacher, TaskModel) else teacher


class LiveTeacher:
    """Runs the teacher on each batch: in eval mode, fp32, without gradients, once a batch.

    Give the same `LiveTeacher` to several hooks and they share that one pass.
    """

    def __init__(
        self,
        model: TaskModel,
        *,
        hidden: bool = False,
        attentions: bool = False,
        projection_layers: Sequence[int] = (),
    ) -> None:
        roles = get_roles(model.encoder)
        self.model = model
        self.labels = list(model.labels)
        self.num_layers = roles.num_layers
        self.heads = heads_of(model.encoder)
        self.hidden_size = roles.hidden_size
        self._wants_hidden = hidden
        self._wants_attentions = attentions
        self._wants_projections = set(projection_layers)
        self._ids: Tensor | None = None
        self._output: TaskOutput | None = None
        self._projections: dict[int, Projections] = {}

    def logits(self, batch: Batch) -> Tensor:
        """Return [B, C]."""
        return self._run(batch).logits.float()

    def hidden(self, batch: Batch, layer: int) -> Tensor:
        """Return [B, L, D] after `layer` layers."""
        if not self._wants_hidden:
            self._wants_hidden, self._ids = True, None
        states = self._run(batch).hidden_states
        assert states is not None
        return states[layer].float()

    def attention(self, batch: Batch, layer: int) -> Tensor:
        """Return [B, N, L, L] of layer `layer` (from 1)."""
        if not self._wants_attentions:
            self._wants_attentions, self._ids = True, None
        maps = self._run(batch).attentions
        assert maps is not None
        return maps[layer - 1].float()

    def projections(self, batch: Batch, layer: int) -> Projections:
        """Return queries, keys and values of layer `layer` (from 1), each [B, L, D]."""
        if layer not in self._wants_projections:
            self._wants_projections, self._ids = self._wants_projections | {layer}, None
        self._run(batch)
        return self._projections[layer]

    def projection_shape(self, layer: int) -> ProjectionShape:
        """Return how many heads, and how wide, the projections of layer `layer` (from 1) are."""
        return projection_shape(self.model.encoder, layer)

    def _run(self, batch: Batch) -> TaskOutput:
        ids = batch["input_ids"]
        if self._output is None or self._ids is not ids:
            with ProjectionReader(self.model.encoder, self._wants_projections) as reader:
                self._output = run_teacher(
                    self.model, batch, hidden=self._wants_hidden, attentions=self._wants_attentions
                )
            self._projections = {n: reader.take(n) for n in self._wants_projections}
            self._ids = ids
        return self._output


def run_teacher(
    model: TaskModel, batch: Batch, *, hidden: bool = False, attentions: bool = False
) -> TaskOutput:
    """Run the teacher on a batch as a teacher must be run: eval mode, fp32, no gradients.

    The model's own mode (train or eval) is as before afterwards.
    """
    device = next(model.parameters()).device
    with _evaluating(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        return model(
            batch["input_ids"].to(device),
            batch["attention_mask"].to(device),
            None if batch.get("token_type_ids") is None else batch["token_type_ids"].to(device),
            output_hidden_states=hidden,
            output_attentions=attentions,
        )


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
