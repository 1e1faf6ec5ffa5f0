"""Relations: how a text's tokens stand to each other in the student's last layer, as the teacher's.

Shape letters: B batch, L length, D width of the projections, N relation heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.errors import ConfigError, UsageError
from bertwright.methods.distil.projections import (
    ProjectionReader,
    Projections,
    ProjectionShape,
    projection_shape,
)
from bertwright.methods.distil.teacher_source import TeacherSource, as_teacher_source
from bertwright.methods.finetune.layer_drop import refuse_layer_drop
from bertwright.models.roles import get_roles
from bertwright.models.task_model import TaskModel
from bertwright.registry import register_method
from bertwright.training.hooks import Hook, RunState

__all__ = [
    "MatchedRelations",
    "Relations",
    "RelationsConfig",
    "match_relations",
    "relation_heads",
    "relation_kl",
    "relation_log_probs",
    "relation_losses",
]

Kind = Literal["query-key-value", "attention-value"]

RELATIONS: Mapping[Kind, Mapping[str, tuple[str, str]]] = {
    "query-key-value": {
        "query": ("query", "query"),
        "key": ("key", "key"),
        "value": ("value", "value"),
    },
    "attention-value": {"attention": ("query", "key"), "value": ("value", "value")},
}
"""Kind -> name of each of its relations -> what stands to what."""


def relation_log_probs(states_a: Tensor, states_b: Tensor, mask: Tensor, num_heads: int) -> Tensor:
    """Return log softmax over b of a·b / sqrt(D / N), in each relation head.

    Args:
        states_a: [B, L, D], split into N heads of D / N neighbouring features.
        states_b: [B, L, D]; with `states_a` itself, the relation of a thing to itself.
        mask: [B, L], 1 for real tokens. What stands at padding is never touched, NaN or not.
        num_heads: N; divides D.

    Returns:
        [B, N, L, L], a before b, float32. No real token has any weight on padding.

    Source: Wang et al. 2020 (MiniLM), Wang et al. 2021 (MiniLMv2).
    """
    heads_a, heads_b = (_split_heads(states, mask, num_heads) for states in (states_a, states_b))
    scores = heads_a @ heads_b.transpose(2, 3) / math.sqrt(heads_a.shape[3])
    padding = ~mask[:, None, None, :].bool()
    return scores.masked_fill(padding, torch.finfo(scores.dtype).min).log_softmax(dim=3)


def _split_heads(states: Tensor, mask: Tensor, num_heads: int) -> Tensor:
    """Return [B, N, L, D / N], zeros at padding."""
    clean = torch.where(mask[:, :, None].bool(), states.float(), 0.0)
    return clean.unflatten(2, (num_heads, -1)).transpose(1, 2)


def relation_kl(log_probs_s: Tensor, log_probs_t: Tensor, mask: Tensor) -> Tensor:
    """Return KL(R_t || R_s), averaged over the relation heads and the real tokens of each row.

    Args:
        log_probs_s: [B, N, L, L], the student's, from `relation_log_probs`; has gradients.
        log_probs_t: [B, N, L, L], the teacher's.
        mask: [B, L]; padding counts on neither side of the relation. The denominator is N n.

    Returns:
        [B], nats; 0 for a row without real tokens.
    """
    log_t = log_probs_t.detach()
    real = mask.bool()
    both = (real[:, :, None] & real[:, None, :]).unsqueeze(1)
    terms = torch.where(both, log_t.exp() * (log_t - log_probs_s), 0.0)
    return terms.sum(dim=(1, 2, 3)) / (log_t.shape[1] * mask.sum(dim=1).clamp_min(1))


def relation_losses(
    projections_s: Projections,
    projections_t: Projections,
    mask: Tensor,
    *,
    kind: Kind,
    num_heads: int,
) -> dict[str, Tensor]:
    """Return the KL of each relation, [B] in nats; their sum is MiniLM's loss.

    Args:
        projections_s: the student's, [B, L, D_s] each; have gradients.
        projections_t: the teacher's, [B, L, D_t] each; the widths may differ.
        mask: [B, L], 1 for real tokens.
        kind: query-key-value (v2) or attention-value (v1).
        num_heads: N; divides D_s and D_t.
    """
    losses: dict[str, Tensor] = {}
    for name, (a, b) in RELATIONS[kind].items():
        log_s, log_t = (
            relation_log_probs(getattr(one, a), getattr(one, b), mask, num_heads)
            for one in (projections_s, projections_t)
        )
        losses[name] = relation_kl(log_s, log_t, mask)
    return losses


@dataclass(frozen=True, kw_only=True)
class RelationsConfig:
    """Options of relation matching."""

    kind: Kind = "query-key-value"
    """Which relations. query-key-value: of queries, of keys and of values among themselves (MiniLM
    v2). attention-value: attention, and values among themselves (MiniLM v1)."""
    num_relation_heads: int | None = None
    """query-key-value: how many parts the queries, keys and values are split into, on both sides;
    none: as many as the teacher has attention heads."""
    teacher_layer: int | None = None
    """The teacher's layer, from 1, that the student's last one follows; none: the last."""
    weight: float = 1.0
    """Weight of the sum of the relations' differences."""

    def __post_init__(self) -> None:
        heads, layer = self.num_relation_heads, self.teacher_layer
        require(heads is None or heads >= 1, "num_relation_heads", heads, "at least 1, or none")
        require(layer is None or layer >= 1, "teacher_layer", layer, "at least 1, or none")
        require(0 < self.weight < math.inf, "weight", self.weight, "above 0")
        if self.kind == "attention-value" and heads is not None:
            raise ConfigError(
                f"--num-relation-heads {heads}: attention-value compares the attention heads "
                "themselves",
                hint="leave it out, or take kind=query-key-value",
            )


