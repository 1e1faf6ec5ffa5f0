"""Several tasks trained at once on one encoder. Shapes: B batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from bertwright.data.mixed import HEAD, MixedRows
from bertwright.models.multi import MultiModel
from bertwright.tasks.base import Task
from bertwright.tasks.objective import Objective

__all__ = ["MultiTask"]

MEAN = "mean"


@dataclass(frozen=True, kw_only=True)
class MultiTask(Objective):
    """Gives each batch to the task that it is of. Its score is the mean of the tasks' scores.

    Models, rows and outputs are `MultiModel`, `MixedRows` and what these gather, by head.
    """

    name: ClassVar[str] = "multi"
    metric_names: ClassVar[tuple[str, ...]] = (MEAN,)
    tunes_on_rows: ClassVar[bool] = True

    tasks: Mapping[str, Task]
    """By the name of the head."""
    weights: Mapping[str, float]
    """What the losses of each are multiplied by."""

    def judging(self, encoded: Any) -> Self:
        """Return it with each task as it judges its own rows."""
        rows: MixedRows = encoded
        tasks = {name: task.judging(rows.parts[name]) for name, task in self.tasks.items()}
        return replace(self, tasks=tasks)

    def prepare(self, model: Any, train_rows: Any) -> None:
        """Prepare each head on its own rows."""
        for name, task in self.tasks.items():
            task.prepare(_parts(model)[name], train_rows.parts[name])

    def per_example_loss(self, logits: Tensor, batch: Mapping[str, Any], model: Any) -> Tensor:
        """Return the weighted loss of each feature [B] by the task that the batch is of."""
        name = batch[HEAD]
        losses = self.tasks[name].per_example_loss(logits, batch, _parts(model)[name])
        return self.weights[name] * losses

    def tune(self, model: Any, logits: Any, encoded: Any) -> dict[str, Any]:
        """Return what each task tunes, by head."""
        found = {}
        for name, task in self.tasks.items():
            outputs = None if logits is None else logits[name]
            rows = None if encoded is None else encoded.parts[name]
            found[name] = task.tune(_parts(model)[name], outputs, rows)
        return found

    def judge(self, logits: Any, encoded: Any, decoding: Any) -> Any:
        """Return the statistics of the rows of each task, by head."""
        return {
            name: task.judge(logits[name], encoded.parts[name], decoding.get(name, {}))
            for name, task in self.tasks.items()
        }

    def metrics(self, statistics: Any) -> dict[str, float]:
        """Return the mean of the primary metrics, and all metrics as `head/metric`."""
        found = {name: task.metrics(statistics[name]) for name, task in self.tasks.items()}
        scores = [found[name][task.primary] for name, task in self.tasks.items()]
        return {
            MEAN: float(np.mean(scores)),
            **{f"{name}/{metric}": v for name, of in found.items() for metric, v in of.items()},
        }


def _parts(model: Any) -> dict[str, Any]:
    assert isinstance(model, MultiModel)
    return model.parts
