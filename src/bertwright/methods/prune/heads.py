"""Taking attention heads out, the least important first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.data.tokenise import EncodedRows
from bertwright.methods.prune.importance import (
    Scope,
    choose_kept,
    gate_gradients,
    random_scores,
)
from bertwright.models.build import copy_with_widths
from bertwright.models.quantized import refuse_quantized
from bertwright.models.task_model import TaskModel
from bertwright.models.widths import refuse_fixed, widths_of
from bertwright.registry import register_method
from bertwright.tasks.objective import Objective

__all__ = ["HeadPruning", "HeadPruningConfig"]


@dataclass(frozen=True, kw_only=True)
class HeadPruningConfig:
    """Options of head pruning."""

    share: float = 0.5
    """Share of the attention heads that is kept."""
    by: Literal["gradient", "random"] = "gradient"
    """How important a head is: what the loss would notice, or drawn at random (the control)."""
    scope: Scope = "layer"
    """Each layer keeps the same share, or all heads compete (global)."""
    seed: int = 0
    """Of what is drawn at random."""

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "share", self.share, "above 0, at most 1")


CARD = MethodCard(
    name="head_pruning",
    kind="prune",
    summary="Take out the attention heads that the loss would miss least; shapes become smaller.",
    paper="Are Sixteen Heads Really Better than One?",
    year=2019,
    citation="Michel, Levy, Neubig 2019, arXiv:1905.10650",
    equation=(
        "I_h = mean over rows of |d loss_row / d gate_h|, the gates 1, before the projection;\n"
        "a layer keeps its share of the largest I_h (global: I / ||I_layer||, all together)"
    ),
    needs="A fine-tuned model, labelled rows. Roles: query, key, value, attention_output.",
    cost="One forward and backward pass over the rows; the gates of a batch.",
    expected_effect=(
        "BERT on MNLI loses little up to 40% of its heads; half of the heads give at most 17.5% "
        "more speed."
    ),
    expected_source="Michel et al. 2019, section 3 and table 3, quoted from memory.",
    when_to_use="For long inputs, where attention is a large part of the work.",
    when_not_to_use="For short ones: there neurons and layers are what costs.",
    siblings="neuron_pruning does the same for the FFN; student_init drops whole layers.",
    departures="One shot and not 10% at a time; training goes on afterwards.",
)


@register_method(config=HeadPruningConfig, card=CARD)
class HeadPruning:
    """Makes narrower models; runs before training, so it is not a hook."""

    def __init__(self, config: HeadPruningConfig) -> None:
        self.config = config

    def apply(self, model: TaskModel, rows: EncodedRows, task: Objective) -> TaskModel:
        """Return a copy of the model with the most important heads for these labelled rows.

        Raises:
            UnsupportedRoleError: the family keeps its heads, with the reason.
            UsageError: the model has been quantized.
        """
        refuse_quantized(model, "it cannot be pruned")
        refuse_fixed(model.roles, "heads")
        if self.config.by == "random":
            scores = random_scores(widths_of(model.encoder).heads, self.config.seed)
        else:
            scores = gate_gradients(model, rows, task).heads or ()
        kept = choose_kept(scores, self.config.share, scope=self.config.scope)
        return copy_with_widths(model, heads=kept)