class MatchedRelations(NamedTuple):
    """What is compared with what."""

    layer_s: int
    """The student's last layer, from 1."""
    layer_t: int
    """The teacher's, from 1."""
    num_heads: int
    """N, the relation heads of both."""


def match_relations(
    config: RelationsConfig, encoder_s: nn.Module, teacher: TeacherSource
) -> MatchedRelations:
    """Return what is compared with what; nothing is run.

    Raises:
        ConfigError: the teacher has no such layer, or N does not divide both widths.
        UsageError: attention-value, and the two differ in heads.
        UnsupportedRoleError: a family has no queries, keys and values of their own, with the
            reason.
    """
    layer_s = get_roles(encoder_s).num_layers
    layer_t = config.teacher_layer or teacher.num_layers
    if layer_t > teacher.num_layers:
        raise ConfigError(f"--teacher-layer {layer_t}: the teacher has {teacher.num_layers} layers")
    shape_s = projection_shape(encoder_s, layer_s)
    num_heads = relation_heads(config, shape_s, teacher.projection_shape(layer_t))
    return MatchedRelations(layer_s, layer_t, num_heads)


def relation_heads(
    config: RelationsConfig, shape_s: ProjectionShape, shape_t: ProjectionShape
) -> int:
    """Return N, how many heads the projections of both are split into.

    Raises:
        ConfigError: N does not divide both widths.
        UsageError: attention-value, and the two differ in heads.
    """
    if config.kind == "attention-value":
        if shape_s.num_heads != shape_t.num_heads:
            raise UsageError(
                f"the student has {shape_s.num_heads} attention heads in its last layer, the "
                f"teacher {shape_t.num_heads}: their attention does not correspond",
                hint="take kind=query-key-value, which splits both anew",
            )
        return shape_t.num_heads
    num_heads = config.num_relation_heads or shape_t.num_heads
    if shape_s.width % num_heads or shape_t.width % num_heads:
        raise ConfigError(
            f"--num-relation-heads {num_heads}: must divide the width of the student's queries "
            f"({shape_s.width}) and of the teacher's ({shape_t.width})",
            hint=f"take a divisor of {math.gcd(shape_s.width, shape_t.width)}",
        )
    return num_heads


