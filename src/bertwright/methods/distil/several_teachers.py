"""Teachers that read in their own way: several of them, other vocabularies, columns of their own.

Only what they answer for a whole row can be followed; tokens do not correspond.

Shape letters: B batch, C outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bertwright.card import MethodCard
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import UsageError
from bertwright.methods.distil.projections import Projections, ProjectionShape
from bertwright.methods.distil.teacher_cache import TeacherCache
from bertwright.methods.distil.teacher_source import Batch, TeacherSource
from bertwright.models.outputs import Outputs
from bertwright.models.task_model import TaskModel
from bertwright.registry import register_method

__all__ = [
    "JointTeacher",
    "SeveralTeachers",
    "SeveralTeachersConfig",
    "ask_teachers",
    "average_answers",
]

Average = Literal["probabilities", "logits"]
_SMALLEST = 1e-12


@dataclass(frozen=True, kw_only=True)
class SeveralTeachersConfig:
    """Options of several teachers."""

    average: Average = "probabilities"
    """What is averaged: probabilities, or logits (the geometric mean of probabilities)."""


CARD = MethodCard(
    name="several_teachers",
    kind="distil",
    summary="Learn from the mean answer of several teachers, of any family and vocabulary.",
    paper="Distilling the Knowledge in a Neural Network",
    year=2015,
    citation=(
        "Hinton, Vinyals, Dean 2015, arXiv:1503.02531; columns that only the teacher reads: "
        "Lopez-Paz, Bottou, Schölkopf, Vapnik 2016, arXiv:1511.03643"
    ),
    equation=(
        "classes: z = log mean_k softmax(z_k); labels: z = logit of mean_k sigmoid(z_k); numbers:\n"
        "mean_k; vectors: mean_k, brought to length 1. average=logits: mean_k z_k of those two."
    ),
    needs=(
        "Teachers of the same task with the same labels (in any order), and one feature a row. "
        "They may have other tokenizers, and read other columns of the same rows."
    ),
    cost="A pass of each teacher over the rows, cached; then as with one.",
    expected_effect=(
        "On speech, a student of ten teachers gets most of what the ensemble is better by: frames "
        "58.9% for one model, 61.1% for ten together, 60.8% for the student."
    ),
    expected_source="Hinton et al. 2015, table 1, quoted from memory.",
    when_to_use=(
        "Where models of several seeds or families are at hand; or where the teacher can read what "
        "the student will not have: a longer context, a description, the other text of a pair."
    ),
    when_not_to_use="For hidden states, attention or relations: there tokens have to correspond.",
    siblings="soft_targets follows the mean answer, temperature and all.",
    departures=(
        "The temperature is put on the averaged distribution, not on each teacher's. All teachers "
        "count the same."
    ),
)


@register_method(config=SeveralTeachersConfig, card=CARD)
class SeveralTeachers:
    """Asks several teachers as if they were one; not a hook."""

    def __init__(self, config: SeveralTeachersConfig) -> None:
        self.config = config

    def apply(
        self,
        teachers: Sequence[tuple[TaskModel, EncodedRows]],
        rows: EncodedRows,
        *,
        cache_folder: str | Path | None = None,
    ) -> JointTeacher:
        """Return their joint answers; see `ask_teachers`."""
        return ask_teachers(teachers, rows, average=self.config.average, cache_folder=cache_folder)


def average_answers(answers: Sequence[Tensor], outputs: Outputs, average: Average) -> Tensor:
    """Return the mean of several answers to the same rows, [B, C], as outputs of one model.

    Args:
        answers: of each teacher, [B, C].
        outputs: what they are.
        average: of classes and labels, what is averaged.

    Raises:
        UsageError: answers of this kind have no mean.
    """
    stacked = torch.stack([answer.float() for answer in answers])
    if outputs.level == "token" or outputs.kind == "places":
        raise UsageError(
            "answers token by token cannot be averaged: the teachers' tokens need not correspond",
            hint="take one teacher with the student's own tokenizer",
        )
    if outputs.kind == "vectors":
        return F.normalize(stacked.mean(dim=0), dim=1)
    if outputs.kind == "numbers" or average == "logits":
        return stacked.mean(dim=0)
    if outputs.kind == "labels":
        return torch.logit(stacked.sigmoid().mean(dim=0), eps=_SMALLEST)
    return torch.logsumexp(stacked.log_softmax(dim=2), dim=0) - float(np.log(len(answers)))


class JointTeacher:
    """A `TeacherSource` of answers alone: those of several teachers, averaged.

    Their labels may stand in other orders; the first teacher's counts.
    """

    def __init__(
        self,
        sources: Sequence[TeacherSource],
        outputs: Outputs,
        *,
        average: Average = "probabilities",
    ) -> None:
        """Put them together.

        Raises:
            UsageError: there is none, or they have other labels.
        """
        if not sources:
            raise UsageError("there is no teacher", hint="give one or more")
        self.labels = list(sources[0].labels)
        self.num_layers = self.hidden_size = 0
        self.heads: tuple[int, ...] = ()
        self._sources = list(sources)
        self._orders = [_order(source.labels, self.labels) for source in sources]
        self._outputs = outputs
        self._average: Average = average

    def logits(self, batch: Batch) -> Tensor:
        """Return the mean answer, [B, C]."""
        answers = [
            source.logits(batch)[:, order] if order else source.logits(batch)
            for source, order in zip(self._sources, self._orders, strict=True)
        ]
        return average_answers(answers, self._outputs, self._average)

    def hidden(self, batch: Batch, layer: int) -> Tensor:
        """Raise a UsageError: their tokens do not correspond."""
        raise _no_tokens("hidden states")

    def attention(self, batch: Batch, layer: int) -> Tensor:
        """Raise a UsageError: their tokens do not correspond."""
        raise _no_tokens("attention maps")

    def projections(self, batch: Batch, layer: int) -> Projections:
        """Raise a UsageError: their tokens do not correspond."""
        raise _no_tokens("relations")

    def projection_shape(self, layer: int) -> ProjectionShape:
        """Raise a UsageError: their tokens do not correspond."""
        raise _no_tokens("relations")


def _no_tokens(what: str) -> UsageError:
    return UsageError(
        f"{what} cannot be followed here: several teachers, or one with another tokenizer or other "
        "columns, have no tokens that correspond to the student's",
        hint="--method soft_targets alone",
    )


def _order(labels: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return where each wanted label stands; nothing where there are none or they agree."""
    if list(labels) == list(wanted):
        return []
    if sorted(labels) != sorted(wanted):
        odd = sorted(set(labels) ^ set(wanted))
        raise UsageError(
            f"the teachers have different labels: {', '.join(odd[:5])}",
            hint="teachers of one task have the same labels",
        )
    return [list(labels).index(name) for name in wanted]


def ask_teachers(
    teachers: Sequence[tuple[TaskModel, EncodedRows]],
    rows: EncodedRows,
    *,
    average: Average = "probabilities",
    cache_folder: str | Path | None = None,
) -> JointTeacher:
    """Return the joint answers of teachers, each asked once and cached.

    Args:
        teachers: each with the student's rows as it reads them, in the same order.
        rows: as the student reads them.
        average: see `SeveralTeachersConfig`.
        cache_folder: where the answers are kept; default: bertwright's own.

    Raises:
        UsageError: a teacher's rows are not the student's, or its labels are others.
    """
    for _, own in teachers:
        same = len(own) == len(rows) and np.array_equal(own.row_numbers, rows.row_numbers)
        if not same:
            raise UsageError(
                f"a teacher reads {len(own):,} features and the student {len(rows):,}: they do not "
                "correspond row by row",
                hint="long texts in windows cannot be learned so; give a larger --max-length",
            )
    outputs = teachers[0][0].outputs
    sources: list[Any] = [
        TeacherCache.build(teacher, own, folder=cache_folder) for teacher, own in teachers
    ]
    return JointTeacher(sources, outputs, average=average)
