"""What the loss would notice if an attention head or an FFN neuron were taken out.

Shapes: B batch, L length, N heads, F neurons, K layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from bertwright.data.batching import MODEL_INPUTS
from bertwright.data.tokenise import EncodedRows
from bertwright.methods.prune.gates import Gates
from bertwright.methods.prune.vocabulary import refuse_unknown_pieces
from bertwright.models.modes import eval_mode
from bertwright.models.task_model import TaskModel
from bertwright.tasks.forward import forward_batches
from bertwright.tasks.objective import Objective

__all__ = [
    "Importance",
    "RowGates",
    "Scope",
    "choose_kept",
    "counts_of_best",
    "gate_gradients",
    "keep_best",
    "mean_gradients",
    "neuron_activations",
    "neuron_magnitudes",
    "random_scores",
]

Scope = Literal["layer", "global"]


@dataclass(frozen=True)
class Importance:
    """The importance of every head [N] and neuron [F] of each of K layers; None: not measured."""

    heads: tuple[Tensor, ...] | None
    neurons: tuple[Tensor, ...] | None


def gate_gradients(
    model: TaskModel, rows: EncodedRows, task: Objective, *, batch_tokens: int = 2048
) -> Importance:
    """Return mean over rows of |d loss_row / d gate| for gates of 1 at every head and neuron.

    A gate multiplies what a head or neuron sends on, at all tokens of a row. Each row has gates of
    its own, so one backward pass gives what a backward pass a row would; a gate for a whole batch
    would let the rows cancel each other. What the family cannot prune is not measured.

    Args:
        model: stays on its device and in its mode; dropout is off.
        rows: labelled features.
        task: whose loss.
        batch_tokens: most tokens in a batch, padding counted.

    Source: Michel, Levy, Neubig 2019, arXiv:1905.10650 (heads); Molchanov et al. 2017,
    arXiv:1611.06440 (neurons).
    """
    gates = Gates(model.roles)
    if not gates.counts:
        return Importance(heads=None, neurons=None)
    means = mean_gradients(model, rows, task, gates, batch_tokens=batch_tokens)
    return Importance(heads=means.get("heads"), neurons=means.get("neurons"))


class RowGates(Protocol):
    """Gates of 1 somewhere in a model, each row with its own; a context manager."""

    def __enter__(self) -> object: ...
    def __exit__(self, *args: object) -> None: ...
    def open(self, num_rows: int) -> None:
        """Make new gates for the rows of a batch."""
        ...

    def gradients(self) -> Mapping[str, Sequence[Tensor]]:
        """Return, by what is gated, the sum over the rows of the gradients' absolute values."""
        ...


def mean_gradients(
    model: TaskModel,
    rows: EncodedRows,
    task: Objective,
    gates: RowGates,
    *,
    batch_tokens: int = 2048,
) -> dict[str, tuple[Tensor, ...]]:
    """Return mean over rows of |d loss_row / d gate|, by what is gated; see `gate_gradients`.

    Raises:
        UsageError: the rows were tokenised for a model with more pieces.
    """
    refuse_unknown_pieces(model, rows)
    found: dict[str, list[Tensor]] = {}
    device = next(model.parameters()).device
    with eval_mode(model), _without_gradients(model), gates:
        for positions in rows.plan(batch_tokens=batch_tokens, shuffle=False):
            batch = {
                key: value.to(device) if isinstance(value, Tensor) else value
                for key, value in rows.collate(positions).items()
            }
            gates.open(len(positions))
            output = model(**{key: batch[key] for key in MODEL_INPUTS if key in batch})
            task.per_example_loss(output.logits.float(), batch, model).sum().backward()
            for what, sums in gates.gradients().items():
                kept = found.setdefault(what, [torch.zeros_like(one) for one in sums])
                for total, one in zip(kept, sums, strict=True):
                    total += one
    return {what: tuple(total / len(rows) for total in sums) for what, sums in found.items()}