CARD = MethodCard(
    name="relations",
    kind="distil",
    summary=(
        "Make the tokens of a text stand to each other in the student's last layer as they do in "
        "a layer of the teacher (MiniLM v1 and v2)."
    ),
    paper=(
        "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained "
        "Transformers"
    ),
    year=2021,
    citation=(
        "Wang, Bao, Huang, Dong, Wei 2021, arXiv:2012.15828; attention-value: Wang, Wei, Dong, "
        "Bao, Yang, Zhou 2020, arXiv:2002.10957"
    ),
    equation=(
        "loss_i += weight sum_{relations} 1/(N n_i) sum_{heads, real tokens} KL(R_t || R_s)\n"
        "R = softmax over real tokens of x_a x_a^T / sqrt(D/N), for x in Q, K, V of one layer,\n"
        "each split into N parts x_a of D/N neighbouring features; n_i real tokens of row i.\n"
        "attention-value: softmax(Q_a K_a^T / sqrt(D/N)) in place of Q and K, a the attention\n"
        "heads. The student's last layer, the teacher's last or teacher_layer."
    ),
    needs=(
        "A teacher with the same tokenizer, no labels (but the loss that it is added to may need "
        "them). Any depths and widths; attention-value needs as many heads in the student. "
        "Roles: query, key, value (not: modernbert, xlnet, albert with shared layers)."
    ),
    cost=(
        "Queries, keys and values of one teacher layer on disk: 6·D bytes a token, once. In a step "
        "several arrays of B·N·L² numbers for each relation. No extra parameters; both models keep "
        "fast attention."
    ),
    expected_effect=(
        "v1 as pre-training, a 6x384 student (22 M parameters) fine-tuned afterwards, BERT-base in "
        "brackets: MNLI 83.3 (84.5), SST-2 91.5 (93.2), SQuAD 2.0 75.6 (76.8). Its teacher was a "
        "UniLM v2 of BERT-base's size."
    ),
    expected_source=(
        "Table in the authors' repository (microsoft/unilm, minilm). It is about distillation on "
        "raw text; what it adds on a task's own rows has not been measured here."
    ),
    when_to_use=(
        "Together with soft_targets, for students narrower than the teacher or with other heads: "
        "there is no map of layers and no projection to train. For 24-layer teachers a layer "
        "above the middle (21 for BERT-large; quoted from memory)."
    ),
    when_not_to_use=(
        "With many relation heads and long texts the L² arrays take much memory. It compares one "
        "layer and leaves those below to find their own way; hidden_matching reaches them all."
    ),
    siblings=(
        "hidden_matching compares states through a projection, and attention maps of mapped "
        "layers; relations compares only how tokens stand to each other, in one layer. Works "
        "after head_pruning with query-key-value."
    ),
    departures=(
        "For training on a task (the papers: on raw text), added to its loss. Relation heads are "
        "by default the teacher's attention heads (v2, quoted from memory: 48 for base, 64 for "
        "large). Attention is the product of queries and keys alone: positions that mpnet and "
        "deberta-v2 add to it, and deberta-v2's own scale, have no part."
    ),
)


@register_method(config=RelationsConfig, card=CARD)
class Relations(Hook):
    """Adds the differences of the relations to each example's loss.

    The student's projections are read from each training pass by hooks that remove themselves.
    """

    order = 40

    def __init__(self, config: RelationsConfig, teacher: TeacherSource | TaskModel) -> None:
        self.config = config
        self.teacher = as_teacher_source(teacher)
        self._matched: MatchedRelations | None = None
        self._reader: ProjectionReader | None = None

    def on_start(self, state: RunState) -> None:
        """Check that the relations of the two can be compared."""
        encoder = state.model.encoder
        refuse_layer_drop(state.model.roles, "their relations cannot be matched there")
        self._matched = match_relations(self.config, encoder, self.teacher)
        self._reader = ProjectionReader(encoder, [self._matched.layer_s])

    def on_batch(self, state: RunState) -> None:
        """Be ready to read the student's projections."""
        assert self._reader is not None
        self._reader.open()

    def on_loss(self, state: RunState) -> None:
        """Add the differences."""
        assert self._reader is not None and self._matched is not None
        mask = state.batch["attention_mask"]
        given = self.teacher.projections(state.batch, self._matched.layer_t)
        losses = relation_losses(
            self._reader.take(self._matched.layer_s),
            Projections(*(states.to(mask.device) for states in given)),
            mask,
            kind=self.config.kind,
            num_heads=self._matched.num_heads,
        )
        for name, loss in losses.items():
            state.add_loss(f"relations/{name}", self.config.weight * loss)

    def on_end(self, state: RunState) -> None:
        """Leave nothing on the student."""
        if self._reader is not None:
            self._reader.close()
