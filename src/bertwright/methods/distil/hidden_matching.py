"""Hidden matching: the student's hidden states and attention follow the teacher's.

Shape letters: B batch, L length, D model width, N heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.errors import ConfigError, UnsupportedRoleError, UsageError
from bertwright.methods.distil.hidden_losses import (
    attention_kl,
    attention_mse,
    attention_scores,
    cls_mask,
    hidden_cosine,
    hidden_mse,
)
from bertwright.methods.distil.layer_map import layer_map
from bertwright.methods.distil.projections import ProjectionReader, heads_of, projection_shape
from bertwright.methods.distil.teacher_source import (
    LiveTeacher,
    TeacherSource,
    as_teacher_source,
)
from bertwright.methods.finetune.layer_drop import refuse_layer_drop
from bertwright.models.roles import get_roles
from bertwright.models.task_model import TaskModel
from bertwright.registry import register_method
from bertwright.training.hooks import Hook, RunState

__all__ = [
    "HiddenMatching",
    "HiddenMatchingConfig",
    "disable_attention_dropout",
    "make_projection",
    "match_layers",
    "matched_pairs",
]

MORE_TERMS = {
    "mpnet": "mpnet adds a table of relative positions to it",
    "deberta-v2": "deberta-v2 adds products with relative positions to it and scales it by them",
}
"""Family -> why its attention before the softmax is more than Q K^T / sqrt(d)."""


def disable_attention_dropout(encoder: nn.Module) -> list[tuple[nn.Module, str, float]]:
    """Set the dropout of attention maps to 0 and return what it was: (owner, name, rate).

    The encoders return attention maps after dropout, holes and all; nothing can follow those.
    """
    roles = get_roles(encoder)
    before: list[tuple[nn.Module, str, float]] = []
    for block in dict.fromkeys(roles.attention(i) for i in range(roles.num_layers)):
        name = "attention_dropout" if hasattr(block, "attention_dropout") else "dropout"
        part = getattr(block, name)
        owner, name = (part, "p") if isinstance(part, nn.Dropout) else (block, name)
        before.append((owner, name, getattr(owner, name)))
        setattr(owner, name, 0.0)
    return before


@dataclass(frozen=True, kw_only=True)
class HiddenMatchingConfig:
    """Options of hidden matching."""

    layers: Literal["uniform", "last"] | tuple[int, ...] = "uniform"
    """Which teacher layer each student layer follows: a rule, or one number (from 1) for each
    student layer as 2+4+6, 0 for none."""
    hidden_weight: float = 1.0
    """Weight of the hidden states' difference; 0 leaves it out."""
    hidden_loss: Literal["mse", "cosine"] = "mse"
    """How hidden states are compared."""
    tokens: Literal["all", "cls"] = "all"
    """Of which tokens the hidden states are compared: of all, or of the classification token."""
    last_layer: bool = True
    """Match the student's last layer too; false leaves it to the task (BERT-PKD)."""
    embeddings: bool = False
    """Match the outputs of the embeddings too."""
    attention_weight: float = 0.0
    """Weight of the attention's difference; 0 leaves it out."""
    attention_loss: Literal["kl", "mse", "scores"] = "kl"
    """How attention is compared. kl, mse: its maps, after the softmax. scores: mse of what goes
    into the softmax (TinyBERT), which keeps fast attention."""
    share: float = 0.0
    """The share of the steps, the first ones, in which this stands in the place of labels and soft
    targets; afterwards it is left out. 0: it is added to them all the time."""

    def __post_init__(self) -> None:
        require(self.hidden_weight >= 0, "hidden_weight", self.hidden_weight, "at least 0")
        require(self.attention_weight >= 0, "attention_weight", self.attention_weight, "at least 0")
        total = self.hidden_weight + self.attention_weight
        require(total > 0, "hidden_weight", self.hidden_weight, "above 0, or --attention-weight")
        require(0 <= self.share <= 1, "share", self.share, "between 0 and 1")


