"""Hidden matching: the student's hidden states and attention maps follow the teacher's.

Shape letters: B batch, L length, D model width, N heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.errors import ConfigError, UsageError
from bertwright.methods.distil.teacher_cache import TeacherSource, as_teacher_source
from bertwright.models.roles import get_roles
from bertwright.models.task_model import TaskModel
from bertwright.models.widths import widths_of
from bertwright.registry import register_method
from bertwright.training.hooks import Hook, RunState

__all__ = [
    "HiddenMatching",
    "HiddenMatchingConfig",
    "attention_kl",
    "attention_mse",
    "disable_attention_dropout",
    "hidden_cosine",
    "hidden_mse",
    "layer_map",
    "make_projection",
    "matched_pairs",
]

PROBABILITY_MIN = 1e-12


def layer_map(
    rule: Literal["uniform", "last"] | Sequence[int], num_layers_s: int, num_layers_t: int
) -> tuple[int, ...]:
    """Return, for each student layer from the lowest, the teacher layer (from 1) that it follows.

    uniform: g(m) = m K_t / K_s, rounded half up (12 for 4: 3 6 9 12); last: K_t - K_s + m;
    explicit: as given, 0 for a student layer that follows none.

    Raises:
        ConfigError: the student is deeper than the teacher, or an explicit map does not fit.
    """
    if rule in ("uniform", "last"):
        if num_layers_s > num_layers_t:
            raise ConfigError(
                f"--layers {rule}: the student has {num_layers_s} layers, the teacher only "
                f"{num_layers_t}",
                hint="give the map itself: the teacher layer of each student layer",
            )
        if rule == "last":
            return tuple(range(num_layers_t - num_layers_s + 1, num_layers_t + 1))
        return tuple(
            (2 * m * num_layers_t + num_layers_s) // (2 * num_layers_s)
            for m in range(1, num_layers_s + 1)
        )
    if isinstance(rule, str):
        raise ConfigError(f"--layers {rule}: not a rule", hint="uniform, last, or 2+4+6")
    given = tuple(int(layer) for layer in rule)
    in_range = all(0 <= layer <= num_layers_t for layer in given)
    if len(given) != num_layers_s or not in_range or not any(given):
        raise ConfigError(
            f"--layers {'+'.join(map(str, given))}: must be {num_layers_s} numbers, one for each "
            f"student layer: a teacher layer from 1 to {num_layers_t}, or 0 for none"
        )
    return given


def hidden_mse(hidden_s: Tensor, hidden_t: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared difference over the real tokens and the D features of each row.

    Args:
        hidden_s: [B, L, D], the student's (projected to the teacher's width); has gradients.
        hidden_t: [B, L, D], the teacher's.
        mask: [B, L], 1 for real tokens; padding counts neither above nor below the line.

    Returns:
        [B]; 0 for a row without real tokens.

    Source: Jiao et al. 2020 (TinyBERT), with padding left out.
    """
    squares_BL = (hidden_s.float() - hidden_t.detach().float()).square().mean(dim=2)
    return _masked_mean(squares_BL, mask)


def hidden_cosine(hidden_s: Tensor, hidden_t: Tensor, mask: Tensor) -> Tensor:
    """Return 1 - cos(h_s, h_t), averaged over the real tokens of each row.

    Arguments and result as in `hidden_mse`. Does not see lengths: h -> c h changes nothing.

    Source: Sanh et al. 2019 (DistilBERT); twice this is the PKD loss of a pair.
    """
    cosine_BL = torch.cosine_similarity(hidden_s.float(), hidden_t.detach().float(), dim=2)
    return _masked_mean(1 - cosine_BL, mask)


