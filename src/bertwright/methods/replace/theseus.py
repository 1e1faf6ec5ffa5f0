"""BERT-of-Theseus: groups of layers give way, batch by batch, to single ones that learn their work.

Shape letters: B batch, L length, D model width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.errors import ConfigError, UsageError
from bertwright.methods.distil.student_init import choose_layers
from bertwright.methods.finetune.layer_drop import refuse_layer_drop
from bertwright.models.build import copy_with_layers, refuse_fixed_layers
from bertwright.models.quantized import refuse_quantized
from bertwright.models.roles import Roles, get_roles
from bertwright.models.task_model import TaskModel
from bertwright.registry import register_method
from bertwright.training.hooks import Hook, RunState

__all__ = [
    "Theseus",
    "TheseusConfig",
    "TheseusGroup",
    "apply_theseus",
    "check_pooling_fits",
    "finish_theseus",
    "freeze_predecessor",
    "replacement_rate",
    "split_groups",
    "theseus_groups",
]


def split_groups(num_layers: int, num_groups: int) -> list[range]:
    """Return equal, contiguous groups of layers (6 layers, 3 groups: 0-1, 2-3, 4-5).

    Raises:
        ConfigError: the layers do not divide into so many equal groups.
    """
    if num_groups < 1 or num_layers % num_groups:
        divisors = [n for n in range(1, num_layers + 1) if num_layers % n == 0]
        raise ConfigError(
            f"--num-layers {num_groups}: {num_layers} layers do not divide into {num_groups} "
            "equal groups",
            hint=f"choose from {', '.join(map(str, divisors))}",
        )
    size = num_layers // num_groups
    return [range(i * size, (i + 1) * size) for i in range(num_groups)]


def replacement_rate(
    step: int,
    total_steps: int,
    *,
    schedule: Literal["constant", "linear"],
    rate: float = 0.5,
    base_rate: float = 0.3,
    slope: float | None = None,
) -> float:
    """Return p, the chance of each group to be replaced, at a step.

    constant: p = rate. linear: p = min(1, slope step + base_rate).

    Args:
        step: steps done, from 0.
        total_steps: of the replacement phase.
        schedule: which rule.
        rate: p of the constant schedule.
        base_rate: p at step 0 of the linear schedule.
        slope: rise of p in a step; None: such that p reaches 1 at the last step.

    Source: Xu et al. 2020.
    """
    if schedule == "constant":
        return rate
    if slope is None:
        slope = (1 - base_rate) / max(total_steps - 1, 1)
    return min(1.0, slope * step + base_rate)


class TheseusGroup(nn.Module):
    """Stands in the place of a group of layers: runs them, or their successor.

    `use_successor` decides in train mode; in eval mode the successor always runs.
    """

    def __init__(
        self, roles: Roles, predecessor: Sequence[nn.Module], successor: nn.Module, source: int
    ) -> None:
        super().__init__()
        self.predecessor = nn.ModuleList(predecessor)
        self.successor = successor
        self.source = source
        self.use_successor = True
        self._roles = roles

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Take what a layer of the family takes and return what it returns."""
        if self.use_successor or not self.training:
            return self._roles.run_layers([self.successor], args, kwargs)
        return self._roles.run_layers(list(self.predecessor), args, kwargs)


def apply_theseus(
    model: TaskModel, num_layers: int, *, init: str | Sequence[int] = "first"
) -> list[TheseusGroup]:
    """Put a `TheseusGroup` in the place of each group of layers of `model`, in place.

    Args:
        model: a fine-tuned model; its layers become the predecessor.
        num_layers: groups, and so layers of the later student.
        init: which layers the successors start from; see `choose_layers`.

    Returns:
        The groups, lowest first.

    Raises:
        ConfigError: the layers do not divide into so many equal groups, or the pooling reads them.
        UsageError: the model has been quantized, or its layers are already replaced or dropped.
        UnsupportedRoleError: the family cannot run groups in the place of layers.
    """
    refuse_quantized(model, "its layers cannot be replaced")
    refuse_fixed_layers(model)
    check_pooling_fits(model)
    roles = get_roles(model.encoder)
    refuse_layer_drop(roles, "they cannot give way to others at the same time")
    if theseus_groups(model):
        raise UsageError(
            "the layers of this model are being replaced already",
            hint="finish_theseus makes its student; begin again with that",
        )
    layers = roles.layers
    members = split_groups(len(layers), num_layers)
    sources = choose_layers(len(layers), num_layers, init)  # type: ignore[arg-type]
    successors = copy.deepcopy([layers[i] for i in sources])  # at once: shared layers stay shared
    groups = [
        TheseusGroup(roles, [layers[i] for i in member], successor, source)
        for member, successor, source in zip(members, successors, sources, strict=True)
    ]
    roles.set_layers(groups)
    return groups


