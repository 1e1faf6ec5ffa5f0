"""Soft targets: the student learns the teacher's whole distribution, not only the right class.

Shape letters: B batch, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.data.encode import IGNORED
from bertwright.errors import UsageError
from bertwright.methods.distil.teacher_cache import TeacherSource, as_teacher_source
from bertwright.models.outputs import PADDING_LOGIT, OutputScale
from bertwright.models.task_model import TaskModel
from bertwright.registry import register_method
from bertwright.training.hooks import Hook, RunState

__all__ = [
    "SoftTargets",
    "SoftTargetsConfig",
    "entropy_temperature",
    "mix_losses",
    "number_matching_loss",
    "soft_labels_loss",
    "soft_places_loss",
    "soft_target_loss",
    "vector_matching_loss",
]

TEMPERATURE_MIN = 0.25
TEMPERATURE_MAX = 20.0
LOG_GAMMA_BOUND = 20.0
NEWTON_STEPS = 40


def soft_target_loss(logits_s: Tensor, logits_t: Tensor, temperature: float | Tensor) -> Tensor:
    """Return T² KL(softmax(z_t / T) || softmax(z_s / T)) of each example.

    The factor T² keeps the size of the gradient when T changes: d/dz_s is T (p_s - p_t), both at
    T. The sum is over classes; the caller takes the mean over the batch. Computed in fp32 or wider.

    Args:
        logits_s: [B, C], the student's; gradients flow here only.
        logits_t: [B, C], the teacher's, classes in the same order.
        temperature: T > 0, one number or [B], one for each example.

    Returns:
        [B], nats times T²; 0 where the two distributions agree.

    Raises:
        ValueError: the shapes differ, or a temperature is not positive.

    Source: Hinton, Vinyals, Dean 2015.
    """
    if logits_s.shape != logits_t.shape or logits_s.ndim != 2:
        raise ValueError(f"logits {tuple(logits_s.shape)} and {tuple(logits_t.shape)} differ")
    wide = torch.promote_types(logits_s.dtype, torch.float32)
    temp_B = torch.as_tensor(temperature, dtype=wide, device=logits_s.device)
    if not bool((temp_B > 0).all()):
        raise ValueError(f"temperature {temperature}: must be above 0")
    temp_B1 = temp_B.expand(logits_s.shape[0]).unsqueeze(1)
    log_p_s = torch.log_softmax(logits_s.to(wide) / temp_B1, dim=1)
    log_p_t = torch.log_softmax(logits_t.detach().to(wide) / temp_B1, dim=1)
    terms = torch.where(log_p_t.isneginf(), 0.0, log_p_t.exp() * (log_p_t - log_p_s))
    return temp_B1.squeeze(1) ** 2 * terms.sum(dim=1)


def soft_labels_loss(logits_s: Tensor, logits_t: Tensor, temperature: float) -> Tensor:
    """Return T² KL between the two sigmoids of each label, the mean over labels, of each example.

    `soft_target_loss` for labels that do not exclude each other: each is a choice between two.

    Args:
        logits_s: [B, C], the student's; gradients flow here only.
        logits_t: [B, C], the teacher's, labels in the same order.
        temperature: T > 0.

    Returns:
        [B], nats times T²; 0 where all labels agree.
    """
    pairs_s, pairs_t = (
        torch.stack([logits.flatten(), torch.zeros_like(logits).flatten()], dim=1)
        for logits in (logits_s, logits_t)
    )
    return soft_target_loss(pairs_s, pairs_t, temperature).view_as(logits_s).mean(dim=1)


def number_matching_loss(outputs_s: Tensor, outputs_t: Tensor, spread: Tensor) -> Tensor:
    """Return the squared error to the teacher's numbers of each example, the mean over outputs.

    Args:
        outputs_s: [B, C], the student's; gradients flow here only.
        outputs_t: [B, C], the teacher's.
        spread: [C], the unit of the error: the deviation of the training targets.

    Returns:
        [B], without a unit.
    """
    return ((outputs_s.float() - outputs_t.detach().float()) / spread).square().mean(dim=1)


def vector_matching_loss(vectors_s: Tensor, vectors_t: Tensor) -> Tensor:
    """Return the squared distance to the teacher's vector of each example: 2 - 2 cosine.

    Args:
        vectors_s: unit vectors [B, E], the student's; gradients flow here only.
        vectors_t: unit vectors [B, E], the teacher's.

    Returns:
        [B], 0 to 4.
    """
    return (vectors_s.float() - vectors_t.detach().float()).square().sum(dim=1)


def soft_places_loss(
    logits_s: Tensor, logits_t: Tensor, real: Tensor, temperature: float
) -> Tensor:
    """Return T² KL between the two distributions over a row's tokens, the mean over outputs.

    Args:
        logits_s: [B, L, C], the student's; gradients flow here only.
        logits_t: [B, L, C], the teacher's.
        real: bool [B, L], false at padding.
        temperature: T > 0.

    Returns:
        [B], nats times T²; 0 where all distributions agree.
    """
    length = logits_s.shape[1]
    flat_s, flat_t = (
        logits.float()
        .masked_fill(~real[..., None], PADDING_LOGIT)
        .transpose(1, 2)
        .reshape(-1, length)
        for logits in (logits_s, logits_t)
    )
    return soft_target_loss(flat_s, flat_t, temperature).view(len(real), -1).mean(dim=1)


def mix_losses(hard: Tensor, soft: Tensor, alpha: float) -> Tensor:
    """Return (1 - alpha) hard + alpha soft; at 0 and 1 the unused part leaves the graph."""
    if alpha == 0:
        return hard
    if alpha == 1:
        return soft
    return (1 - alpha) * hard + alpha * soft


def entropy_temperature(logits_t: Tensor, target_entropy: float | Tensor) -> Tensor:
    """Return gamma = 1/T of each example for which softmax(gamma z_t) has the wanted entropy.

    The entropy H(gamma) falls steadily from log C (gamma = 0) to log k (gamma -> infinity; k
    classes tie for the largest logit), so the root is unique. Newton's steps on log gamma are
    taken only inside the bracket that the sign of H - H* has narrowed so far, otherwise the
    bracket is halved: plain Newton can land on a negative gamma, which reverses the order of the
    classes. Differentiable in `logits_t` and `target_entropy` by the implicit function theorem.

    Args:
        logits_t: [B, C]; -inf marks a class that is excluded.
        target_entropy: H* in nats, one number or [B]. A target out of reach gives the nearest
            end of the bracket, gamma = e^20 or e^-20.

    Returns:
        [B], in float64. Where all logits are equal no gamma changes anything, and it is 1.

    Source: Su 2021, https://kexue.fm/archives/8829, made safe by the bracket.
    """
    scores = logits_t.double()
    scores = scores - scores.detach().amax(dim=1, keepdim=True)
    target = torch.as_tensor(target_entropy, dtype=torch.float64, device=scores.device)
    target = target.expand(scores.shape[0])
    with torch.no_grad():
        low = torch.full_like(target, -LOG_GAMMA_BOUND)
        high = torch.full_like(target, LOG_GAMMA_BOUND)
        log_gamma = torch.zeros_like(target)
        for _ in range(NEWTON_STEPS):
            gamma = log_gamma.exp()
            entropy, variance = _entropy_and_variance(scores, gamma)
            error = entropy - target
            low = torch.where(error > 0, log_gamma, low)
            high = torch.where(error > 0, high, log_gamma)
            newton = log_gamma + error / (gamma.square() * variance)
            inside = newton.isfinite() & (newton > low) & (newton < high)
            step = torch.where(inside, newton, (low + high) / 2)
            log_gamma = torch.where(error.abs() < 1e-13, log_gamma, step)
        gamma = log_gamma.exp()
        _, variance = _entropy_and_variance(scores, gamma)
        flat = torch.where(scores.isneginf(), 0.0, scores).eq(0).all(dim=1)
        gamma = torch.where(flat, 1.0, gamma)
        slope = torch.where(flat | (gamma * variance < 1e-30), torch.inf, gamma * variance)
    if not (scores.requires_grad or target.requires_grad):
        return gamma
    entropy, _ = _entropy_and_variance(scores, gamma)
    error = entropy - target
    return gamma + (error - error.detach()) / slope


def _entropy_and_variance(scores: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Return H(q) and Var_q(scores) for q = softmax(gamma scores); -inf scores have q = 0."""
    logits = gamma.unsqueeze(1) * scores
    log_z = logits.logsumexp(dim=1)
    weights = (logits - log_z.unsqueeze(1)).exp()
    finite = torch.where(scores.isneginf(), 0.0, scores)
    mean = (weights * finite).sum(dim=1)
    variance = (weights * (finite - mean.unsqueeze(1)).square()).sum(dim=1)
    return log_z - gamma * mean, variance