CARD = MethodCard(
    name="hidden_matching",
    kind="distil",
    summary="Make the student's hidden states, and attention if asked, follow the teacher's.",
    paper="TinyBERT: Distilling BERT for Natural Language Understanding",
    year=2020,
    citation=(
        "Jiao et al. 2020, arXiv:1909.10351; tokens=cls, last_layer=false: Sun, Cheng, Gan, Liu "
        "2019 (BERT-PKD), arXiv:1908.09355; cosine: Sanh et al. 2019, arXiv:1910.01108; "
        "attention KL: Wang et al. 2020, arXiv:2002.10957"
    ),
    equation=(
        "loss_i += hidden_weight  mean_m  1/(n_i D) sum_{real tokens} ||h_s[m] W - h_t[g(m)]||²\n"
        "        + attention_weight mean_m 1/(N n_i) sum_{heads, real queries} "
        "KL(A_t[g(m)] || A_s[m])\n"
        "g(m) = m K_t/K_s (uniform) or K_t - K_s + m (last); n_i real tokens of row i; means over\n"
        "the matched pairs; W only where widths differ, one for all pairs, trained and dropped.\n"
        "cosine: mean over real tokens of 1 - cos; tokens=cls: the same of that token, n_i = 1.\n"
        "mse of attention: over N n_i² entries; scores: the same of Q K^T / sqrt(d).\n"
        "share > 0: loss_i = all this for step < share steps, afterwards loss_i without it."
    ),
    needs=(
        "A teacher with the same tokenizer; labels as the loss that it is added to. Attention "
        "needs as many heads in the student. Roles: layers; for scores query and key (not: "
        "modernbert, xlnet, albert with shared layers, mpnet, deberta-v2)."
    ),
    cost=(
        "Hidden states of the teacher on disk: 2·D bytes a token and matched layer, once; for "
        "scores 6·D. Attention maps (kl, mse): the teacher runs live at each step and both models "
        "use slow attention."
    ),
    expected_effect=(
        "In TinyBERT's ablation, leaving out the hidden states costs 2.7 points of the average of "
        "four GLUE tasks, the attention maps 4.6 (4-layer student, general distillation before). "
        "BERT-PKD, 6 of 12 layers: 79.2 points of GLUE, 78.5 without it."
    ),
    expected_source=(
        "Ablation table of Jiao et al. 2020; table of Xu et al. 2020 (BERT-of-Theseus). Both "
        "quoted from memory: about ±0.5 points."
    ),
    when_to_use=(
        "With few labels or long training, together with soft_targets, for students of at least "
        "about a third of the teacher's depth; narrower students through the projection. "
        "docs/students.md writes DistilBERT, BERT-PKD and TinyBERT as options."
    ),
    when_not_to_use=(
        "For one- or two-layer students: they have better uses for their capacity than to imitate "
        "every state. After head pruning or re-ordering attention maps no longer correspond."
    ),
    siblings=(
        "Adds to soft_targets, which matches only the output. theseus makes layers agree without a "
        "loss, by exchanging them."
    ),
    departures=(
        "Each text weighs equally (mean over its own tokens), padding is masked, the mean over "
        "matched layers replaces the sum: with P pairs the papers' sum is P times the weight. PKD "
        "sums ||h/|h| - h'/|h'|||² = 2 (1 - cos): its beta is hidden_weight = 2 P beta; if "
        "published ones are of the authors' code, which takes the mean over P·D numbers, "
        "2 beta / D (not verified). The student's attention dropout is off while maps are "
        "matched. W has no bias. share has one learning-rate schedule for both stages."
    ),
)

_HIDDEN_LOSSES = {"mse": hidden_mse, "cosine": hidden_cosine}
_ATTENTION_LOSSES = {"kl": attention_kl, "mse": attention_mse}


