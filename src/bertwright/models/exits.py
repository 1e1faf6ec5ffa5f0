"""Early exits: a head after some of the layers, and how sure one must be to leave there.

Shapes: B batch, L length, D model width, C classes, E exits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bertwright.errors import CheckpointError, UsageError
from bertwright.models.agreement import (
    AGREEMENT,
    CONFIDENCE,
    Calibration,
    calibrate_threshold,
    threshold_ladder,
)
from bertwright.models.manifest import check_file
from bertwright.models.pooling.base import state_of_first
from bertwright.models.pooling.mean import mean_of_tokens

if TYPE_CHECKING:
    from bertwright.models.task_model import TaskModel

__all__ = [
    "EXITS",
    "Exits",
    "Measure",
    "find_threshold",
    "leaves",
    "load_exits",
    "read_for_exit",
    "refuse_exits",
    "sureness",
]

Measure = Literal["probability", "entropy"]

EXITS = "exits.safetensors"


def sureness(logits: Tensor, measure: Measure) -> Tensor:
    """Return how sure an answer is, [B] in float64, 0 to 1.

    Args:
        logits: [B, C].
        measure: `probability`, of the likeliest class; `entropy`, 1 - H / log C.
    """
    log_p = logits.double().log_softmax(dim=-1)
    if measure == "probability":
        return log_p.amax(dim=-1).exp()
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    return 1 - entropy / math.log(max(logits.shape[-1], 2))


def leaves(logits: Tensor, measure: Measure, threshold: float | None) -> Tensor:
    """Return which rows leave with these logits [B, C], bool [B]; without a threshold none."""
    if threshold is None:
        return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    return sureness(logits, measure) >= threshold


def read_for_exit(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return what a head after a layer reads: the first token's state and the mean of all real.

    Args:
        hidden: what the layer returned, [B, L, D].
        mask: true or 1 for real tokens, [B, L].

    Returns:
        [B, 2D].
    """
    return torch.cat([state_of_first(hidden, mask), mean_of_tokens(hidden, mask)], dim=-1)


def find_threshold(exits: Exits, answers: Iterable[Tensor], num_layers: int) -> Calibration:
    """Return the greediest threshold that keeps what the exits promise; nothing is changed.

    Args:
        exits: whose agreement and confidence it is.
        answers: of each batch, to rows that the heads have not learned from: what each exit and,
            last, the whole model answer, [E + 1, B, C].
        num_layers: of the whole model.
    """
    sure, agrees = [], []
    for answer in answers:
        sure.append(sureness(answer[:-1].flatten(0, 1), exits.measure).view(len(exits.layers), -1))
        said = answer.argmax(dim=-1)
        agrees.append(said[:-1] == said[-1])
    num_classes = exits.bias.shape[1]
    return calibrate_threshold(
        torch.cat(sure, dim=1).cpu().numpy(),
        np.asarray(torch.cat(agrees, dim=1).cpu()),
        exits.layers,
        num_layers,
        threshold_ladder(1 / num_classes if exits.measure == "probability" else 0.0),
        agreement=exits.agreement,
        confidence=exits.confidence,
    )


class Exits(nn.Module):
    """Linear heads after some layers of an encoder, and one threshold for all of them."""

    def __init__(
        self,
        layers: Sequence[int],
        weight: Tensor,
        bias: Tensor,
        *,
        measure: Measure = "probability",
        threshold: float | None = None,
        agreement: float = AGREEMENT,
        confidence: float = CONFIDENCE,
    ) -> None:
        """Put heads together.

        Args:
            layers: after how many layers each head stands, from 1, increasing, [E].
            weight: [E, C, 2D].
            bias: [E, C].
            measure: of how sure an answer is.
            threshold: a row leaves where it is so sure or more; None: nowhere.
            agreement: share of rows answered as by the whole model that the threshold promises.
            confidence: of that promise.

        Raises:
            UsageError: the layers are not increasing from 1, or the shapes do not fit them.
        """
        super().__init__()
        chosen = [int(layer) for layer in layers]
        if not chosen or chosen != sorted(set(chosen)) or chosen[0] < 1:
            raise UsageError(f"exits after layers {chosen}: must be increasing numbers from 1")
        if weight.shape[0] != len(chosen) or bias.shape != weight.shape[:2]:
            raise UsageError(
                f"{len(chosen)} exits, but weights {tuple(weight.shape)}, biases "
                f"{tuple(bias.shape)}"
            )
        self.layers = tuple(chosen)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)
        self.measure: Measure = measure
        self.threshold = threshold
        self.agreement = agreement
        self.confidence = confidence

    def logits(self, layer: int, read: Tensor) -> Tensor:
        """Return the answer [B, C] of the head after so many layers, from its reading [B, 2D]."""
        place = self.layers.index(layer)
        return nn.functional.linear(read, self.weight[place], self.bias[place])

    def leaves(self, logits: Tensor) -> Tensor:
        """Return which rows leave with these logits [B, C], bool [B]."""
        return leaves(logits, self.measure, self.threshold)

    def to_json(self) -> dict[str, Any]:
        """Return all but the weights."""
        return {
            "layers": list(self.layers),
            "measure": self.measure,
            "threshold": self.threshold,
            "agreement": self.agreement,
            "confidence": self.confidence,
        }

    def save(self, folder: Path) -> None:
        """Write the weights."""
        tensors = {name: one.detach().contiguous() for name, one in self.state_dict().items()}
        save_file(tensors, folder / EXITS)


def load_exits(facts: Mapping[str, Any], folder: Path, *, num_layers: int, shape: Any) -> Exits:
    """Return the exits of a saved model.

    Args:
        facts: what `Exits.to_json` gave.
        folder: of the saved model.
        num_layers: of its encoder.
        shape: of a head, (C, 2D).

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit the model.
    """
    check_file(folder / EXITS)
    tensors = load_file(folder / EXITS)
    try:
        measure, threshold = facts["measure"], facts["threshold"]
        exits = Exits(
            facts["layers"],
            tensors["weight"],
            tensors["bias"],
            measure=measure,
            threshold=None if threshold is None else float(threshold),
            agreement=float(facts.get("agreement", AGREEMENT)),
            confidence=float(facts.get("confidence", CONFIDENCE)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: its exits are damaged: {error}") from error
    fits = exits.layers[-1] < num_layers and tuple(exits.weight.shape[1:]) == tuple(shape)
    if not fits or measure not in get_args(Measure):
        raise CheckpointError(f"{folder / EXITS} does not fit the model: {dict(facts)}")
    return exits


def refuse_exits(model: TaskModel, consequence: str) -> None:
    """Raise where a model has early exits.

    Raises:
        UsageError: it has; `consequence` says what cannot be done.
    """
    if model.exits is not None:
        raise UsageError(
            f"the model has early exits: {consequence}",
            hint="take the model that `bertwright exits` was given",
        )
