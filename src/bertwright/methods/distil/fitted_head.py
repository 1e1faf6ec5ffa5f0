"""A head that is fitted to the teacher's answers before anything else is trained.

Shape letters: N rows, W width of the pooled vector, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import ConfigError
from bertwright.methods.distil.teacher_source import TeacherSource
from bertwright.methods.exit.heads import fit_soft_head
from bertwright.models.build import copy_with_linear_head
from bertwright.models.task_model import TaskModel
from bertwright.progress import Progress
from bertwright.registry import register_method
from bertwright.tasks.forward import forward_batches

__all__ = ["FittedHead", "FittedHeadConfig", "fit_head", "read_pooled", "why_not_fitted"]


@dataclass(frozen=True, kw_only=True)
class FittedHeadConfig:
    """Options of a head that is fitted first."""

    penalty: float = 1.0
    """Of the squared weights, in units of one row, on features that together have spread 1."""
    iterations: int = 100
    """Most steps of L-BFGS."""

    def __post_init__(self) -> None:
        require(self.penalty >= 0, "penalty", self.penalty, "at least 0")
        require(self.iterations >= 1, "iterations", self.iterations, "at least 1")


CARD = MethodCard(
    name="fitted_head",
    kind="distil",
    summary="Fit a linear head to the teacher's answers, with the layers as they are, first.",
    paper="Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution",
    year=2022,
    citation="Kumar, Raghunathan, Jones, Ma, Liang 2022, arXiv:2202.10054",
    equation=(
        "v = pooling(H_s) with the student's layers as they are taken from the teacher\n"
        "min over W, b: mean over rows of H(softmax(z_t), softmax(W v + b)) + p / (2 N) ||W||²\n"
        "(v centred, one scale for all features; convex). Alone that is all; beside another\n"
        "method training goes on."
    ),
    needs="A teacher for one of several classes, and a pooling without weights of its own. Rows.",
    cost="One pass of the student over the rows without gradients, then seconds; 4 N W bytes.",
    expected_effect=(
        "Kumar et al.: on average over ten shifts 10% above fine-tuning out of distribution, 1% "
        "in it. Here: docs/students.md."
    ),
    expected_source="Abstract of Kumar et al. 2022, quoted from memory.",
    when_to_use=(
        "With --layer-choice first and --pooling mean: the first layers of a fine-tuned "
        "teacher already say much, and training them anew on a few thousand rows unlearns some."
    ),
    when_not_to_use="Where what has to be read stands in the layers that are left out.",
    siblings="early_exit has such heads after all layers at once, and runs as many as needed.",
    departures="The teacher's probabilities in the place of labels; a penalty.",
)


@register_method(config=FittedHeadConfig, card=CARD)
class FittedHead:
    """Gives a student its head before training; it is not a hook."""

    def __init__(self, config: FittedHeadConfig | None = None) -> None:
        self.config = config or FittedHeadConfig()

    def apply(self, student: TaskModel, teacher: TeacherSource, rows: EncodedRows) -> TaskModel:
        """Return a copy of the student with a linear head that is fitted; see `fit_head`."""
        copied = copy_with_linear_head(student)
        fit_head(
            copied, teacher, rows, penalty=self.config.penalty, iterations=self.config.iterations
        )
        return copied


def fit_head(
    student: TaskModel,
    teacher: TeacherSource,
    rows: EncodedRows,
    *,
    penalty: float = 1.0,
    iterations: int = 100,
) -> None:
    """Fit the head of a student, in place, to the teacher's probabilities of these rows.

    Args:
        student: with a linear head for one of several classes.
        teacher: what answers.
        rows: labels are not asked.
        penalty: see `fit_soft_head`.
        iterations: most steps of L-BFGS.

    Raises:
        ConfigError: the student answers in another way, or its pooling is trained.
    """
    out = _linear_of(student)
    pooled, logits = read_pooled(student, teacher, rows)
    weight, bias = fit_soft_head(
        pooled, logits.softmax(dim=1), penalty=penalty, iterations=iterations
    )
    with torch.no_grad():
        out.weight.copy_(weight)
        out.bias.copy_(bias)


def why_not_fitted(model: TaskModel) -> str | None:
    """Return why a model of this task can have no head that is fitted; None where it can."""
    if model.outputs.kind == "classes" and model.outputs.level != "token":
        return None
    return f"a head is fitted for one of several classes, and the task {model.task} is not"


def _linear_of(student: TaskModel) -> nn.Linear:
    """Return the head's linear layer, or raise as `fit_head` does."""
    reason = why_not_fitted(student)
    if reason is not None:
        raise ConfigError(f"--method fitted_head: {reason}", hint="leave it out")
    if student.pooling is None or list(student.pooling.parameters()):
        raise ConfigError(
            "--method fitted_head needs a pooling without weights of its own",
            hint="--pooling mean",
        )
    (out,) = (part for part in student.head.modules() if isinstance(part, nn.Linear))
    return out


def read_pooled(
    student: TaskModel, teacher: TeacherSource, rows: EncodedRows
) -> tuple[Tensor, Tensor]:
    """Return the student's pooled vectors [N, W] and the teacher's logits [N, C], fp32, CPU."""
    assert student.pooling is not None
    pooled = torch.empty(len(rows), student.pooling.width)
    logits = torch.empty(len(rows), student.outputs.count)
    with Progress("read for the head", total=len(rows), unit="texts") as bar:
        for positions, batch, output in forward_batches(student, rows, answer_alone=True):
            assert output.pooled is not None
            places = torch.from_numpy(positions)
            pooled[places] = output.pooled.float().cpu()
            logits[places] = teacher.logits(batch).float().cpu()
            bar.advance(len(positions))
    return pooled, logits