def attention_kl(attention_s: Tensor, attention_t: Tensor, mask: Tensor) -> Tensor:
    """Return KL(A_t || A_s) over keys, averaged over heads and real queries of each row.

    Args:
        attention_s: [B, N, L, L], probabilities (queries before keys); has gradients.
        attention_t: [B, N, L, L].
        mask: [B, L]; padding counts neither as query nor as key.

    Returns:
        [B], nats; 0 for a row without real tokens.

    Source: Wang et al. 2020 (MiniLM), there for the last layer.
    """
    a_t = attention_t.detach().float()
    log_ratio = (
        a_t.clamp_min(PROBABILITY_MIN).log() - attention_s.float().clamp_min(PROBABILITY_MIN).log()
    )
    terms = torch.where(mask[:, None, None, :].bool(), a_t * log_ratio, 0.0)
    return _masked_mean(terms.sum(dim=3).mean(dim=1), mask)


def attention_mse(attention_s: Tensor, attention_t: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared difference over heads and pairs of real tokens of each row.

    Arguments as in `attention_kl`. The denominator is N n² for a row of n real tokens.
    """
    squares = (attention_s.float() - attention_t.detach().float()).square().mean(dim=1)
    squares = torch.where(mask[:, None, :].bool(), squares, 0.0).sum(dim=2)
    counts = mask.sum(dim=1, keepdim=True).clamp_min(1)
    return _masked_mean(squares / counts, mask)


def _masked_mean(values_BL: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over real tokens [B]; what stands at padding is never touched, NaN or not."""
    kept = torch.where(mask.bool(), values_BL, 0.0).sum(dim=1)
    return kept / mask.sum(dim=1).clamp_min(1)


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
    embeddings: bool = False
    """Match the outputs of the embeddings too."""
    attention_weight: float = 0.0
    """Weight of the attention maps' difference; 0 leaves it out (and keeps fast attention)."""
    attention_loss: Literal["kl", "mse"] = "kl"
    """How attention maps are compared."""

    def __post_init__(self) -> None:
        require(self.hidden_weight >= 0, "hidden_weight", self.hidden_weight, "at least 0")
        require(self.attention_weight >= 0, "attention_weight", self.attention_weight, "at least 0")
        total = self.hidden_weight + self.attention_weight
        require(total > 0, "hidden_weight", self.hidden_weight, "above 0, or --attention-weight")


CARD = MethodCard(
    name="hidden_matching",
    kind="distil",
    summary="Make the student's hidden states, and attention maps if asked, follow the teacher's.",
    paper="TinyBERT: Distilling BERT for Natural Language Understanding",
    year=2020,
    citation=(
        "Jiao et al. 2020, arXiv:1909.10351; cosine: Sanh et al. 2019, arXiv:1910.01108; "
        "attention KL: Wang et al. 2020, arXiv:2002.10957"
    ),
    equation=(
        "loss_i += hidden_weight  mean_m  1/(n_i D) sum_{real tokens} ||h_s[m] W - h_t[g(m)]||²\n"
        "        + attention_weight mean_m 1/(N n_i) sum_{heads, real queries} "
        "KL(A_t[g(m)] || A_s[m])\n"
        "g(m) = m K_t/K_s (uniform) or K_t - K_s + m (last); n_i real tokens of row i; means over\n"
        "the matched pairs; W only where widths differ, one for all pairs, trained and dropped.\n"
        "cosine: mean over real tokens of 1 - cos; mse of attention: over N n_i² entries."
    ),
    needs=(
        "A teacher with the same tokenizer; labels as the loss that it is added to. Attention maps "
        "need as many heads in the student. Roles: layers."
    ),
    cost=(
        "Hidden states of the teacher on disk: 2·D bytes a token and matched layer, once. "
        "Attention maps: the teacher runs live at each step and both models use slow attention."
    ),
    expected_effect=(
        "In TinyBERT's ablation, leaving out the hidden states costs 2.7 points of the average of "
        "four GLUE tasks, the attention maps 4.6 (4-layer student, general distillation before)."
    ),
    expected_source="Ablation table of Jiao et al. 2020, quoted from memory: about ±0.5 points.",
    when_to_use=(
        "With few labels or long training, together with soft_targets, for students of at least "
        "about a third of the teacher's depth; narrower students through the projection."
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
        "matched layers replaces the sum. Attention is compared after the softmax (TinyBERT: "
        "before). The student's attention dropout is off while maps are matched. W has no bias."
    ),
)

_HIDDEN_LOSSES = {"mse": hidden_mse, "cosine": hidden_cosine}
_ATTENTION_LOSSES = {"kl": attention_kl, "mse": attention_mse}


@register_method(config=HiddenMatchingConfig, card=CARD)
class HiddenMatching(Hook):
    """Adds the differences of matched hidden states and attention maps to each example's loss."""

    order = 40

    def __init__(self, config: HiddenMatchingConfig, teacher: TeacherSource | TaskModel) -> None:
        self.config = config
        self.teacher = as_teacher_source(teacher)
        self.needs_hidden_states = config.hidden_weight > 0
        self.needs_attentions = config.attention_weight > 0
        self.projection: nn.Linear | None = None
        self.pairs: tuple[tuple[int, int], ...] = ()
        self._dropouts: list[tuple[nn.Module, str, float]] = []

    def on_start(self, state: RunState) -> None:
        """Fix the map, check heads, make the projection if widths differ."""
        roles = get_roles(state.model.encoder)
        self.pairs = matched_pairs(self.config, roles.num_layers, self.teacher.num_layers)
        if self.needs_attentions:
            heads = widths_of(state.model.encoder).heads or (roles.num_heads,)
            if set(heads) != {self.teacher.num_heads}:
                raise UsageError(
                    f"the student has {min(heads)} attention heads in a layer, the teacher "
                    f"{self.teacher.num_heads}: their maps do not correspond",
                    hint="set attention_weight=0, or take a student with as many heads",
                )
            self._dropouts = disable_attention_dropout(state.model.encoder)
        if self.needs_hidden_states and roles.hidden_size != self.teacher.hidden_size:
            self.projection = make_projection(
                roles.hidden_size, self.teacher.hidden_size, state.config.seed
            ).to(state.accelerator.device)

    def trainable_parameters(self) -> Iterable[nn.Module]:
        """Return the projection where there is one."""
        return () if self.projection is None else (self.projection,)

    def on_loss(self, state: RunState) -> None:
        """Add the differences."""
        mask = state.batch["attention_mask"]
        if self.needs_hidden_states:
            states = state.output.hidden_states
            assert states is not None
            compare = _HIDDEN_LOSSES[self.config.hidden_loss]
            pairs = ((0, 0), *self.pairs) if self.config.embeddings else self.pairs
            total = torch.zeros((), device=mask.device)
            for m, g in pairs:
                hidden_s = states[m].float()
                if self.projection is not None:
                    hidden_s = self.projection(hidden_s)
                hidden_t = self.teacher.hidden(state.batch, g).to(hidden_s.device)
                total = total + compare(hidden_s, hidden_t, mask)
            state.add_loss("hidden_matching/hidden", self.config.hidden_weight * total / len(pairs))
        if self.needs_attentions:
            maps = state.output.attentions
            assert maps is not None
            compare = _ATTENTION_LOSSES[self.config.attention_loss]
            total = torch.zeros((), device=mask.device)
            for m, g in self.pairs:
                map_t = self.teacher.attention(state.batch, g).to(mask.device)
                total = total + compare(maps[m - 1], map_t, mask)
            state.add_loss(
                "hidden_matching/attention",
                self.config.attention_weight * total / len(self.pairs),
            )

    def on_end(self, state: RunState) -> None:
        """Give the student its attention dropout back."""
        for owner, name, rate in self._dropouts:
            setattr(owner, name, rate)
        self._dropouts = []

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
        UsageError: the student has no layers.
    """
    if not num_layers_s:
        raise UsageError(
            "the student has no layers, so nothing inside it can follow the teacher",
            hint="leave hidden_matching out",
        )
    teacher_layers = layer_map(config.layers, num_layers_s, num_layers_t)
    return tuple((m, g) for m, g in enumerate(teacher_layers, start=1) if g)


def make_projection(width_s: int, width_t: int, seed: int) -> nn.Linear:
    """Return W [D_t, D_s] without bias, normal with standard deviation 1/sqrt(D_s)."""
    projection = nn.Linear(width_s, width_t, bias=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        projection.weight.normal_(0, width_s**-0.5, generator=generator)
    return projection
