"""What a compiled model's answers are compared with: torch's logits, and the labels of dev."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertwright.data.gather import Gathered
from bertwright.data.tokenise import EncodedRows
from bertwright.engines.base import Batch, Session
from bertwright.engines.parity import (
    ParityBatches,
    encoded_batches,
    label_agreement,
    random_parity_batches,
    real_outputs,
    real_parity_batches,
)
from bertwright.engines.torch_engine import TorchSession
from bertwright.errors import UsageError
from bertwright.models.task_model import TaskModel
from bertwright.tasks import Task, find_task
from bertwright.tasks.judged import Judged
from bertwright.tasks.significance import Interval

__all__ = ["Judge", "Score"]

_AGREEMENT_POINTS = 3.0
_SCORE_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Score:
    """How right an engine's answers are."""

    points: float
    """100 = everything; minus infinity where answers are not numbers."""
    judged: Judged | None
    """None where agreement with torch stands in for a score."""


@dataclass(frozen=True, eq=False)
class Judge:
    """What answers are compared with: torch's logits, and labels."""

    batches: ParityBatches
    reference: TorchSession
    task: Task
    decoding: Mapping[str, Any]
    score_batches: Sequence[Batch]
    order: Sequence[np.ndarray]
    """Which features each batch holds."""
    dev: EncodedRows | None
    outputs_t: Sequence[np.ndarray]
    """Torch's outputs of each batch."""

    @classmethod
    def prepare(
        cls,
        model: TaskModel,
        reference: TorchSession,
        parity: EncodedRows | None,
        dev: EncodedRows | None,
    ) -> Judge:
        """Run torch over everything once."""
        real = parity is not None and len(parity) > 0
        batches = real_parity_batches(parity) if real else random_parity_batches(model)  # type: ignore[arg-type]
        if dev is not None and len(dev) > 0:
            _check_labels(dev, model)
            plan = list(
                encoded_batches(
                    dev, batch_tokens=_SCORE_BATCH_TOKENS, batch_size=32, pad_multiple=8
                )
            )
            order = [positions for positions, _ in plan]
            score_batches: Sequence[Batch] = [batch for _, batch in plan]
        else:
            dev, order, score_batches = None, [], batches.padded
        task = find_task(model.task)
        if dev is not None:
            task = task.judging(dev)
        return cls(
            batches=batches,
            reference=reference,
            task=task,
            decoding=model.decoding,
            score_batches=score_batches,
            order=order,
            dev=dev,
            outputs_t=[reference(**batch) for batch in score_batches],
        )

    @property
    def rows(self) -> str:
        """Is "dev", or "parity" where agreement with torch stands in for a score."""
        return "parity" if self.dev is None else "dev"

    @property
    def num_rows(self) -> int:
        """How many rows the score is of."""
        if self.judged_t is not None:
            return len(self.judged_t)
        return sum(len(batch["input_ids"]) for batch in self.score_batches)

    @functools.cached_property
    def judged_t(self) -> Judged | None:
        """What the labels say of torch's outputs; None where there are none."""
        return self._judged(self.outputs_t)

    @functools.cached_property
    def score_t(self) -> float:
        """Torch's score in points."""
        return self._points(self.outputs_t, self.judged_t)

    def allowed_points(self, tolerance_points: float) -> float:
        """Return how many points may be lost."""
        if self.rows == "dev":
            return tolerance_points
        return max(tolerance_points, _AGREEMENT_POINTS)

    def score(self, session: Session) -> Score:
        """Return the session's score."""
        outputs = list(session.run_many(self.score_batches))
        if not np.isfinite(self._real(outputs)).all():
            return Score(points=float("-inf"), judged=None)
        judged = self._judged(outputs)
        return Score(points=self._points(outputs, judged), judged=judged)

    def lost(self, score: Score) -> Interval | None:
        """Return how many points it is below torch, with the 95% interval over rows of dev."""
        if score.judged is None or self.judged_t is None:
            return None
        return Interval(*(100 * value for value in score.judged.lost_against(self.judged_t)))

    def _judged(self, outputs: Sequence[np.ndarray]) -> Judged | None:
        if self.dev is None:
            return None
        gathered = Gathered(len(self.dev))
        for positions, logits, batch in zip(self.order, outputs, self.score_batches, strict=True):
            gathered.add(positions, logits, batch["attention_mask"])
        return Judged(self.task, self.task.judge(gathered.in_order(), self.dev, self.decoding))

    def _points(self, outputs: Sequence[np.ndarray], judged: Judged | None) -> float:
        if judged is not None:
            return 100.0 * judged.score
        return 100.0 * label_agreement(self._real(self.outputs_t), self._real(outputs))

    def _real(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        pairs = zip(outputs, self.score_batches, strict=True)
        return np.concatenate([real_outputs(logits, batch) for logits, batch in pairs])


def _check_labels(dev: EncodedRows, model: TaskModel) -> None:
    if not dev.targets:
        raise UsageError("the rows to score int8 on have no labels", hint="give labelled --data")
    names = () if dev.labels is None else dev.labels.names
    known = names[: len(model.labels)] if dev.rows.open_labels else names
    if known != tuple(model.labels) and find_task(model.task).names_outputs:
        raise UsageError(
            "the rows to score int8 on have other labels than the model",
            hint="read them with the model's own label list",
        )