def check_pooling_fits(model: TaskModel) -> None:
    """Raise a ConfigError where the pooling reads inner layers: groups of them are replaced."""
    if model.pooling is not None and model.pooling.reads_layers:
        raise ConfigError(
            f"--pooling {model.pooling.spec} reads inner layers, which BERT-of-Theseus replaces in "
            "groups",
            hint="take a teacher that pools the last layer (cls, mean, ...), or leave theseus out",
        )


def theseus_groups(model: TaskModel) -> list[TheseusGroup]:
    """Return the groups of a model, lowest first; empty where there are none."""
    return [layer for layer in get_roles(model.encoder).layers if isinstance(layer, TheseusGroup)]


def freeze_predecessor(model: TaskModel, *, train_rest: bool = False) -> None:
    """Leave only the successors trainable (and, with `train_rest`, embeddings and head).

    The predecessor stores no gradients then; they still flow through it to lower successors.
    """
    model.requires_grad_(train_rest)
    for group in theseus_groups(model):
        group.predecessor.requires_grad_(False)
    for group in theseus_groups(model):
        group.successor.requires_grad_(True)


def finish_theseus(model: TaskModel) -> TaskModel:
    """Return the student made of the successors: an ordinary shallower model, all trainable.

    `model` gets its predecessor layers back in their places and is otherwise used up.

    Raises:
        ValueError: the model has no groups.
    """
    groups = theseus_groups(model)
    if not groups:
        raise ValueError("the model has no Theseus groups; apply_theseus makes them")
    get_roles(model.encoder).set_layers([layer for g in groups for layer in g.predecessor])
    student = copy_with_layers(model, [group.source for group in groups])
    for layer, group in zip(get_roles(student.encoder).layers, groups, strict=True):
        layer.load_state_dict(group.successor.state_dict())
    return student.requires_grad_(True)


@dataclass(frozen=True, kw_only=True)
class TheseusConfig:
    """Options of BERT-of-Theseus."""

    num_layers: int
    """Layers of the student; must divide the teacher's."""
    schedule: Literal["constant", "linear"] = "linear"
    """How the replacement rate goes: the same all the time, or rising to 1."""
    rate: float = 0.5
    """Replacement rate of the constant schedule."""
    base_rate: float = 0.3
    """Replacement rate at the first step of the linear schedule."""
    slope: float | None = None
    """Rise of the linear schedule's rate in a step; none: it reaches 1 at the end of the phase."""
    replace_share: float = 0.5
    """Share of the training (epochs, steps, minutes) that replaces; the rest fine-tunes the
    successors alone."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate while replacing, after the warm-up; fine-tuning has the run's own schedule."""
    init: Literal["first", "uniform", "last", "alternate"] | tuple[int, ...] = "first"
    """Which teacher layers the successors start from."""
    train_rest: bool = False
    """Train embeddings and head while replacing too (the paper: only afterwards)."""

    def __post_init__(self) -> None:
        require(self.num_layers >= 1, "num_layers", self.num_layers, "at least 1")
        require(0 < self.rate <= 1, "rate", self.rate, "above 0, at most 1")
        require(0 <= self.base_rate <= 1, "base_rate", self.base_rate, "between 0 and 1")
        rises = self.slope is None or self.slope >= 0
        require(rises, "slope", self.slope, "at least 0, or none")
        inside = 0 < self.replace_share < 1
        require(inside, "replace_share", self.replace_share, "between 0 and 1")


