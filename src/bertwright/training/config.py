"""The options of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bertwright.config import require

__all__ = ["TrainingConfig"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained: length, optimizer, batches, precision, evaluation, checkpoints."""

    epochs: float = 3.0
    """Passes over the training rows; a part of one is allowed (0.5)."""
    lr: float = 1e-4
    """Peak learning rate. 1e-4 suits small encoders such as MiniLM; for BERT-base take 2e-5-5e-5,
    for a few layers up to 3e-4."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes on after the warm-up: to 0 on a line or a cosine, or constant."""
    warmup: float = 0.1
    """Share of all steps in which the learning rate rises to its peak."""
    weight_decay: float = 0.01
    """Decoupled weight decay of AdamW; biases and norms have none."""
    adam_beta2: float = 0.999
    """AdamW's decay rate of the squared gradient's mean."""
    adam_eps: float = 1e-8
    """AdamW's epsilon, added to the root of the squared gradient's mean."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; 0 turns clipping off."""
    batch_size: int | None = 32
    """Most rows in one batch; none: only --batch-tokens limits it."""
    batch_tokens: int = 2048
    """Most tokens in one batch, padding counted."""
    accumulate: int = 1
    """Batches whose gradients are added up for one optimizer step."""
    max_length: int = 128
    """Tokens a row may have; longer ones are cut."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the matrix products; auto: bf16 where the processor has it."""
    evals_per_epoch: int = 2
    """Evaluations in each epoch; there is always one at the end."""
    keep_best: bool = True
    """Return the weights of the best evaluation rather than the last ones."""
    patience: int | None = None
    """Stop after this many evaluations without a better score; none: never."""
    max_steps: int | None = None
    """Most optimizer steps; the learning rate schedule then spans these."""
    minutes: float | None = None
    """Stop after this many minutes (the schedule is not shortened). Of a search: of all of it;
    it then chooses among what is done, and may be resumed."""
    checkpoint_steps: int | None = None
    """Save a checkpoint every so many steps; none: at evaluations, as long as saving takes less
    than a twentieth of the time."""
    seed: int = 0
    """Seed of everything random: order of the rows, dropout, methods."""
    threads: int | None = None
    """Processor threads; none: as torch chooses."""

    def __post_init__(self) -> None:
        require(self.epochs > 0, "epochs", self.epochs, "above 0")
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(0 <= self.warmup < 1, "warmup", self.warmup, "a share: at least 0, below 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        require(0 < self.adam_beta2 < 1, "adam_beta2", self.adam_beta2, "between 0 and 1")
        require(self.adam_eps > 0, "adam_eps", self.adam_eps, "above 0")
        require(self.clip_norm >= 0, "clip_norm", self.clip_norm, "at least 0")
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        for name in ("batch_tokens", "accumulate", "evals_per_epoch"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.max_length >= 2, "max_length", self.max_length, "at least 2")
        for name in ("batch_size", "patience", "max_steps", "checkpoint_steps", "threads"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1")
        require(self.minutes is None or self.minutes > 0, "minutes", self.minutes, "above 0")
