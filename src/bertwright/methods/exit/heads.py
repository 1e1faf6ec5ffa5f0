"""Heads that learn a whole model's answers from its inner layers.

Shapes: N rows, F numbers that a head reads, C classes, E exits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bertwright.data.tokenise import EncodedRows
from bertwright.models.exits import read_for_exit
from bertwright.models.task_model import TaskModel
from bertwright.progress import Progress
from bertwright.tasks.forward import forward_batches

__all__ = ["exit_readings", "fit_soft_head", "read_exits"]

SPREAD_MIN = 1e-6


def read_exits(
    model: TaskModel, rows: EncodedRows, layers: Sequence[int]
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Yield of each batch (positions, readings [E, B, 2D], the model's logits [B, C]), in fp32.

    One pass of the whole encoder, without dropout.

    Args:
        model: stays on its device and in its mode.
        rows: labels are not asked.
        layers: after which the heads read, [E].
    """
    with Progress("read the layers", total=len(rows), unit="texts") as bar:
        for positions, batch, output in forward_batches(model, rows, output_hidden_states=True):
            states: Any = output.hidden_states
            mask = batch["attention_mask"]
            read = torch.stack([read_for_exit(states[layer], mask) for layer in layers])
            yield positions, read.float(), output.logits.float()
            bar.advance(len(positions))


def exit_readings(
    model: TaskModel, rows: EncodedRows, layers: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return what heads read of each row, [E, N, 2D], and the model's logits, [N, C], on the CPU.

    Memory: 8 E N D bytes.
    """
    width, count = 2 * model.roles.hidden_size, model.outputs.count
    readings = torch.empty(len(layers), len(rows), width)
    logits = torch.empty(len(rows), count)
    for positions, read, answer in read_exits(model, rows, layers):
        places = torch.from_numpy(positions)
        readings[:, places], logits[places] = read.cpu(), answer.cpu()
    return readings, logits


def fit_soft_head(
    readings: Tensor, targets: Tensor, *, penalty: float = 1.0, iterations: int = 100
) -> tuple[Tensor, Tensor]:
    """Return weights [C, F] and biases [C] of the softmax regression that is nearest to targets.

    Minimises mean over rows of H(targets, softmax(W x + b)) + penalty / (2 N) ||W||², where each
    feature of x has been brought to mean 0, and all of them together to spread 1 (what is returned
    takes them as they were). One scale for all: a feature that hardly varies, as those of the first
    token in the first layers, would else get weights of thousands, which rounding and dropout then
    blow up. Convex, and solved by L-BFGS from 0, so nothing is random.

    Args:
        readings: [N, F], any float type; it is computed in that type.
        targets: probabilities [N, C].
        penalty: above or equal 0.
        iterations: most steps of L-BFGS.
    """
    centre = readings.mean(dim=0)
    spread = (readings - centre).square().mean().sqrt().clamp(min=SPREAD_MIN)
    x = (readings - centre) / spread
    weight = x.new_zeros(targets.shape[1], x.shape[1], requires_grad=True)
    bias = x.new_zeros(targets.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=iterations,
        tolerance_grad=1e-7,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), targets.to(x.dtype))
        loss = loss + penalty / (2 * len(x)) * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(objective)
    own = weight.detach() / spread
    return own, bias.detach() - own @ centre
