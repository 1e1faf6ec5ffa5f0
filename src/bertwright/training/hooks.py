"""Hooks: how training methods take part in the loop, and the state that they are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bertwright.errors import ConfigError
from bertwright.training.config import TrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

    from bertwright.models.task_model import TaskModel, TaskOutput
    from bertwright.tasks.objective import Objective

__all__ = ["EVENTS", "Hook", "RunState", "dispatch", "hook_keys", "order_hooks"]

EVENTS = (
    "on_start",
    "on_batch",
    "on_forward",
    "on_loss",
    "on_backward",
    "on_step",
    "on_evaluate",
    "on_end",
)


@dataclass(eq=False, repr=False)
class RunState:
    """What a run is doing now. Hooks read it and may change what is said here to be theirs.

    `batch`, `output`, `per_example_loss`, `loss` belong to the current batch and do not exist
    before the first one; `optimizer` and `scheduler` do not exist in `on_start`.
    """

    model: TaskModel
    """The model in training; in train mode except in `on_evaluate` and `on_end`."""
    task: Objective
    config: TrainingConfig
    accelerator: Accelerator
    generator: torch.Generator
    """CPU generator for the methods' own randomness; saved in checkpoints."""
    run_dir: Path
    total_steps: int
    """Optimizer steps of the whole run."""
    step: int = 0
    """Optimizer steps done."""
    epoch: int = 0
    """Passes over the training rows done."""
    optimizer: torch.optim.Optimizer = field(init=False)
    scheduler: torch.optim.lr_scheduler.LRScheduler = field(init=False)
    batch: dict[str, Any] = field(init=False)
    """What `collate` gives, tensors on the device: input_ids[B,L], attention_mask[B,L], labels[B],
    and numpy `rows`[B] (rows of the source), `indices`[B] (places in the encoded rows)."""
    output: TaskOutput = field(init=False)
    """The model's answer; hidden states and attentions when a hook has asked for them."""
    per_example_loss: Tensor = field(init=False)
    """Loss of each row [B], fp32. `on_loss` may replace it or add to it."""
    loss: Tensor = field(init=False)
    """The scalar that is differentiated, made from `per_example_loss` after `on_loss`."""
    losses: dict[str, Tensor | float] = field(default_factory=dict)
    """Named means over the batch, to be logged (`soft_targets/kl`); emptied at each batch."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Figures of the last evaluation; `on_evaluate` may add to them."""
    best_score: float | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    evaluations_since_best: int = 0
    should_stop: bool = False
    """A hook sets this (or calls `stop`) to end the run after the current step."""
    stop_reason: str = ""

    def stop(self, reason: str) -> None:
        """End the run after the current step; `reason` appears in its result."""
        self.should_stop, self.stop_reason = True, reason

    def add_loss(self, name: str, term: Tensor) -> None:
        """Add a term to the loss and log it as `name`.

        Args:
            name: `method/quantity`.
            term: one value a row [B], or a scalar for the whole batch (already a mean).
        """
        self.per_example_loss = self.per_example_loss + term
        self.losses[name] = term.detach().mean()


class Hook:
    """Base of all hooks: does nothing at every event.

    Hooks run in ascending `order`; of equal order, by name. Orders in use: 10 changes the model,
    20 the batch, 30 replaces the loss (soft targets), 40 adds to it (hidden matching),
    50 the gradient or the weights, 90 watches.

    The events, in the order of a run:

    * `on_start`: before the optimizer exists. Freeze parameters, add modules.
    * `on_batch`: `state.batch` is new. Its tensors may be replaced.
    * `on_forward`: `state.output` is new; still under autocast, gradients on.
    * `on_loss`: `state.per_example_loss` is new; replace it, or `state.add_loss`.
    * `on_backward`: gradients have been added up; after the last batch of an optimizer step,
      before clipping.
    * `on_step`: the optimizer has stepped; `state.step` counts it.
    * `on_evaluate`: `state.metrics` is new; model in eval mode; the best weights not chosen yet.
    * `on_end`: the model holds the weights that the run returns, in eval mode.
    """

    order: int = 50
    needs_hidden_states: bool = False
    needs_attentions: bool = False

    @property
    def name(self) -> str:
        """The name in logs, checkpoints and messages."""
        return type(self).__name__

    def on_start(self, state: RunState) -> None:
        """Prepare; the optimizer does not exist yet."""

    def on_batch(self, state: RunState) -> None:
        """Look at or change `state.batch`."""

    def on_forward(self, state: RunState) -> None:
        """Look at or change `state.output`."""

    def on_loss(self, state: RunState) -> None:
        """Change `state.per_example_loss`."""

    def on_backward(self, state: RunState) -> None:
        """Look at or change the gradients."""

    def on_step(self, state: RunState) -> None:
        """Look at or change the weights after a step."""

    def on_evaluate(self, state: RunState) -> None:
        """Look at or add to `state.metrics`."""

    def on_end(self, state: RunState) -> None:
        """Finish."""

    def trainable_parameters(self) -> Iterable[nn.Module | nn.Parameter]:
        """Return modules or parameters outside the model to be trained with it (projections).

        Asked for once, after `on_start`.
        """
        return ()

    def state_dict(self) -> Mapping[str, Any]:
        """Return what a resumed run needs: plain values, lists, dicts and tensors."""
        return {}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave; parameters in place (the optimizer holds them)."""


def order_hooks(hooks: Iterable[Hook]) -> list[Hook]:
    """Return the hooks in the order in which they run: by `order`, then by name.

    Raises:
        ConfigError: two hooks of the same type have the same order.
    """
    ordered = sorted(hooks, key=lambda hook: (hook.order, hook.name))
    seen: set[tuple[type, int]] = set()
    for hook in ordered:
        key = (type(hook), hook.order)
        if key in seen:
            raise ConfigError(
                f"--method: {hook.name} is given twice", hint="name each method only once"
            )
        seen.add(key)
    return ordered


def hook_keys(hooks: Sequence[Hook]) -> list[str]:
    """Return the key of each hook in a checkpoint."""
    return [f"{hook.name}@{hook.order}" for hook in hooks]


def dispatch(hooks: Sequence[Hook], event: str, state: RunState) -> None:
    """Call `event` of every hook, in their order."""
    for hook in hooks:
        getattr(hook, event)(state)
