"""Heads and neurons that leave little by little while the model trains.

Shapes: N heads or neurons of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.errors import ConfigError
from bertwright.methods.prune.gates import Part, attach_gates
from bertwright.methods.prune.importance import Scope, choose_kept
from bertwright.models.build import copy_with_widths
from bertwright.models.task_model import TaskModel
from bertwright.registry import register_method
from bertwright.training.hooks import Hook, RunState

__all__ = [
    "GradualPruning",
    "GradualPruningConfig",
    "require_something_goes",
    "share_left",
    "shares_that_go",
]


def share_left(done: float, final: float) -> float:
    """Return the share that is left after so much of the pruning: final + (1 - final)(1 - done)^3.

    Args:
        done: from 0 to 1.
        final: the share that is left in the end.

    Source: Zhu and Gupta 2017, arXiv:1710.01878.
    """
    return final + (1 - final) * (1 - done) ** 3


def require_something_goes(method: str, heads: float, neurons: float) -> None:
    """Check that the shares are shares and that one of them is below 1.

    Raises:
        ConfigError: they are not.
    """
    for name, share in (("heads", heads), ("neurons", neurons)):
        require(0 < share <= 1, name, share, "above 0, at most 1")
    if heads == neurons == 1:
        raise ConfigError(
            f"--method {method}: nothing is to be taken out", hint=f"{method}:heads=0.5,neurons=0.5"
        )


def shares_that_go(heads: float, neurons: float) -> dict[Part, float]:
    """Return the shares that are below 1, by what they are of."""
    shares: dict[Part, float] = {"heads": heads, "neurons": neurons}
    return {part: share for part, share in shares.items() if share < 1}


@dataclass(frozen=True, kw_only=True)
class GradualPruningConfig:
    """Options of gradual pruning."""

    heads: float = 1.0
    """Share of the attention heads that is kept."""
    neurons: float = 0.5
    """Share of the FFN neurons that is kept."""
    scope: Scope = "layer"
    """Each layer keeps the same share, or all layers compete (global)."""
    multiple: int = 32
    """A layer keeps a multiple of so many neurons: kernels work in blocks."""
    times: int = 10
    """In how many cuts."""
    prune_share: float = 0.5
    """Share of the training (epochs, steps, minutes) in which they leave; the rest trains what is
    left."""

    def __post_init__(self) -> None:
        require_something_goes("gradual_pruning", self.heads, self.neurons)
        require(self.multiple >= 1, "multiple", self.multiple, "at least 1")
        require(self.times >= 1, "times", self.times, "at least 1")
        inside = 0 < self.prune_share < 1
        require(inside, "prune_share", self.prune_share, "between 0 and 1")


CARD = MethodCard(
    name="gradual_pruning",
    kind="prune",
    summary="Take heads and neurons out little by little while training, by what the loss notices.",
    paper="To prune, or not to prune: exploring the efficacy of pruning for model compression",
    year=2017,
    citation=(
        "Zhu, Gupta 2017, arXiv:1710.01878 (schedule); Michel, Levy, Neubig 2019, arXiv:1905.10650 "
        "(importance)"
    ),
    equation=(
        "share left after cut j of J: s + (1 - s) (1 - j / J)^3, s the share kept in the end\n"
        "I_h = mean over the rows since the last cut of |d loss_row / d gate_h|; the least go for "
        "good,\nafter the last cut out of the matrices too, and what is left trains on"
    ),
    needs=(
        "A fine-tuned model, labelled rows; a teacher beside it by soft_targets and others. Roles: "
        "those of head_pruning and neuron_pruning."
    ),
    cost=(
        "A multiplication of all heads' and neurons' outputs while they leave; no passes besides "
        "those of the training. Matrices become smaller only after the last cut."
    ),
    expected_effect=(
        "Single weights of ImageNet and translation models pruned so lose little up to 75%; the "
        "cubic schedule takes much while training can still mend it."
    ),
    expected_source="Zhu and Gupta 2017, quoted from memory; not measured here.",
    when_to_use="Where much is to go: half of the heads or neurons and more.",
    when_not_to_use=(
        "Where little goes: head_pruning and neuron_pruning in one shot leave all of the training "
        "to the smaller model. Beside losses on attention maps, when heads go."
    ),
    siblings=(
        "head_pruning and neuron_pruning take all at once before training; learned_gates learns "
        "which ones."
    ),
    departures=(
        "Whole heads and neurons, where the paper has single weights. The loss is the one that is "
        "trained, so with a teacher its part counts too. What left once does not return."
    ),
)


@register_method(config=GradualPruningConfig, card=CARD)
class GradualPruning(Hook):
    """Closes gates while a first phase trains; `narrowed` then gives the smaller model."""

    order = 10

    def __init__(self, config: GradualPruningConfig) -> None:
        self.config = config
        self._shares = shares_that_go(config.heads, config.neurons)
        self._masks: dict[str, list[Tensor]] = {}
        self._sums: dict[str, list[Tensor]] = {}
        self._cuts_done = 0

    def on_start(self, state: RunState) -> None:
        """Put the gates in their places, all open.

        Raises:
            UnsupportedRoleError: the family keeps its heads or neurons, with the reason.
            UsageError: the model has been quantized.
        """
        self._gates = attach_gates(state.model, tuple(self._shares))
        counts = self._gates.counts
        device = next(state.model.parameters()).device
        self._masks = {
            what: [torch.ones(count, device=device) for count in counts[what]] for what in counts
        }
        self._sums = {what: [torch.zeros_like(one) for one in self._masks[what]] for what in counts}

    def on_batch(self, state: RunState) -> None:
        """Give the batch's rows gates of their own, so that each tells what it would notice."""
        self._gather()
        self._gates.open(len(state.batch["input_ids"]), self._masks)

    def on_backward(self, state: RunState) -> None:
        """Note what the rows of the step would have noticed."""
        self._gather()

    def on_step(self, state: RunState) -> None:
        """Take out what is due."""
        self._gates.hold(self._masks)
        due = int(self.config.times * state.step / state.total_steps)
        if due > self._cuts_done:
            self._cut(due)

    def on_end(self, state: RunState) -> None:
        """Take out all that is to go, and leave no trace in the model."""
        self._gates.remove()
        if self._cuts_done < self.config.times:
            self._cut(self.config.times)

    def narrowed(self, model: TaskModel) -> TaskModel:
        """Return the model without what left; after the first phase."""
        return copy_with_widths(model, **self.kept())

    def kept(self) -> dict[str, Mapping[int, list[int]]]:
        """Return which heads and neurons are left, by layer."""
        return {
            what: {i: mask.nonzero().flatten().tolist() for i, mask in enumerate(masks)}
            for what, masks in self._masks.items()
        }

    def state_dict(self) -> Mapping[str, Any]:
        """Return what left, and what has been noticed since."""
        return {"masks": self._masks, "sums": self._sums, "cuts_done": self._cuts_done}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for ours, theirs in ((self._masks, values["masks"]), (self._sums, values["sums"])):
            for what, tensors in ours.items():
                for tensor, saved in zip(tensors, theirs[what], strict=True):
                    tensor.copy_(saved)
        self._cuts_done = int(values["cuts_done"])
        self._gates.hold(self._masks)

    def _gather(self) -> None:
        for what, sums in self._gates.gradients().items():
            for total, one in zip(self._sums[what], sums, strict=True):
                total += one

    def _cut(self, cuts: int) -> None:
        """Close the gates that the loss would miss least, and begin to look anew."""
        for what, share in self._shares.items():
            left = share_left(cuts / self.config.times, share)
            masks = self._masks[what]
            kept = choose_kept(
                _of_what_is_left(self._sums[what], masks),
                left,
                scope=self.config.scope,
                multiple=self.config.multiple if what == "neurons" else 1,
            )
            for index, mask in enumerate(masks):
                still = torch.zeros_like(mask)
                still[kept[index]] = 1
                mask.mul_(still)
            for total in self._sums[what]:
                total.zero_()
        self._cuts_done = cuts
        self._gates.hold(self._masks)


def _of_what_is_left(sums: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    """Return scores that are 0 for what left, and above it for all that did not."""
    smallest = torch.finfo(torch.float32).tiny
    return [total.clamp(min=smallest) * mask for total, mask in zip(sums, masks, strict=True)]