@dataclass(frozen=True, kw_only=True)
class SoftTargetsConfig:
    """Options of soft targets."""

    temperature: float = 2.0
    """T: above 1 it shows more of what the teacher thinks of the wrong classes."""
    alpha: float = 0.9
    """Weight of the soft targets; the labels get 1 - alpha."""
    entropy: float | None = None
    """Give each soft target this entropy, as a share of log(classes), with a temperature of its
    own; `temperature` is then not used."""
    schedule: Literal["joint", "soft-then-hard"] = "joint"
    """joint: both losses all the time. soft-then-hard: soft targets alone, then labels alone."""
    soft_share: float = 0.7
    """soft-then-hard: the share of the steps that learn from the soft targets."""

    def __post_init__(self) -> None:
        finite = 0 < self.temperature < math.inf
        share = self.entropy is None or 0 < self.entropy < 1
        require(finite, "temperature", self.temperature, "above 0")
        require(0 <= self.alpha <= 1, "alpha", self.alpha, "between 0 and 1")
        require(share, "entropy", self.entropy, "between 0 and 1 (a share of log C), or none")
        require(0 < self.soft_share <= 1, "soft_share", self.soft_share, "above 0, at most 1")


CARD = MethodCard(
    name="soft_targets",
    kind="distil",
    summary="Train the student on the teacher's softened class probabilities and on the labels.",
    paper="Distilling the Knowledge in a Neural Network",
    year=2015,
    citation=(
        "Hinton, Vinyals, Dean 2015, arXiv:1503.02531; entropy: Su 2021, kexue.fm/archives/8829"
    ),
    equation=(
        "loss_i = (1 - alpha) CE(y_i, softmax(z_s))\n"
        "       + alpha T² KL(softmax(z_t/T) || softmax(z_s/T))\n"
        "sum over classes, then the mean over examples. KL, not cross-entropy: 0 is optimal.\n"
        "entropy h: T_i = 1/gamma_i with H(softmax(gamma_i z_t)) = h log C, both sides and the\n"
        "factor T_i² at that T_i, which is kept between 0.25 and 20.\n"
        "several labels a text: the same of each label's two outcomes, mean over labels.\n"
        "numbers: ((z_s - z_t) / s)², s the deviation of the training targets; T has no part.\n"
        "unit vectors: |v_s - v_t|²; T has no part."
    ),
    needs="Labels (unless alpha = 1) and a fine-tuned teacher with the same classes. No roles.",
    cost=(
        "One teacher pass over the data, cached on disk as 4·C bytes a row; then nothing beyond "
        "training the student. No extra parameters."
    ),
    expected_effect=(
        "A 6-layer BERT student gains about 1.3 GLUE points over the same student fine-tuned on "
        "labels alone (77.2 -> 78.5 average)."
    ),
    expected_source=(
        "Table of Xu et al. 2020 (BERT-of-Theseus), rows 'fine-tuned first 6' and 'vanilla KD', "
        "quoted from memory: about ±0.5 points."
    ),
    when_to_use=(
        "As the first thing to try for any student; many classes make soft targets richer, and a "
        "cached teacher makes it almost free. soft-then-hard where the teacher is weak."
    ),
    when_not_to_use=(
        "When the teacher is no better than the student, or when its classes differ. With dropout "
        "and pre-training at work on the same features the gain can be near 0: compare with the "
        "student fine-tuned on the labels."
    ),
    siblings=(
        "hidden_matching also matches what happens inside and adds to this loss. theseus needs no "
        "distillation loss at all. entropy replaces the one temperature for all by one for each "
        "example."
    ),
    departures=(
        "KL is summed over classes and averaged over examples (several libraries divide by B·C). "
        "The entropy setting and its bracketed solver are not in the paper; a target that would "
        "need a temperature outside 0.25 to 20 gets the nearest of these."
    ),
)