CARD = MethodCard(
    name="theseus",
    kind="replace",
    summary=(
        "Train a shallow student inside its teacher: at random, single layers stand in for groups "
        "of the teacher's layers, more and more often, until none of these is left."
    ),
    paper="BERT-of-Theseus: Compressing BERT by Progressive Module Replacing",
    year=2020,
    citation="Xu, Zhou, Ge, Wei, Zhou 2020, arXiv:2002.02925",
    equation=(
        "r_g ~ Bernoulli(p), one for each group g and batch\n"
        "y_g = r_g scc_g(y_{g-1}) + (1 - r_g) prd_g(y_{g-1})\n"
        "loss = the task's own, mean over the batch; gradients go to the successors scc alone\n"
        "linear: p_t = min(1, k t + b), b = 0.3, k = (1 - b) / (T - 1); constant: p = 0.5\n"
        "evaluation: r = 1. Then only successors, all weights trained, embeddings and head too."
    ),
    needs=(
        "Labels and a teacher fine-tuned on them, whose depth the student's divides. "
        "Roles: layers. Every family."
    ),
    cost=(
        "While replacing, a step costs between the student's and the teacher's; memory of teacher "
        "and successors, optimizer state of the successors only. No cache, no extra loss."
    ),
    expected_effect=(
        "BERT-base 12 -> 6 layers: 98.4 % of the GLUE score kept (81.2 of 82.5 on dev), 1.94 times "
        "the speed; vanilla distillation 78.5, BERT-PKD 79.2."
    ),
    expected_source="Xu et al. 2020, dev table, rows quoted from memory: about ±0.5 points.",
    when_to_use=(
        "For students of half to a third of the teacher's depth on the task's own labels, with "
        "nothing to tune but the schedule."
    ),
    when_not_to_use=(
        "Without labels; for narrower students. With one layer for many the gap is large, and "
        "most batches of the start train nothing: give soft_targets a try."
    ),
    siblings=(
        "soft_targets and hidden_matching copy outputs and states by a loss; here the teacher's "
        "own layers, above and below, are the judge. Quantize afterwards."
    ),
    departures=(
        "The predecessor stores no gradients, so they do not enter clipping (the authors' code "
        "clips with them). By default p reaches 1 at the end of the phase whatever its length, "
        "and the learning rate is held until then. The two phases share the epochs."
    ),
)


@register_method(config=TheseusConfig, card=CARD)
class Theseus(Hook):
    """The replacement phase: makes the groups, freezes the rest, draws r for each batch.

    After the run, `finish_theseus` gives the student.
    """

    order = 10

    def __init__(self, config: TheseusConfig) -> None:
        self.config = config
        self.draws = 0
        self.replaced = 0
        self._groups: list[TheseusGroup] = []

    def on_start(self, state: RunState) -> None:
        """Put the groups in the model unless it has them, and freeze the predecessor."""
        if not theseus_groups(state.model):
            apply_theseus(state.model, self.config.num_layers, init=self.config.init)
        self._groups = theseus_groups(state.model)
        freeze_predecessor(state.model, train_rest=self.config.train_rest)

    def on_batch(self, state: RunState) -> None:
        """Draw which groups are replaced in this batch."""
        p = replacement_rate(
            state.step,
            state.total_steps,
            schedule=self.config.schedule,
            rate=self.config.rate,
            base_rate=self.config.base_rate,
            slope=self.config.slope,
        )
        draws = torch.rand(len(self._groups), generator=state.generator) < p
        for group, replaced in zip(self._groups, draws.tolist(), strict=True):
            group.use_successor = replaced
        self.draws += len(self._groups)
        self.replaced += int(draws.sum())
        state.losses["theseus/rate"] = p

    def on_loss(self, state: RunState) -> None:
        """Where no group is replaced nothing is trained: give backward a gradient of zero."""
        if not state.per_example_loss.requires_grad:
            smallest = min(self._groups[0].successor.parameters(), key=lambda p: p.numel())
            state.per_example_loss = state.per_example_loss + 0.0 * smallest.sum()

    def state_dict(self) -> Mapping[str, Any]:
        """Return how often groups were replaced so far."""
        return {"draws": self.draws, "replaced": self.replaced}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Take the counts back."""
        self.draws, self.replaced = values["draws"], values["replaced"]
