"""LayerDrop: training leaves whole layers out at random, so that later fewer can do.

Letter: K layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.errors import UsageError
from bertwright.models.quantized import refuse_quantized
from bertwright.models.roles import Roles
from bertwright.registry import register_method
from bertwright.training.hooks import Hook, RunState

__all__ = ["LayerDrop", "LayerDropConfig", "LayerSkips", "draw_skips", "refuse_layer_drop"]

_STREAM = 190911556
"""Keeps these draws apart from other methods' draws for the same seed and step."""


def draw_skips(num_layers: int, rate: float, *, seed: int, step: int) -> tuple[bool, ...]:
    """Return for each of K layers whether a step leaves it out: with chance `rate`, independently.

    The answer depends on nothing but the arguments, so a resumed run, and every batch that is
    accumulated into the step, meets the same one. All layers may be left out, or none.

    Source: Fan, Grave, Joulin 2020, arXiv:1909.11556.
    """
    numbers = np.random.default_rng((seed % 2**32, step, _STREAM)).random(num_layers)
    return tuple((numbers < rate).tolist())


class _SkippableForward:
    """Stands in the place of a layer's `forward`: does what it did, or nothing."""

    def __init__(self, roles: Roles, layer: nn.Module, places: Sequence[int]) -> None:
        self.places = tuple(places)
        self.skips = [False] * len(self.places)
        self.calls = 0
        self._roles, self._layer, self._forward = roles, layer, layer.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        skipped = self.skips[self.calls % len(self.skips)]
        self.calls += 1
        if skipped and self._layer.training:
            return self._roles.unchanged(args)
        return self._forward(*args, **kwargs)


def refuse_layer_drop(roles: Roles, consequence: str) -> None:
    """Raise if layers of this encoder are left out of training steps just now.

    Raises:
        UsageError: they are; `consequence` says what cannot be done.
    """
    if any(isinstance(vars(layer).get("forward"), _SkippableForward) for layer in roles.layers):
        raise UsageError(
            f"layer_drop leaves layers out of training steps: {consequence}",
            hint="train with layer_drop first, and do this in a second run",
        )


class LayerSkips:
    """Lets layers of an encoder be skipped in train mode; in eval mode all of them run.

    The encoder keeps its modules, their names and its configuration. A decision holds until the
    next one, for any number of passes and for what gradient checkpointing computes again. Where
    layers share a module (albert), each of its places has a decision of its own.
    """

    def __init__(self, roles: Roles) -> None:
        """Take over the `forward` of every layer, from another `LayerSkips` too."""
        places: dict[nn.Module, list[int]] = {}
        for place, layer in enumerate(roles.layers):
            places.setdefault(layer, []).append(place)
        self._forwards: dict[nn.Module, _SkippableForward] = {}
        for layer, its_places in places.items():
            if isinstance(vars(layer).get("forward"), _SkippableForward):
                del layer.forward
            self._forwards[layer] = _SkippableForward(roles, layer, its_places)
            layer.forward = self._forwards[layer]

    def decide(self, skips: Sequence[bool]) -> None:
        """Say of each of the K layers whether it is left out from now on."""
        for forward in self._forwards.values():
            forward.skips = [skips[place] for place in forward.places]
            forward.calls = 0

    def decide_none(self) -> None:
        """Leave no layer out from now on."""
        self.decide([False] * sum(len(forward.places) for forward in self._forwards.values()))

    def remove(self) -> None:
        """Give the layers back what they had."""
        for layer, forward in self._forwards.items():
            if vars(layer).get("forward") is forward:
                del layer.forward
        self._forwards = {}


@dataclass(frozen=True, kw_only=True)
class LayerDropConfig:
    """Options of LayerDrop."""

    rate: float = 0.2
    """Chance of each layer to be left out of a training step. To keep a share r of the layers
    later, 1 - r is the paper's choice."""

    def __post_init__(self) -> None:
        require(0 <= self.rate < 1, "rate", self.rate, "at least 0, below 1")


CARD = MethodCard(
    name="layer_drop",
    kind="finetune",
    summary="Leave whole layers out of training steps at random; afterwards layers can be cut.",
    paper="Reducing Transformer Depth on Demand with Structured Dropout",
    year=2020,
    citation="Fan, Grave, Joulin 2020, arXiv:1909.11556",
    equation=(
        "s_l ~ Bernoulli(p), one for each layer l and training step\n"
        "y_l = y_{l-1} if s_l else layer_l(y_{l-1}); nothing is divided by 1 - p\n"
        "layers that run: (1 - p) K on average; evaluation: s = 0"
    ),
    needs="Labels. Roles: layers. Every family.",
    cost="Saves work: a step runs (1 - p) K layers on average. No memory, no parameters.",
    expected_effect=(
        "With p = 0.2 in pre-training too, RoBERTa-large has 90.3 on MNLI and 94.8 on QNLI with "
        "all its layers. Only in fine-tuning, the authors 'did not see great performance'."
    ),
    expected_source="README of the authors' code (fairseq, examples/layerdrop).",
    when_to_use=(
        "When one model shall serve several depths (`bertwright cut` makes them without training), "
        "best with an encoder that was pre-trained so; or against overfitting, with p = 0.1 or 0.2 "
        "and dropout 0.1 lower. For half of the layers and fewer the authors advise p = 0.5."
    ),
    when_not_to_use=(
        "For one small student: distil it. For few steps on an encoder that was pre-trained "
        "without it. Beside losses on attention maps: a layer that is left out has none."
    ),
    siblings=(
        "layer_pruning chooses which layers stay, the rules of student_init too (the authors: "
        "evenly spaced). theseus drops layers in favour of successors that it trains."
    ),
    departures=(
        "The draw depends on the seed and the step alone, so batches that are accumulated into a "
        "step share it. As in the authors' code all layers may be left out at once (chance p^K); "
        "a layer left out of a whole step has no gradient then, and the optimizer leaves it alone. "
        "In deberta-v2 with a convolution after the first layer, the convolution always runs."
    ),
)


@register_method(config=LayerDropConfig, card=CARD)
class LayerDrop(Hook):
    """Draws before each batch which layers it leaves out; the model ends as it began, with all."""

    order = 10

    def __init__(self, config: LayerDropConfig) -> None:
        self.config = config

    def on_start(self, state: RunState) -> None:
        """Make the layers skippable.

        Raises:
            UsageError: there are none, or the model has been quantized.
        """
        refuse_quantized(state.model, "it cannot be trained")
        if not state.model.roles.num_layers:
            raise UsageError("the model has no layers to drop", hint="leave layer_drop out")
        self._skips = LayerSkips(state.model.roles)

    def on_batch(self, state: RunState) -> None:
        """Draw; nothing of the run's own randomness is used."""
        num_layers = state.model.roles.num_layers
        skips = draw_skips(num_layers, self.config.rate, seed=state.config.seed, step=state.step)
        self._skips.decide(skips)
        state.losses["layer_drop/layers"] = float(num_layers - sum(skips))

    def on_step(self, state: RunState) -> None:
        """Let every layer run until the next batch."""
        self._skips.decide_none()

    def on_end(self, state: RunState) -> None:
        """Leave no trace in the model."""
        self._skips.remove()