@register_method(config=SoftTargetsConfig, card=CARD)
class SoftTargets(Hook):
    """Replaces each example's loss by its mix with the soft-target loss.

    `teacher` gives the logits of a batch: a `TeacherCache`, or a `TaskModel` that is run live.
    """

    order = 30

    def __init__(self, config: SoftTargetsConfig, teacher: TeacherSource | TaskModel) -> None:
        self.config = config
        self.teacher = as_teacher_source(teacher)

    def on_start(self, state: RunState) -> None:
        """Refuse a teacher whose classes are not the student's, in the same order."""
        if self.config.entropy is not None and state.model.outputs.kind != "classes":
            raise UsageError(
                f"--method soft_targets:entropy={self.config.entropy} is for classes, and "
                f"{state.task.name} has none",
                hint="leave entropy out",
            )
        labels_s, labels_t = list(state.model.labels), list(self.teacher.labels)
        if labels_s != labels_t:
            raise UsageError(
                f"the teacher's labels {labels_t[:5]} are not the student's {labels_s[:5]}",
                hint="build the student with the teacher's label list, in its order",
            )

    def alpha_at(self, step: int, total_steps: int) -> float:
        """Return the weight of the soft targets at a step (0-based)."""
        if self.config.schedule == "joint":
            return self.config.alpha
        return 1.0 if step < self.config.soft_share * total_steps else 0.0

    def temperatures(self, logits_t: Tensor) -> float | Tensor:
        """Return T, or [B] temperatures that give every soft target the wanted entropy."""
        if self.config.entropy is None:
            return self.config.temperature
        wanted = self.config.entropy * math.log(logits_t.shape[1])
        gamma = entropy_temperature(logits_t, wanted)
        return (1 / gamma).clamp(TEMPERATURE_MIN, TEMPERATURE_MAX).float()

    def on_loss(self, state: RunState) -> None:
        """Mix the soft-target loss into each example's loss."""
        alpha = self.alpha_at(state.step, state.total_steps)
        hard = state.per_example_loss
        state.losses["soft_targets/hard"] = hard.detach().mean()
        if alpha == 0:
            return
        logits_t = self.teacher.logits(state.batch).to(hard.device)
        soft = self._soft_loss(state.output.logits, logits_t, state)
        state.losses["soft_targets/soft"] = soft.detach().mean()
        state.per_example_loss = mix_losses(hard, soft, alpha)

    def _soft_loss(self, logits_s: Tensor, logits_t: Tensor, state: RunState) -> Tensor:
        """Return the loss to the teacher's outputs of each example, [B], by what they are."""
        outputs, model = state.model.outputs, state.model
        if outputs.kind == "numbers":
            scale = model.scale
            spread = scale.spread if isinstance(scale, OutputScale) else torch.ones(())
            return number_matching_loss(logits_s, logits_t, spread.to(logits_s.device))
        if outputs.kind == "vectors":
            return vector_matching_loss(logits_s, logits_t)
        if outputs.kind == "labels":
            return soft_labels_loss(logits_s, logits_t, self.config.temperature)
        if outputs.kind == "places":
            real = state.batch["attention_mask"].bool()
            return soft_places_loss(logits_s, logits_t, real, self.config.temperature)
        if outputs.level == "row":
            return soft_target_loss(logits_s, logits_t, self.temperatures(logits_t))
        counted = state.batch["labels"] != IGNORED
        wanted = logits_t[counted]
        losses = soft_target_loss(logits_s[counted], wanted, self.temperatures(wanted))
        rows = counted.nonzero()[:, 0]
        sums = torch.zeros(len(counted), device=losses.device).index_add(0, rows, losses)
        return model.head.per_row(sums)  # type: ignore[operator]