@contextlib.contextmanager
def _without_gradients(model: nn.Module) -> Iterator[None]:
    """Let no parameter gather a gradient in the block."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def neuron_magnitudes(model: TaskModel) -> Importance:
    """Return ||row of ffn_in|| ||column of ffn_out|| for every neuron; no rows are needed.

    The product bounds what a neuron's two weight vectors can pass on together.
    """
    roles = model.roles
    scores = []
    for index in range(roles.num_layers):
        first: Any = roles.part(index, "ffn_in")
        second: Any = roles.part(index, "ffn_out")
        scores.append((first.weight.norm(dim=1) * second.weight.norm(dim=0)).detach())
    return Importance(heads=None, neurons=tuple(scores))


def neuron_activations(
    model: TaskModel, rows: EncodedRows, *, batch_tokens: int = 2048
) -> Importance:
    """Return the mean of |h_j| over the real tokens, h what neuron j of a layer sends on."""
    roles = model.roles
    sums: list[Any] = [0.0] * roles.num_layers
    seen: dict[int, Tensor] = {}

    def watch(index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            states = args[0].detach().float().abs()
            seen[index] = states.transpose(0, 1) if roles.record.length_first else states

        return roles.part(index, "ffn_out").register_forward_pre_hook(hook)

    handles = [watch(index) for index in range(roles.num_layers)]
    num_tokens = 0.0
    try:
        for _, batch, _ in forward_batches(model, rows, batch_tokens=batch_tokens):
            mask = batch["attention_mask"].float()
            num_tokens += float(mask.sum())
            for index, states in seen.items():
                sums[index] = sums[index] + torch.einsum("blf,bl->f", states, mask)
    finally:
        for handle in handles:
            handle.remove()
    return Importance(heads=None, neurons=tuple(total / num_tokens for total in sums))


def random_scores(counts: Sequence[int] | None, seed: int) -> tuple[Tensor, ...]:
    """Return scores drawn evenly from [0, 1) for so many heads or neurons a layer: a control."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(count, generator=generator) for count in counts or ())


def choose_kept(
    scores: Sequence[Tensor], share: float, *, scope: Scope = "layer", multiple: int = 1
) -> Mapping[int, list[int]]:
    """Return which heads or neurons each layer keeps: the most important ones.

    Args:
        scores: K of [N], 0 or more.
        share: of all of them that is kept, in (0, 1].
        scope: layer: each layer keeps the same share; global: all layers compete, with scores
            divided by their layer's Euclidean length, and each keeps at least `multiple`.
        multiple: a layer keeps a multiple of so many, rounded up, at most all that it has.

    Returns:
        Layer -> numbers of what is kept, increasing.
    """
    if scope == "global":
        alike = [one / one.norm().clamp(min=torch.finfo(one.dtype).tiny) for one in scores]
        counts: Sequence[float] = counts_of_best(alike, share)
    else:
        counts = [share * len(one) for one in scores]
    return keep_best(scores, counts, multiple=multiple)


def keep_best(
    scores: Sequence[Tensor], counts: Sequence[float], *, multiple: int = 1
) -> dict[int, list[int]]:
    """Return, by layer, the places of so many highest scores, increasing.

    Args:
        scores: K of [N].
        counts: of each layer; rounded up to a `multiple`, at least one, at most all.
        multiple: see `choose_kept`.
    """
    kept: dict[int, list[int]] = {}
    for index, (one, count) in enumerate(zip(scores, counts, strict=True)):
        rounded = multiple * max(1, -(-round(count, 6) // multiple))
        best = one.argsort(descending=True, stable=True)[: min(int(rounded), len(one))]
        kept[index] = sorted(best.tolist())
    return kept


def counts_of_best(scores: Sequence[Tensor], share: float) -> list[int]:
    """Return how many of the highest scores, that share of all layers', each layer has."""
    everything = torch.cat(list(scores))
    num_kept = max(1, round(share * len(everything)))
    best = everything.argsort(descending=True, stable=True)[:num_kept]
    ends = torch.tensor([len(one) for one in scores]).cumsum(dim=0)
    layers = torch.bucketize(best.cpu(), ends, right=True)
    return [int((layers == index).sum()) for index in range(len(scores))]
