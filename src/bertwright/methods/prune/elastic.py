"""One training for every size: all depths and many widths of a model learn together.

Shapes: B batch, L length, D model width, K layers, N heads, F neurons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import UsageError
from bertwright.methods.distil.soft_targets import SoftTargets
from bertwright.methods.prune.gates import Gates, Part, attach_gates
from bertwright.methods.prune.importance import gate_gradients
from bertwright.models.build import copy_in_order
from bertwright.models.in_parts import check_runs_in_parts
from bertwright.models.pooling import States
from bertwright.models.task_model import TaskModel, TaskOutput
from bertwright.models.widths import widths_of
from bertwright.registry import register_method
from bertwright.tasks.objective import Objective
from bertwright.training.hooks import Hook, RunState

__all__ = [
    "Elastic",
    "ElasticConfig",
    "Widths",
    "check_elastic",
    "draw_widths",
    "elastic_grids",
    "order_by_importance",
    "width_grid",
]

_STREAM = 200404037
"""Keeps these draws apart from other methods' draws for the same seed and step."""

Widths = Mapping[Part, int]
"""How many heads and neurons each layer has."""


@dataclass(frozen=True, kw_only=True)
class ElasticConfig:
    """Options of elastic training."""

    layers: int = 1
    """Fewest layers of a size."""
    heads: float = 0.25
    """Smallest share of the heads of a layer."""
    neurons: float = 0.25
    """Smallest share of its neurons."""
    widths: int = 4
    """In how many steps heads and neurons go from the smallest share to all."""
    multiple: int = 32
    """Neurons come in multiples of so many."""

    def __post_init__(self) -> None:
        require(self.layers >= 1, "layers", self.layers, "at least 1")
        for name in ("heads", "neurons"):
            share = getattr(self, name)
            require(0 < share <= 1, name, share, "above 0, at most 1")
        require(self.widths >= 2, "widths", self.widths, "at least 2")
        require(self.multiple >= 1, "multiple", self.multiple, "at least 1")


