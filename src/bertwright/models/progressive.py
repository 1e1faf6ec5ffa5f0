"""Running an encoder layer by layer, and no further than a row needs.

Shapes: B batch, L length, D model width, C classes, K layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bertwright.models.exits import Exits, read_for_exit
from bertwright.models.in_parts import check_runs_in_parts, embed, mask_for_layers
from bertwright.models.pooling import States
from bertwright.models.task_model import TaskModel

__all__ = ["EarlyAnswers", "answer_at_all_exits", "answer_early"]


@dataclass(frozen=True)
class EarlyAnswers:
    """What a batch was answered, and how far each row went."""

    logits: Tensor
    """[B, C], of the exit where the row left, or of the whole model."""
    layers: Tensor
    """How many layers the row ran through, int64 [B]."""


@dataclass
class _Batch:
    """Rows that are still on their way."""

    places: Tensor
    """Where they were in the batch that came, int64 [B]."""
    ids: Tensor
    mask: Tensor
    """1 for real tokens, [B, L]."""
    states: list[Tensor]
    """[B, L, D], the newest last; older ones only where the pooling reads them."""

    def keep(self, stay: Tensor) -> None:
        """Go on with some of the rows, bool [B]."""
        self.places, self.ids, self.mask = self.places[stay], self.ids[stay], self.mask[stay]
        self.states = [state[stay] for state in self.states]


def answer_early(
    model: TaskModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_type_ids: Tensor | None = None,
) -> EarlyAnswers:
    """Run a model with exits: rows that are sure leave, the others are packed and go on.

    With a threshold that nothing reaches, the logits are the model's own, bit for bit.

    Args:
        model: one with exits, in eval mode.
        input_ids: token ids, [B, L].
        attention_mask: 1 for real tokens, 0 for padding, [B, L].
        token_type_ids: [B, L]; ignored where the family does not have them.

    Raises:
        UnsupportedFamilyError: the encoder cannot be stopped between its layers.
    """
    exits, roles = model.exits, model.roles
    assert exits is not None, "the model has no exits"
    check_runs_in_parts(roles, "early exits")
    first = embed(roles, input_ids, token_type_ids)
    places = torch.arange(len(input_ids), device=input_ids.device)
    batch = _Batch(places, input_ids, attention_mask, [first])
    reads_layers = model.pooling is not None and model.pooling.reads_layers
    layers = torch.full_like(places, roles.num_layers)
    logits = first.new_empty(len(input_ids), model.outputs.count)
    layer_mask = mask_for_layers(roles, batch.states[-1], batch.mask)
    for number, layer in enumerate(roles.layers, start=1):
        hidden = roles.hidden_of(roles.run_layers([layer], (batch.states[-1], layer_mask), {}))
        batch.states = [*batch.states, hidden] if reads_layers else [hidden]
        if number in exits.layers and _let_out(exits, number, batch, logits, layers):
            if not len(batch.places):
                return EarlyAnswers(logits, layers)
            layer_mask = mask_for_layers(roles, batch.states[-1], batch.mask)
    states = States(tuple(batch.states), batch.mask.bool(), batch.ids, model.rows_begin_at_0)
    output = model(batch.ids, batch.mask, read=model.read(states))
    logits[batch.places] = output.logits
    return EarlyAnswers(logits, layers)


def answer_at_all_exits(
    model: TaskModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_type_ids: Tensor | None = None,
) -> Tensor:
    """Return what each exit and, last, the whole model answer, [E + 1, B, C]; nobody leaves.

    Arguments as `answer_early`.
    """
    exits = model.exits
    assert exits is not None, "the model has no exits"
    output = model(input_ids, attention_mask, token_type_ids, output_hidden_states=True)
    early = [
        exits.logits(layer, read_for_exit(output.hidden_states[layer], attention_mask))
        for layer in exits.layers
    ]
    return torch.stack([*early, output.logits])


def _let_out(exits: Exits, number: int, batch: _Batch, logits: Tensor, layers: Tensor) -> bool:
    """Let rows leave after layer `number`, and note their answers; tell whether any did."""
    answers = exits.logits(number, read_for_exit(batch.states[-1], batch.mask))
    leaves = exits.leaves(answers)
    if not bool(leaves.any()):
        return False
    logits[batch.places[leaves]] = answers[leaves]
    layers[batch.places[leaves]] = number
    batch.keep(~leaves)
    return True
