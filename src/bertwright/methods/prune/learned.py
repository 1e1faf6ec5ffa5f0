"""Gates that are learned with the model: which heads and neurons the loss can do without.

Shapes: N heads or neurons of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.methods.prune.gates import attach_gates, fold_gates
from bertwright.methods.prune.gradual import require_something_goes, shares_that_go
from bertwright.methods.prune.importance import counts_of_best, keep_best
from bertwright.models.build import copy_with_widths
from bertwright.models.task_model import TaskModel
from bertwright.registry import register_method
from bertwright.training.hooks import Hook, RunState

__all__ = [
    "LearnedGates",
    "LearnedGatesConfig",
    "chance_open",
    "draw_gates",
    "settled_gates",
]

TEMPERATURE = 2 / 3
LOW, HIGH = -0.1, 1.1
"""The ends to which the sigmoid is stretched before it is clipped to [0, 1]."""
START = 3.0
"""log alpha of every gate at first: nearly all are open (chance 0.99)."""


def draw_gates(log_alpha: Tensor, noise: Tensor) -> Tensor:
    """Return gates drawn from hard concrete distributions, in [0, 1], 0 and 1 among them.

    s = sigmoid((log u - log(1 - u) + log alpha) / (2/3)), z = clip(1.2 s - 0.1, 0, 1).

    Args:
        log_alpha: any shape; gradients reach it where the gate is inside (0, 1).
        noise: u, even in (0, 1), of the same shape.

    Source: Louizos, Welling, Kingma 2018, arXiv:1712.01312, section 2.2.
    """
    logits = noise.log() - (1 - noise).log() + log_alpha
    return (torch.sigmoid(logits / TEMPERATURE) * (HIGH - LOW) + LOW).clamp(0, 1)


def chance_open(log_alpha: Tensor) -> Tensor:
    """Return the chance that a gate is not 0: sigmoid(log alpha - 2/3 log(0.1 / 1.1)).

    Source: Louizos et al. 2018, equation 12.
    """
    shift = TEMPERATURE * torch.tensor(-LOW / HIGH, dtype=log_alpha.dtype).log()
    return torch.sigmoid(log_alpha - shift)


def settled_gates(log_alpha: Tensor) -> Tensor:
    """Return what the gates are when nothing is drawn: clip(1.2 sigmoid(log alpha) - 0.1, 0, 1).

    Source: Louizos et al. 2018, equation 13.
    """
    return (torch.sigmoid(log_alpha) * (HIGH - LOW) + LOW).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class LearnedGatesConfig:
    """Options of learned gates."""

    heads: float = 0.5
    """Share of the attention heads that is kept, of all layers together."""
    neurons: float = 1.0
    """Share of the FFN neurons that is kept."""
    multiple: int = 32
    """A layer keeps a multiple of so many neurons: kernels work in blocks."""
    gate_lr: float = 0.1
    """Learning rate of the gates, and of what holds them to their share."""
    closing_share: float = 0.5
    """Share of the first phase in which the share that is asked for falls to its end."""
    prune_share: float = 0.5
    """Share of the training (epochs, steps, minutes) in which gates are learned; the rest trains
    what is left."""

    def __post_init__(self) -> None:
        require_something_goes("learned_gates", self.heads, self.neurons)
        require(self.multiple >= 1, "multiple", self.multiple, "at least 1")
        require(self.gate_lr > 0, "gate_lr", self.gate_lr, "above 0")
        inside = 0 < self.closing_share <= 1
        require(inside, "closing_share", self.closing_share, "above 0, at most 1")
        inside = 0 < self.prune_share < 1
        require(inside, "prune_share", self.prune_share, "between 0 and 1")


CARD = MethodCard(
    name="learned_gates",
    kind="prune",
    summary="Learn with the model which heads and neurons may be closed; those are taken out.",
    paper="Learning Sparse Neural Networks through L0 Regularization",
    year=2018,
    citation=(
        "Louizos, Welling, Kingma 2018, arXiv:1712.01312; for heads: Voita et al. 2019, "
        "arXiv:1905.09418; with a target: Xia, Zhong, Chen 2022 (CoFi), arXiv:2204.00408"
    ),
    equation=(
        "z = clip(1.2 sigmoid((log u - log(1 - u) + log alpha) / (2/3)) - 0.1, 0, 1), u even\n"
        "s = mean over the gates of sigmoid(log alpha - 2/3 log(0.1 / 1.1)), the share open\n"
        "loss + l1 (s - t) + l2 (s - t)^2, l1 and l2 rise where it does; t falls from the first s "
        "to\nthe share; in the end the largest log alpha of all layers stay, z in the matrices"
    ),
    needs=(
        "A fine-tuned model, labelled rows; a teacher beside it by soft_targets and others. Roles: "
        "those of head_pruning and neuron_pruning."
    ),
    cost="As gradual_pruning; a number a gate, with an optimizer of its own.",
    expected_effect=(
        "Translation: 38 of 48 encoder heads gone for 0.15 BLEU. CoFi, which gates layers and "
        "width too: BERT-base on MNLI 80.6 with 5% of its weights."
    ),
    expected_source="Voita et al. 2019 and Xia et al. 2022, quoted from memory; not measured here.",
    when_to_use="Where much is to go, layers are uneven, and there are some hundreds of steps.",
    when_not_to_use=(
        "For short trainings: gates need steps to close. Beside losses on attention maps, when "
        "heads go."
    ),
    siblings="gradual_pruning closes gates by a gradient's size, on a schedule, with no noise.",
    departures=(
        "Gates of heads and of neurons have a share each, where CoFi counts all weights together; "
        "no gates for layers and width. The share stays whatever the gates say, rounded up in each "
        "layer."
    ),
)


@register_method(config=LearnedGatesConfig, card=CARD)
class LearnedGates(Hook):
    """Learns gates in a first phase; `narrowed` then gives the smaller model."""

    order = 10

    def __init__(self, config: LearnedGatesConfig) -> None:
        self.config = config
        self._shares = shares_that_go(config.heads, config.neurons)

    def on_start(self, state: RunState) -> None:
        """Put the gates in their places, nearly open.

        Raises:
            UnsupportedRoleError: the family keeps its heads or neurons, with the reason.
            UsageError: the model has been quantized.
        """
        self._gates = attach_gates(state.model, tuple(self._shares))
        device = next(state.model.parameters()).device
        self._log_alphas = {
            what: [nn.Parameter(torch.full((count,), START, device=device)) for count in counts]
            for what, counts in self._gates.counts.items()
        }
        self._multipliers = {
            what: nn.Parameter(torch.zeros(2, device=device)) for what in self._log_alphas
        }
        lr = self.config.gate_lr
        gates = [one for every in self._log_alphas.values() for one in every]
        self._optimizer = torch.optim.Adam(
            [
                {"params": gates, "lr": lr},
                {"params": list(self._multipliers.values()), "lr": lr, "maximize": True},
            ]
        )

    def on_batch(self, state: RunState) -> None:
        """Draw the batch's gates."""
        drawn = {}
        for what, log_alphas in self._log_alphas.items():
            noises = [
                torch.rand(len(one), generator=state.generator).clamp(1e-6, 1 - 1e-6)
                for one in log_alphas
            ]
            drawn[what] = [
                draw_gates(one, noise.to(one.device))
                for one, noise in zip(log_alphas, noises, strict=True)
            ]
        self._gates.hold(drawn)

    def on_loss(self, state: RunState) -> None:
        """Add what holds the open share to its target."""
        done = min(state.step / state.total_steps / self.config.closing_share, 1.0)
        first = float(chance_open(torch.tensor(START)))
        for what, share in self._shares.items():
            away = self._open_share(what) - (first + (share - first) * done)
            linear, square = self._multipliers[what]
            state.add_loss(f"learned_gates/{what}", linear * away + square * away.square())

    def on_backward(self, state: RunState) -> None:
        """Move the gates, and what holds them."""
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def on_step(self, state: RunState) -> None:
        """Evaluate without draws."""
        self._gates.hold(self._settled())

    def on_end(self, state: RunState) -> None:
        """Leave no trace in the model."""
        self._gates.remove()

    def narrowed(self, model: TaskModel) -> TaskModel:
        """Return the model without what is closed, the other gates folded in; after the phase.

        The output projections of `model` are changed.
        """
        fold_gates(model.roles, self._settled())
        return copy_with_widths(model, **self.kept())

    def kept(self) -> dict[str, Mapping[int, list[int]]]:
        """Return which heads and neurons are left, by layer."""
        found: dict[str, Mapping[int, list[int]]] = {}
        for what, share in self._shares.items():
            scores = [one.detach() for one in self._log_alphas[what]]
            multiple = self.config.multiple if what == "neurons" else 1
            found[what] = keep_best(scores, counts_of_best(scores, share), multiple=multiple)
        return found

    def state_dict(self) -> Mapping[str, Any]:
        """Return the gates, what holds them, and their optimizer's state."""
        return {
            "log_alphas": {k: [one.detach() for one in v] for k, v in self._log_alphas.items()},
            "multipliers": {k: one.detach() for k, one in self._multipliers.items()},
            "optimizer": self._optimizer.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for what, ours in self._log_alphas.items():
            for one, saved in zip(ours, values["log_alphas"][what], strict=True):
                one.copy_(saved)
            self._multipliers[what].copy_(values["multipliers"][what])
        self._optimizer.load_state_dict(values["optimizer"])
        self._gates.hold(self._settled())

    def _open_share(self, what: str) -> Tensor:
        return torch.cat([chance_open(one) for one in self._log_alphas[what]]).mean()

    def _settled(self) -> dict[str, Sequence[Tensor]]:
        return {
            what: [settled_gates(one.detach()) for one in log_alphas]
            for what, log_alphas in self._log_alphas.items()
        }
