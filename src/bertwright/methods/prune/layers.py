"""Which layers a model can do without, by labelled rows.

Shapes: B batch, L length, D model width, K layers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import ConfigError, UnsupportedRoleError
from bertwright.methods.prune.importance import mean_gradients
from bertwright.models.build import copy_with_layers, refuse_fixed_layers
from bertwright.models.quantized import refuse_quantized
from bertwright.models.roles import Roles
from bertwright.models.task_model import TaskModel
from bertwright.registry import register_method
from bertwright.surgery.layers import keep_layers
from bertwright.tasks.objective import Objective
from bertwright.training.evaluation import evaluate_model

__all__ = [
    "DroppedLayer",
    "LayerPruning",
    "LayerPruningConfig",
    "drop_by_importance",
    "kept_layers",
    "layer_importance",
    "only_layers",
    "search_layers",
]


@dataclass(frozen=True)
class DroppedLayer:
    """One step on the way to fewer layers."""

    layer: int
    """Which one went, as it was numbered before any did."""
    figure: float
    """Why: its importance, or the score without it and those that went before."""


def layer_importance(
    model: TaskModel, rows: EncodedRows, task: Objective, *, batch_tokens: int = 2048
) -> Tensor:
    """Return mean over rows of |d loss_row / d g_l|, [K], for gates g = 1 at every layer.

    A gate scales what a layer changes: x + g (layer(x) - x), at all tokens of a row. Each row has
    gates of its own, as `gate_gradients` explains.

    Args:
        model: stays on its device and in its mode; dropout is off.
        rows: labelled features.
        task: whose loss.
        batch_tokens: most tokens in a batch, padding counted.

    Source: the gates of Michel, Levy, Neubig 2019, arXiv:1905.10650, at layers.
    """
    gates = _LayerGates(model.roles)
    return torch.stack(
        mean_gradients(model, rows, task, gates, batch_tokens=batch_tokens)["layers"]
    )


class _LayerGates:
    """Gates of 1 at the change that each layer makes, one a row and layer.

    A layer that stands in several places (albert) has a gate in each.
    """

    def __init__(self, roles: Roles) -> None:
        self._roles = roles
        self._layers = roles.layers
        self._handles: list[Any] = []
        self._gates: list[Tensor] = []
        self._calls = 0

    def __enter__(self) -> _LayerGates:
        for layer in dict.fromkeys(self._layers):
            self._handles.append(layer.register_forward_hook(self._gated))
        return self

    def __exit__(self, *args: object) -> None:
        for handle in self._handles:
            handle.remove()

    def open(self, num_rows: int) -> None:
        """Make new gates of 1 for the rows of a batch."""
        device = next(self._roles.encoder.parameters()).device
        self._gates = [
            torch.ones(num_rows, device=device, requires_grad=True) for _ in self._layers
        ]
        self._calls = 0

    def gradients(self) -> dict[str, list[Tensor]]:
        """Return the sum over the rows of the gradients' absolute values; 0 where none came."""
        zero = torch.zeros((), device=self._gates[0].device)
        return {"layers": [zero if g.grad is None else g.grad.abs().sum() for g in self._gates]}

    def _gated(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        gate = self._gates[self._calls % len(self._gates)]
        self._calls += 1
        before = args[0]
        after = output[0] if isinstance(output, tuple) else output
        shape = (1, -1, 1) if self._roles.record.length_first else (-1, 1, 1)
        by_token = gate.view(shape).to(after.dtype)
        gated = after + (by_token - 1) * (after - before)  # at 1 exactly what it was
        return (gated, *output[1:]) if isinstance(output, tuple) else gated


@contextlib.contextmanager
def only_layers(model: TaskModel, kept: Sequence[int]) -> Iterator[TaskModel]:
    """Give a model of only these layers inside the block; afterwards `model` is as it was.

    It is `model` itself, without copies, unless its pooling reads inner layers and has to change.

    Raises:
        UsageError: no layer is kept, or they are out of range or not increasing.
        UnsupportedRoleError: the family cannot do without one of the others.
    """
    if model.pooling is not None and model.pooling.reads_layers:
        yield copy_with_layers(model, kept)
        return
    roles = model.roles
    layers = roles.layers
    roles.set_layers(keep_layers(layers, kept))
    try:
        yield model
    finally:
        roles.set_layers(layers)


def drop_by_importance(
    model: TaskModel, importance: Sequence[float] | Tensor, num_layers: int
) -> list[DroppedLayer]:
    """Return which layers go, first the least important; of equals the lower.

    A layer that the family cannot do without (modernbert's first) stays.

    Args:
        model: left as it is.
        importance: of each layer, [K].
        num_layers: how many stay, 1 to K.

    Raises:
        UnsupportedRoleError: the family cannot have so few layers of these.
    """
    figures = [float(one) for one in importance]
    kept, dropped = list(range(len(figures))), []
    while len(kept) > num_layers:
        by_figure = sorted(kept, key=lambda layer: (figures[layer], layer))
        gone = next((one for one in by_figure if _can_do_without(model, kept, one)), None)
        if gone is None:
            raise _stuck(model, kept, num_layers)
        kept.remove(gone)
        dropped.append(DroppedLayer(gone, figures[gone]))
    return dropped


def search_layers(
    model: TaskModel,
    rows: EncodedRows,
    task: Objective,
    num_layers: int,
    *,
    batch_tokens: int = 2048,
) -> list[DroppedLayer]:
    """Return which layers go, in each round the one without which the score is highest.

    The score is the task's primary metric on `rows`, in 32-bit floats, of exactly the model that
    would be left; of equals the lower layer goes. K + (K-1) + ... evaluations.

    Args:
        model: stays on its device and in its mode, and is left as it is.
        rows: labelled features.
        task: whose score.
        num_layers: how many stay, 1 to K.
        batch_tokens: most tokens in a batch, padding counted.

    Raises:
        UnsupportedRoleError: the family cannot have so few layers of these.
    """
    primary = task.judging(rows).primary
    kept, dropped = list(range(model.roles.num_layers)), []
    while len(kept) > num_layers:
        best: DroppedLayer | None = None
        for layer in kept:
            if not _can_do_without(model, kept, layer):
                continue
            with only_layers(model, [one for one in kept if one != layer]) as smaller:
                metrics, _ = evaluate_model(smaller, rows, task, batch_tokens, "fp32")
            score = metrics[primary]
            score = -math.inf if math.isnan(score) else score
            if best is None or score > best.figure:
                best = DroppedLayer(layer, score)
        if best is None:
            raise _stuck(model, kept, num_layers)
        kept.remove(best.layer)
        dropped.append(best)
    return dropped


def kept_layers(num_layers_t: int, dropped: Sequence[DroppedLayer]) -> tuple[int, ...]:
    """Return the layers of `num_layers_t` that are left, increasing."""
    gone = {one.layer for one in dropped}
    return tuple(layer for layer in range(num_layers_t) if layer not in gone)


def _can_do_without(model: TaskModel, kept: Sequence[int], layer: int) -> bool:
    roles = model.roles
    layers = roles.layers
    try:
        roles.set_layers([layers[one] for one in kept if one != layer])
    except UnsupportedRoleError:
        return False
    roles.set_layers(layers)
    return True


def _stuck(model: TaskModel, kept: Sequence[int], num_layers: int) -> UnsupportedRoleError:
    return UnsupportedRoleError(
        f"{model.roles.family} cannot do without any of the layers {'+'.join(map(str, kept))}, so "
        f"{num_layers} cannot be reached by dropping one after the other",
        hint="name the layers that stay, as 0+2+5",
    )


@dataclass(frozen=True, kw_only=True)
class LayerPruningConfig:
    """Options of layer pruning."""

    num_layers: int
    """How many layers stay."""
    by: Literal["importance", "search"] = "importance"
    """How those that go are found: what the loss would notice of each (one pass over the rows), or
    the score without each, one going after the other (many passes)."""

    def __post_init__(self) -> None:
        require(self.num_layers >= 1, "num_layers", self.num_layers, "at least 1")


CARD = MethodCard(
    name="layer_pruning",
    kind="prune",
    summary="Take out the layers that labelled rows show to matter least; nothing is trained.",
    paper="Reducing Transformer Depth on Demand with Structured Dropout",
    year=2020,
    citation=(
        "Fan, Grave, Joulin 2020, arXiv:1909.11556 (search on a dev set); "
        "Michel, Levy, Neubig 2019, arXiv:1905.10650 (gates)"
    ),
    equation=(
        "importance: I_l = mean over rows of |d loss_row / d g_l| at g = 1, where layer l gives\n"
        "x + g_l (layer_l(x) - x), each row its own g; the layers with the least I_l go\n"
        "search: until k are left, drop argmax over l of score(model without l); ties: lowest l"
    ),
    needs=(
        "A trained model, labelled rows (better not those of the test: the choice fits them). "
        "Roles: layers. Every family; modernbert keeps its first layer."
    ),
    cost=(
        "importance: one forward and backward pass over the rows. search: K + (K-1) + ... + (k+1) "
        "evaluations of ever fewer layers. No copy of the model while looking."
    ),
    expected_effect=(
        "The authors of LayerDrop found that a search gains little over evenly spaced layers."
    ),
    expected_source="Fan et al. 2020, quoted from memory; not measured here.",
    when_to_use=(
        "To have a shallower model at once, best of one trained with layer_drop; to see which "
        "layers a task uses; to choose where a student starts."
    ),
    when_not_to_use=(
        "As the end of the road for a model trained without layer_drop: its layers rely on each "
        "other, so train on (distil). Without labelled rows: uniform."
    ),
    siblings=(
        "student_init has rules that look at no data. head_pruning and neuron_pruning make layers "
        "narrower by the same kind of gate."
    ),
    departures=(
        "The paper names no rule but every other layer and a search; gates at layers are the "
        "heads' technique applied to the whole layer. Gates see one layer at a time: two layers "
        "that stand in for each other look both dispensable. The search is greedy."
    ),
)


@register_method(config=LayerPruningConfig, card=CARD)
class LayerPruning:
    """Makes shallower models; trains nothing, so it is not a hook."""

    def __init__(self, config: LayerPruningConfig) -> None:
        self.config = config

    def choose(self, model: TaskModel, rows: EncodedRows, task: Objective) -> list[DroppedLayer]:
        """Return which layers of the model go, in order, by these labelled rows.

        Raises:
            ConfigError: the model has not so many layers.
            UnsupportedRoleError: the family cannot do without enough of them.
            UsageError: the model has been quantized.
        """
        refuse_quantized(model, "its layers cannot be taken out")
        refuse_fixed_layers(model)
        depth, count = model.roles.num_layers, self.config.num_layers
        if count > depth:
            raise ConfigError(
                f"layer_pruning: num_layers {count}: the model has {depth} layers",
                hint=f"choose from 1 to {depth}",
            )
        if self.config.by == "search":
            return search_layers(model, rows, task, count)
        return drop_by_importance(model, layer_importance(model, rows, task), count)

    def apply(self, model: TaskModel, rows: EncodedRows, task: Objective) -> TaskModel:
        """Return a copy of the model with the layers that stay; raises as `choose`."""
        dropped = self.choose(model, rows, task)
        return copy_with_layers(model, kept_layers(model.roles.num_layers, dropped))
