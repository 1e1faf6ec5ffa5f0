"""Taking neurons out of the feed-forward networks, the least important first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.data.tokenise import EncodedRows
from bertwright.methods.prune.importance import (
    Scope,
    choose_kept,
    gate_gradients,
    neuron_activations,
    neuron_magnitudes,
    random_scores,
)
from bertwright.models.build import copy_with_widths
from bertwright.models.quantized import refuse_quantized
from bertwright.models.task_model import TaskModel
from bertwright.models.widths import refuse_fixed, widths_of
from bertwright.registry import register_method
from bertwright.tasks.objective import Objective

__all__ = ["NeuronPruning", "NeuronPruningConfig"]


@dataclass(frozen=True, kw_only=True)
class NeuronPruningConfig:
    """Options of neuron pruning."""

    share: float = 0.5
    """Share of the neurons that is kept."""
    by: Literal["gradient", "magnitude", "activation", "random"] = "gradient"
    """How important a neuron is: what the loss would notice, its weights' lengths, how much it
    fires, or drawn at random (the control)."""
    scope: Scope = "layer"
    """Each layer keeps the same share, or all neurons compete (global)."""
    multiple: int = 32
    """A layer keeps a multiple of so many neurons: kernels work in blocks."""
    seed: int = 0
    """Of what is drawn at random."""

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "share", self.share, "above 0, at most 1")
        require(self.multiple >= 1, "multiple", self.multiple, "at least 1")


CARD = MethodCard(
    name="neuron_pruning",
    kind="prune",
    summary="Take out the FFN neurons that the loss would miss least; shapes become smaller.",
    paper="Pruning Convolutional Neural Networks for Resource Efficient Inference",
    year=2017,
    citation=(
        "Molchanov, Tyree, Karras, Aila, Kautz 2017, arXiv:1611.06440; neurons of BERT: "
        "Sucik 2019, Rasa's account of neuron pruning"
    ),
    equation=(
        "gradient: I_j = mean over rows of |sum over tokens of h_tj d loss_row / d h_tj|;\n"
        "magnitude: ||W1[j]|| ||W2[:, j]||; activation: mean over tokens of |h_tj|;\n"
        "a layer keeps its share of the largest I_j (global: I / ||I_layer||, all together)"
    ),
    needs="A fine-tuned model; labelled rows (not for magnitude). Roles: ffn_in, ffn_out.",
    cost="One forward and backward pass over the rows; the gates of a batch.",
    expected_effect="DynaBERT at half width: half a point to a point below BERT-base on GLUE.",
    expected_source="Hou et al. 2020, arXiv:2004.04037, quoted from memory; trained on afterwards.",
    when_to_use="Two thirds of a layer's weights are its FFN: for short inputs it is what costs.",
    when_not_to_use="Where a whole layer can go instead: that is faster at the same FLOPs.",
    siblings="head_pruning does the same for attention; student_init drops whole layers.",
    departures="One shot; training goes on afterwards. Layers keep multiples of 32 neurons.",
)


@register_method(config=NeuronPruningConfig, card=CARD)
class NeuronPruning:
    """Makes narrower models; runs before training, so it is not a hook."""

    def __init__(self, config: NeuronPruningConfig) -> None:
        self.config = config

    def apply(self, model: TaskModel, rows: EncodedRows, task: Objective) -> TaskModel:
        """Return a copy of the model with the most important neurons for these labelled rows.

        Raises:
            UnsupportedRoleError: the family keeps its neurons, with the reason.
            UsageError: the model has been quantized.
        """
        refuse_quantized(model, "it cannot be pruned")
        refuse_fixed(model.roles, "neurons")
        kept = choose_kept(
            self._scores(model, rows, task),
            self.config.share,
            scope=self.config.scope,
            multiple=self.config.multiple,
        )
        return copy_with_widths(model, neurons=kept)

    def _scores(self, model: TaskModel, rows: EncodedRows, task: Objective) -> Sequence[Tensor]:
        if self.config.by == "gradient":
            return gate_gradients(model, rows, task).neurons or ()
        if self.config.by == "magnitude":
            return neuron_magnitudes(model).neurons or ()
        if self.config.by == "activation":
            return neuron_activations(model, rows).neurons or ()
        return random_scores(widths_of(model.encoder).neurons, self.config.seed)