@register_method(config=HiddenMatchingConfig, card=CARD)
class HiddenMatching(Hook):
    """Adds the differences of matched hidden states and attention to each example's loss.

    Scores are read from each training pass by hooks that remove themselves.
    """

    order = 40

    def __init__(self, config: HiddenMatchingConfig, teacher: TeacherSource | TaskModel) -> None:
        self.config = config
        self.teacher = as_teacher_source(teacher)
        self.needs_hidden_states = config.hidden_weight > 0
        self.needs_attentions = config.attention_weight > 0 and config.attention_loss != "scores"
        self.projection: nn.Linear | None = None
        self.pairs: tuple[tuple[int, int], ...] = ()
        self._cls_at_end = False
        self._dropouts: list[tuple[nn.Module, str, float]] = []
        self._reader: ProjectionReader | None = None

    def on_start(self, state: RunState) -> None:
        """Fix the map, check heads, make the projection if widths differ."""
        if self.config.share > 0 and state.config.patience is not None:
            raise ConfigError(
                f"--patience {state.config.patience}: no score has to rise while hidden_matching "
                f"trains alone (share={self.config.share:g})",
                hint="leave --patience out",
            )
        encoder = state.model.encoder
        roles = get_roles(encoder)
        self.pairs = match_layers(self.config, encoder, self.teacher)
        self._cls_at_end = roles.cls_at_end
        if self.needs_attentions:
            self._dropouts = disable_attention_dropout(encoder)
        elif self.config.attention_weight > 0:
            self._reader = ProjectionReader(encoder, [m for m, _ in self.pairs])
        if self.needs_hidden_states and roles.hidden_size != self.teacher.hidden_size:
            self.projection = make_projection(
                roles.hidden_size, self.teacher.hidden_size, state.config.seed
            ).to(state.accelerator.device)

    def trainable_parameters(self) -> Iterable[nn.Module]:
        """Return the projection where there is one."""
        return () if self.projection is None else (self.projection,)

    def matches_at(self, step: int, total_steps: int) -> bool:
        """Return whether states are matched at a step (0-based)."""
        return self.config.share == 0 or step < self.config.share * total_steps

    def on_batch(self, state: RunState) -> None:
        """Be ready to read the student's queries and keys."""
        if self._reader is not None and self.matches_at(state.step, state.total_steps):
            self._reader.open()

    def on_loss(self, state: RunState) -> None:
        """Add the differences, or put them in the place of the loss so far."""
        if not self.matches_at(state.step, state.total_steps):
            return
        if self.config.share > 0:
            state.per_example_loss = torch.zeros_like(state.per_example_loss)
        if self.needs_hidden_states:
            loss = self._hidden_loss(state)
            state.add_loss("hidden_matching/hidden", self.config.hidden_weight * loss)
        if self.config.attention_weight > 0:
            loss = self._attention_loss(state)
            state.add_loss("hidden_matching/attention", self.config.attention_weight * loss)

    def _hidden_loss(self, state: RunState) -> Tensor:
        """Return the mean over the pairs, [B]."""
        states = state.output.hidden_states
        assert states is not None
        mask = state.batch["attention_mask"]
        if self.config.tokens == "cls":
            mask = cls_mask(mask, at_end=self._cls_at_end)
        compare = _HIDDEN_LOSSES[self.config.hidden_loss]
        pairs = ((0, 0), *self.pairs) if self.config.embeddings else self.pairs
        total = torch.zeros((), device=mask.device)
        for m, g in pairs:
            hidden_s = states[m].float()
            if self.projection is not None:
                hidden_s = self.projection(hidden_s)
            hidden_t = self.teacher.hidden(state.batch, g).to(hidden_s.device)
            total = total + compare(hidden_s, hidden_t, mask)
        return total / len(pairs)

    def _attention_loss(self, state: RunState) -> Tensor:
        """Return the mean over the pairs, [B]."""
        mask = state.batch["attention_mask"]
        compare = _ATTENTION_LOSSES.get(self.config.attention_loss, attention_mse)
        total = torch.zeros((), device=mask.device)
        for m, g in self.pairs:
            total = total + compare(*self._attention_of(state, m, g), mask)
        return total / len(self.pairs)

    def _attention_of(self, state: RunState, m: int, g: int) -> tuple[Tensor, Tensor]:
        """Return what is compared of student layer m and teacher layer g, [B, N, L, L] each."""
        mask = state.batch["attention_mask"]
        if self._reader is None:
            maps = state.output.attentions
            assert maps is not None
            return maps[m - 1], self.teacher.attention(state.batch, g).to(mask.device)
        both = (self._reader.take(m), self.teacher.projections(state.batch, g))
        num_heads = self.teacher.heads[g - 1]
        scores_s, scores_t = (
            attention_scores(one.query.to(mask.device), one.key.to(mask.device), mask, num_heads)
            for one in both
        )
        return scores_s, scores_t

    def on_end(self, state: RunState) -> None:
        """Give the student its attention dropout back, and leave nothing on it."""
        for owner, name, rate in self._dropouts:
            setattr(owner, name, rate)
        self._dropouts = []
        if self._reader is not None:
            self._reader.close()

    def state_dict(self) -> Mapping[str, Any]:
        """Return the projection."""
        return {} if self.projection is None else {"projection": self.projection.state_dict()}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Take the projection back, in place."""
        if self.projection is not None:
            self.projection.load_state_dict(values["projection"])


def matched_pairs(
    config: HiddenMatchingConfig, num_layers_s: int, num_layers_t: int
) -> tuple[tuple[int, int], ...]:
    """Return (student layer, teacher layer), both from 1, of every matched pair.

    Raises:
        UsageError: the student or the teacher has no layers.
        ConfigError: no pair is left, or the map does not fit.
    """
    for whose, count in (("student", num_layers_s), ("teacher", num_layers_t)):
        if not count:
            raise UsageError(
                f"the {whose} has no layers, so nothing inside the two can be matched",
                hint="leave hidden_matching out",
            )
    teacher_layers = layer_map(config.layers, num_layers_s, num_layers_t)
    pairs = tuple((m, g) for m, g in enumerate(teacher_layers, start=1) if g)
    if not config.last_layer:
        pairs = tuple((m, g) for m, g in pairs if m < num_layers_s)
    if not pairs:
        raise ConfigError(
            "last_layer=false: no other layer of the student is matched",
            hint="leave it out, or take a deeper student",
        )
    return pairs


def match_layers(
    config: HiddenMatchingConfig, encoder_s: nn.Module, teacher: TeacherSource
) -> tuple[tuple[int, int], ...]:
    """Return `matched_pairs` of these two, all checks made; nothing is run.

    Raises:
        UsageError: nothing in the two corresponds, or their attention heads do not.
        ConfigError: the map does not fit.
        UnsupportedRoleError: a family's attention cannot be read as the options say, with the
            reason.
    """
    pairs = matched_pairs(config, get_roles(encoder_s).num_layers, teacher.num_layers)
    if config.attention_weight == 0:
        return pairs
    if "attention" not in get_roles(encoder_s).record.parts:
        raise UsageError("the student has no attention to match", hint="set attention_weight=0")
    refuse_layer_drop(get_roles(encoder_s), "their attention cannot be matched there")
    if config.attention_loss == "scores":
        _refuse_more_terms(encoder_s)
        if isinstance(teacher, LiveTeacher):
            _refuse_more_terms(teacher.model.encoder)
        for m, g in pairs:
            projection_shape(encoder_s, m)
            teacher.projection_shape(g)
    heads_s = heads_of(encoder_s)
    for m, g in pairs:
        if heads_s[m - 1] != teacher.heads[g - 1]:
            raise UsageError(
                f"the student has {heads_s[m - 1]} attention heads in layer {m}, the teacher "
                f"{teacher.heads[g - 1]} in layer {g}: their attention does not correspond",
                hint="set attention_weight=0, take a student with as many heads, or "
                "--method relations",
            )
    return pairs


def _refuse_more_terms(encoder: nn.Module) -> None:
    reason = MORE_TERMS.get(get_roles(encoder).family)
    if reason:
        raise UnsupportedRoleError(
            f"attention_loss=scores compares Q K^T / sqrt(d), and {reason}",
            hint="attention_loss=kl or mse, which compare what comes out of the softmax",
        )


def make_projection(width_s: int, width_t: int, seed: int) -> nn.Linear:
    """Return W [D_t, D_s] without bias, normal with standard deviation 1/sqrt(D_s)."""
    projection = nn.Linear(width_s, width_t, bias=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        projection.weight.normal_(0, width_s**-0.5, generator=generator)
    return projection
