"""Taking dimensions out of an encoder's states, the least important first.

Shapes: B batch, L length, D width of the states.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.data.tokenise import EncodedRows
from bertwright.methods.prune.importance import choose_kept, mean_gradients, random_scores
from bertwright.models.build import copy_with_width
from bertwright.models.quantized import refuse_quantized
from bertwright.models.roles import Roles
from bertwright.models.stream import (
    NORMS,
    READERS,
    WRITERS,
    embedding_parts,
    refuse_fixed_width,
    stream_start,
)
from bertwright.models.task_model import TaskModel
from bertwright.registry import register_method
from bertwright.tasks.objective import Objective

__all__ = ["WidthPruning", "WidthPruningConfig", "width_gradients", "width_magnitudes"]


@dataclass(frozen=True, kw_only=True)
class WidthPruningConfig:
    """Options of width pruning."""

    share: float = 0.5
    """Share of the dimensions of the states that is kept."""
    by: Literal["gradient", "magnitude", "random"] = "gradient"
    """How important a dimension is: what the loss would notice, the weights that read and write it,
    or drawn at random (the control)."""
    multiple: int = 32
    """A multiple of so many dimensions is kept: kernels work in blocks."""
    seed: int = 0
    """Of what is drawn at random."""

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "share", self.share, "above 0, at most 1")
        require(self.multiple >= 1, "multiple", self.multiple, "at least 1")


CARD = MethodCard(
    name="width_pruning",
    kind="prune",
    summary="Take out the dimensions of the states that the loss would miss least, everywhere.",
    paper="Structured Pruning Learns Compact and Accurate Models",
    year=2022,
    citation="Xia, Zhong, Chen 2022, arXiv:2204.00408 (CoFi)",
    equation=(
        "gradient: I_d = mean over rows of |d loss_row / d gate_d|, one gate of 1 at dimension d\n"
        "of the first states and after every norm, so a sum over places and tokens of h_d dh_d;\n"
        "magnitude: sum over matrices of ||slice_d||^2 / mean over d of ||slice_d||^2;\n"
        "the share with the largest I_d stays, the same dimensions everywhere"
    ),
    needs=(
        "A fine-tuned model; labelled rows (not for magnitude). Roles: embeddings, query, key, "
        "value, attention_output, ffn_in, ffn_out and the norms."
    ),
    cost="One forward and backward pass over the rows; then training, without which it is poor.",
    expected_effect=(
        "CoFi, which learns what to take out, leaves nearly all dimensions in, as 760 of 768: "
        "they are what layers have in common, and the first cut hurts all of them."
    ),
    expected_source="Xia et al. 2022, section 3.1, quoted from memory.",
    when_to_use=(
        "Where embeddings and all matrices have to become smaller at once and there is a teacher "
        "to train with afterwards."
    ),
    when_not_to_use=(
        "Without training. Norms divide by the spread of what is left, so even taking out a "
        "dimension that was 0 changes all others."
    ),
    siblings=(
        "neuron_pruning and head_pruning narrow the layers and leave the states; "
        "embedding_factors thins the table alone. student_init drops whole layers."
    ),
    departures="One shot by first-order importance; CoFi learns a mask while it trains.",
)


@register_method(config=WidthPruningConfig, card=CARD)
class WidthPruning:
    """Makes thinner models; runs before training, so it is not a hook."""

    def __init__(self, config: WidthPruningConfig) -> None:
        self.config = config

    def apply(self, model: TaskModel, rows: EncodedRows, task: Objective) -> TaskModel:
        """Return a copy of the model with the most important dimensions for these labelled rows.

        Raises:
            UnsupportedRoleError: the family, the pooling or the head keeps its width.
            UsageError: the model has been quantized.
        """
        refuse_quantized(model, "it cannot be pruned")
        refuse_fixed_width(model.roles)
        scores = self._scores(model, rows, task)
        kept = choose_kept([scores], self.config.share, multiple=self.config.multiple)
        return copy_with_width(model, kept[0])

    def _scores(self, model: TaskModel, rows: EncodedRows, task: Objective) -> Tensor:
        if self.config.by == "gradient":
            return width_gradients(model, rows, task)
        if self.config.by == "magnitude":
            return width_magnitudes(model)
        return random_scores([model.roles.hidden_size], self.config.seed)[0]


def width_gradients(
    model: TaskModel, rows: EncodedRows, task: Objective, *, batch_tokens: int = 2048
) -> Tensor:
    """Return mean over rows of |d loss_row / d gate_d| for a gate of 1 at every dimension, [D].

    A row's gate of a dimension multiplies it wherever states are made: before the first layer and
    after every norm.

    Args:
        model: stays on its device and in its mode; dropout is off.
        rows: labelled features.
        task: whose loss.
        batch_tokens: most tokens in a batch, padding counted.
    """
    gates = _WidthGates(model.roles)
    return mean_gradients(model, rows, task, gates, batch_tokens=batch_tokens)["width"][0]


class _WidthGates:
    """Gates [B, D] on the states wherever they are made."""

    def __init__(self, roles: Roles) -> None:
        self._roles = roles
        self._handles: list[Any] = []
        self._gate = torch.empty(0)

    def __enter__(self) -> _WidthGates:
        for place in _places(self._roles):
            self._handles.append(place.register_forward_hook(self._gated))
        return self

    def __exit__(self, *args: object) -> None:
        for handle in self._handles:
            handle.remove()

    def open(self, num_rows: int) -> None:
        """Make new gates of 1 for the rows of a batch."""
        device = next(self._roles.encoder.parameters()).device
        shape = (num_rows, self._roles.hidden_size)
        self._gate = torch.ones(shape, device=device, requires_grad=True)

    def gradients(self) -> dict[str, list[Tensor]]:
        """Return the sum over the rows of the gradients' absolute values."""
        assert self._gate.grad is not None
        return {"width": [self._gate.grad.abs().sum(dim=0)]}

    def _gated(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output * self._gate.unsqueeze(1).to(output.dtype)


def _places(roles: Roles) -> Iterator[nn.Module]:
    yield stream_start(roles.encoder)
    for index in range(roles.num_layers):
        for role in NORMS:
            yield roles.part(index, role)


def width_magnitudes(model: TaskModel) -> Tensor:
    """Return how much of the weights that read or write each dimension has, [D]; no rows needed.

    Of each matrix a dimension has the squared length of its row or column, divided by their mean;
    the sum over the matrices is returned.
    """
    lengths = [length.square() / length.square().mean() for length in _slice_lengths(model.roles)]
    return torch.stack(lengths).sum(dim=0)


@torch.no_grad()
def _slice_lengths(roles: Roles) -> Iterator[Tensor]:
    for _, _, module in embedding_parts(roles.encoder):
        if isinstance(module, nn.Linear):
            yield module.weight.norm(dim=1)
        elif isinstance(module, nn.Embedding):
            projection = getattr(module, "projection", None)
            yield module.weight.norm(dim=0) if projection is None else projection.weight.norm(dim=1)
    for index in range(roles.num_layers):
        for role, dim in (*((r, 0) for r in READERS), *((w, 1) for w in WRITERS)):
            part: Any = roles.part(index, role)
            yield part.weight.norm(dim=dim)
