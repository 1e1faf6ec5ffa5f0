"""Gates on what attention heads and FFN neurons send on.

Shapes: B batch, L length, N heads or neurons, D features before an output projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bertwright.models.quantized import refuse_quantized
from bertwright.models.roles import Roles
from bertwright.models.task_model import TaskModel
from bertwright.models.widths import (
    refuse_fixed,
    why_heads_stay,
    why_neurons_stay,
    widths_of,
)

__all__ = ["PARTS", "Gates", "Part", "attach_gates", "fold_gates"]

Part = Literal["heads", "neurons"]
PARTS: dict[Part, str] = {"heads": "attention_output", "neurons": "ffn_out"}
"""What has gates, and the projection before which they stand."""


class Gates:
    """Factors before the output projections of all layers: of a head's features, or of a neuron.

    A context manager. Nothing is multiplied until `open` or `hold` says by what. What the family
    cannot prune has no gates.
    """

    def __init__(self, roles: Roles, only: Sequence[Part] = tuple(PARTS)) -> None:
        """Take note of the places; nothing is changed yet."""
        widths = widths_of(roles.encoder)
        known: dict[Part, tuple[str | None, tuple[int, ...] | None]] = {
            "heads": (why_heads_stay(roles), widths.heads),
            "neurons": (why_neurons_stay(roles), widths.neurons),
        }
        self.counts: dict[Part, tuple[int, ...]] = {}
        """What has gates, and how many in each layer."""
        for what in only:
            reason, counts = known[what]
            if reason is None and counts:
                self.counts[what] = counts
        self._roles = roles
        self._handles: list[Any] = []
        self._values: Mapping[str, Sequence[Tensor]] = {}
        self._open: dict[str, list[Tensor]] = {}

    def __enter__(self) -> Gates:
        self.attach()
        return self

    def __exit__(self, *args: object) -> None:
        self.remove()

    def attach(self) -> None:
        """Put the gates in their places."""
        for what in self.counts:
            for index in range(self._roles.num_layers):
                place = self._roles.part(index, PARTS[what])
                self._handles.append(place.register_forward_pre_hook(self._gate(what, index)))

    def remove(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()

    def hold(self, values: Mapping[str, Sequence[Tensor]]) -> None:
        """Multiply every row by these factors, [N] of each layer, from now on."""
        self._values = values

    def open(self, num_rows: int, values: Mapping[str, Sequence[Tensor]] | None = None) -> None:
        """Give each row of a batch factors of its own, which gather gradients.

        Args:
            num_rows: of the batch.
            values: what they are, [N] of each layer; None: 1.
        """
        device = next(self._roles.encoder.parameters()).device
        self._open = {}
        for what, counts in self.counts.items():
            start = values[what] if values else [torch.ones(count) for count in counts]
            self._open[what] = [
                one.to(device).repeat(num_rows, 1).requires_grad_() for one in start
            ]
        self._values = self._open

    def gradients(self) -> dict[str, list[Tensor]]:
        """Return the sum over the rows of the gradients' absolute values, and forget them.

        Empty where no gates were opened since.
        """
        found = {
            what: [
                torch.zeros_like(gate[0]) if gate.grad is None else gate.grad.abs().sum(dim=0)
                for gate in gates
            ]
            for what, gates in self._open.items()
        }
        self._open = {}
        return found

    def _gate(self, what: str, index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            if what not in self._values:
                return args
            return (self._gated(args[0], self._values[what][index]), *args[1:])

        return hook

    def _gated(self, states: Tensor, gate: Tensor) -> Tensor:
        """Return [B, L, D] (or [L, B, D]) times the gates [N] or [B, N], D / N features each."""
        wide = gate.repeat_interleave(states.shape[-1] // gate.shape[-1], dim=-1)
        if wide.ndim > 1:
            wide = wide.unsqueeze(0 if self._roles.record.length_first else 1)
        return states * wide.to(states.dtype)


def attach_gates(model: TaskModel, parts: Sequence[Part]) -> Gates:
    """Return gates in their places, at all heads, neurons or both of a model.

    Raises:
        UnsupportedRoleError: the family keeps its heads or neurons, with the reason.
        UsageError: the model has been quantized.
    """
    refuse_quantized(model, "it cannot be pruned")
    for part in parts:
        refuse_fixed(model.roles, part)
    gates = Gates(model.roles, only=parts)
    gates.attach()
    return gates


@torch.no_grad()
def fold_gates(roles: Roles, values: Mapping[str, Sequence[Tensor]]) -> None:
    """Multiply the output projections, in place, by gates [N] that held; nothing else changes."""
    for what, factors in values.items():
        for index, factor in enumerate(factors):
            weight: Tensor = roles.part(index, PARTS[what]).weight  # pyright: ignore
            wide = factor.repeat_interleave(weight.shape[1] // len(factor))
            weight.mul_(wide.to(weight.dtype))