def width_grid(count: int, least: float, steps: int, multiple: int = 1) -> tuple[int, ...]:
    """Return numbers of heads or neurons, from a share of them to all, increasing.

    Args:
        count: all.
        least: the smallest share.
        steps: how many numbers, where they differ.
        multiple: each but the last is rounded up to one of these.
    """
    shares = np.linspace(least, 1, steps)
    rounded = [-(-round(share * count, 6) // multiple) * multiple for share in shares]
    return tuple(sorted({min(count, max(1, int(one))) for one in rounded} | {count}))


def draw_widths(grids: Mapping[Part, Sequence[int]], *, seed: int, step: int) -> Widths:
    """Return the widths of a step: all, the smallest, and drawn ones, in turn (a sandwich).

    The answer depends on nothing but the arguments, so a resumed run meets the same ones.

    Args:
        grids: what each may be, increasing.
        seed: of the run.
        step: from 0.

    Source: Yu and Huang 2019, arXiv:1903.05134; there all three in every step.
    """
    if step % 3 == 0:
        return {part: grid[-1] for part, grid in grids.items()}
    if step % 3 == 1:
        return {part: grid[0] for part, grid in grids.items()}
    generator = np.random.default_rng((seed % 2**32, step, _STREAM))
    return {part: int(generator.choice(grid)) for part, grid in grids.items()}


def order_by_importance(model: TaskModel, rows: EncodedRows, task: Objective) -> TaskModel:
    """Return a copy that computes the same, the most important heads and neurons first.

    Important is what the loss of these labelled rows would notice; see `gate_gradients`.
    """
    found = gate_gradients(model, rows, task)
    orders = {
        part: {
            index: one.argsort(descending=True, stable=True).tolist()
            for index, one in enumerate(scores)
        }
        for part, scores in (("heads", found.heads), ("neurons", found.neurons))
        if scores is not None
    }
    return copy_in_order(model, **orders)


def check_elastic(model: TaskModel, config: ElasticConfig) -> None:
    """Check that all sizes of a model can be trained at once.

    Raises:
        ConfigError: it has fewer layers than the smallest size.
        UsageError: the pooling reads several layers, or layers have several shapes.
        UnsupportedFamilyError: the encoder cannot be stopped between its layers.
    """
    check_runs_in_parts(model.roles, "elastic training")
    if model.pooling is not None and model.pooling.reads_layers:
        raise UsageError(
            f"elastic training: the pooling {model.config.pooling} reads several layers, and "
            "a size has only some",
            hint="fine-tune with --pooling mean or cls",
        )
    depth, widths = model.roles.num_layers, widths_of(model.encoder)
    require(config.layers <= depth, "layers", config.layers, f"at most {depth}")
    for part, counts in (("heads", widths.heads), ("neurons", widths.neurons)):
        if len(set(counts or ())) > 1:
            raise UsageError(
                f"elastic training: the layers of this model have {counts} {part}",
                hint="take the model that it was made of",
            )


def elastic_grids(model: TaskModel, config: ElasticConfig) -> dict[Part, tuple[int, ...]]:
    """Return how many heads and neurons the layers of a size may have, increasing."""
    widths = widths_of(model.encoder)
    counts: dict[Part, tuple[int, ...] | None] = {
        "heads": widths.heads,
        "neurons": widths.neurons,
    }
    shares = {"heads": config.heads, "neurons": config.neurons}
    multiples = {"heads": 1, "neurons": config.multiple}
    return {
        part: width_grid(have[0], shares[part], config.widths, multiples[part])
        for part, have in counts.items()
        if have
    }


CARD = MethodCard(
    name="elastic",
    kind="prune",
    summary="Train all depths and many widths at once; any of them is cut out without training.",
    paper="DynaBERT: Dynamic BERT with Adaptive Width and Depth",
    year=2020,
    citation=(
        "Hou et al. 2020, arXiv:2004.04037; sandwich: Yu, Huang 2019, arXiv:1903.05134; quoted "
        "from memory"
    ),
    equation=(
        "heads and neurons in the order of mean over rows of |d loss_row / d gate|, largest first\n"
        "a step has the first n heads and the first f neurons of each layer: all, the fewest, or\n"
        "drawn, in turn\n"
        "loss = mean over depths d of loss(head(pool(h_d))), h_d the states after d layers"
    ),
    needs=(
        "A fine-tuned model, labelled rows; a teacher beside it by soft_targets. Families: bert, "
        "roberta, xlm-roberta, electra, distilbert. A pooling of the last layer."
    ),
    cost=(
        "One pass over the rows for the order; then the head once a depth, and a multiplication of "
        "heads and neurons. A step costs what one of the whole model costs."
    ),
    expected_effect=(
        "DynaBERT: sizes of BERT-base close to students trained for each size. Here not measured "
        "yet."
    ),
    expected_source="Hou et al. 2020, quoted from memory.",
    when_to_use="When it is not known which size is wanted, or several are.",
    when_not_to_use="When one size is wanted: train that one.",
    siblings=(
        "layer_drop trains for depths alone. gradual_pruning and head_pruning end with one size. "
        "early_exit has a head a layer, and lets each text choose its depth."
    ),
    departures=(
        "Depth and width in one run, depths nested: the first d layers, all of which learn in each "
        "step, where DynaBERT drops layers evenly and trains width first. One head for all depths. "
        "A step has one width, where the sandwich has three. The teacher is asked once, and its "
        "hidden states are not followed. The last weights are kept, not those best for the whole."
    ),
)


@register_method(config=ElasticConfig, card=CARD)
class Elastic(Hook):
    """Trains every size; see `train_elastic` for the way in."""

    order = 30
    needs_hidden_states = True

    def __init__(self, config: ElasticConfig, soft: SoftTargets | None = None) -> None:
        """Take note.

        Args:
            config: the sizes.
            soft: how each depth follows a teacher; None: all learn from the labels.
        """
        self.config = config
        self._soft = soft
        self._outputs: list[TaskOutput] = []

    def on_start(self, state: RunState) -> None:
        """Put gates in their places.

        Raises:
            UsageError: the model has been quantized, or see `check_elastic`.
        """
        check_elastic(state.model, self.config)
        self._gates: Gates = attach_gates(state.model, ("heads", "neurons"))
        self._grids = elastic_grids(state.model, self.config)
        if self._soft is not None:
            self._soft.on_start(state)

    def on_batch(self, state: RunState) -> None:
        """Close what the widths of this step do not have."""
        widths = draw_widths(self._grids, seed=state.config.seed, step=state.step)
        device = state.batch["input_ids"].device
        masks = {}
        for part, counts in self._gates.counts.items():
            mask = (torch.arange(counts[0], device=device) < widths[part]).float()
            masks[part] = [mask] * len(counts)
            state.losses[f"elastic/{part}"] = float(widths[part])
        self._gates.hold(masks)

    def on_forward(self, state: RunState) -> None:
        """Answer after each depth."""
        hidden = state.output.hidden_states
        assert hidden is not None
        mask, ids = state.batch["attention_mask"].bool(), state.batch["input_ids"]
        depths = range(self.config.layers, state.model.roles.num_layers)
        self._outputs = [state.model.answer(States((hidden[d],), mask, ids)) for d in depths]
        for output in self._outputs:
            output.logits = output.logits.float()

    def on_loss(self, state: RunState) -> None:
        """Take the mean of the losses after all depths."""
        whole, deepest = state.output, self._followed(state)
        losses = []
        for output in self._outputs:
            state.output = output
            state.per_example_loss = state.task.per_example_loss(
                output.logits, state.batch, state.model
            )
            losses.append(self._followed(state))
        losses.append(deepest)
        state.output = whole
        state.losses["elastic/shallowest"] = losses[0].detach().mean()
        state.losses["elastic/deepest"] = losses[-1].detach().mean()
        state.per_example_loss = torch.stack(losses).mean(dim=0)

    def _followed(self, state: RunState) -> torch.Tensor:
        """Return the loss of each row of the answer that the state holds now, [B]."""
        if self._soft is not None:
            self._soft.on_loss(state)
        return state.per_example_loss

    def on_step(self, state: RunState) -> None:
        """Open all gates until the next batch."""
        self._gates.hold({})

    def on_end(self, state: RunState) -> None:
        """Leave no trace in the model."""
        self._gates.remove()

    def state_dict(self) -> Mapping[str, Any]:
        """Return what the soft targets need; the draws depend on the step alone."""
        return {} if self._soft is None else self._soft.state_dict()

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        if self._soft is not None:
            self._soft.load_state_dict(values)
