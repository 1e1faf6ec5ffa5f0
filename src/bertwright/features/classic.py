"""A classic model as the head of a frozen encoder: chosen by cross-validation, then calibrated.

Shapes: N rows, D width of the vectors, C outputs.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bertwright.data.tokenise import EncodedRows
from bertwright.errors import ConfigError, DataError
from bertwright.features.learners import LEARNERS, Learner
from bertwright.models.heads import BagHead, ClassificationHead, FittedHead
from bertwright.models.outputs import Outputs, OutputScale
from bertwright.models.task_model import TaskModel
from bertwright.progress import Progress
from bertwright.tasks import Task

__all__ = ["CHOICE_ROWS", "ClassicFit", "Trial", "fit_classic", "fit_temperature", "fold_places"]

CHOICE_ROWS = 5000
"""Rows that the choice is made on, at most; the chosen model is fitted to all."""
FOLDS = 5
_T_RANGE = (-4.0, 4.0)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One model with one setting, judged on rows that it was not fitted to."""

    learner: str
    setting: dict[str, Any]
    score: float
    """The task's first metric over all folds together."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ClassicFit:
    """What was tried and chosen."""

    trials: tuple[Trial, ...]
    chosen: Trial
    left_out: tuple[str, ...]
    """Learners that would have taken too long."""
    temperature: float | None
    """What the logits were divided by; None for numbers."""
    loss_before: float | None
    """Mean log-loss in nats of the folds, before and after that."""
    loss_after: float | None


@dataclass(frozen=True)
class _Vectors:
    """What a classic model sees of the rows."""

    x: np.ndarray
    y: np.ndarray
    encoded: EncodedRows

    def part(self, places: np.ndarray) -> _Vectors:
        return _Vectors(self.x[places], self.y[places], self.encoded.select(places))


def fit_classic(
    model: TaskModel,
    encoded: EncodedRows,
    task: Task,
    *,
    learners: Sequence[str] = tuple(LEARNERS),
    bags: int = 1,
    seed: int = 0,
) -> ClassicFit:
    """Give the model a head that is the best of some classic models on its pooled vectors.

    Every setting of every learner is judged on folds that it was not fitted to; the best is
    fitted to all rows, or, in bags, to all rows but a fold each. Logits of classes are divided by
    the temperature that the folds ask for.

    Args:
        model: prepared for the rows (`Objective.prepare`); its head is replaced, and its config
            says which it has.
        encoded: labelled rows with `reads`; one vector a text, of classes or numbers.
        task: says which model is best.
        learners: names in `LEARNERS`.
        bags: how many heads, averaged.
        seed: of the folds and the learners.

    Raises:
        ConfigError: the task or the pooling is none for this, or no learner fits the task.
        DataError: fewer rows than folds.
    """
    _check(model)
    rows = _vectors(model, encoded)
    if len(rows.y) < max(FOLDS, bags):
        raise DataError(f"{len(rows.y)} rows cannot be dealt into {max(FOLDS, bags)} folds")
    kinds = [LEARNERS[name]() for name in learners]
    size = (len(rows.y), rows.x.shape[1])
    tried = [kind for kind in kinds if kind.affordable(*size, model.outputs)]
    if not tried:
        raise ConfigError(
            f"--learner: none of {', '.join(learners)} fits {model.outputs.count} outputs of "
            f"{model.outputs.kind} and {size[0]} rows",
            hint="take --learner best, or own",
        )
    places = np.random.default_rng(seed).permutation(size[0])[:CHOICE_ROWS]
    sample = rows.part(np.sort(places))
    trials, outputs_of = _try_all(model, task, sample, tried, seed)
    best = max(range(len(trials)), key=lambda place: trials[place].score)
    learner = LEARNERS[trials[best].learner]()
    heads = list(_final_heads(learner, rows, model.outputs, trials[best].setting, bags, seed))
    temperature = before = after = None
    if model.outputs.kind == "classes":
        temperature, before, after = fit_temperature(outputs_of[best], sample.y)
        for head in heads:
            divide_logits(head, temperature)
    model.head = heads[0] if bags == 1 else BagHead(heads, model.outputs)
    model.config = replace(
        model.config, head=_name(heads[0], learner), head_layers=0, head_bags=bags
    )
    return ClassicFit(
        trials=tuple(trials),
        chosen=trials[best],
        left_out=tuple(kind.card.name for kind in kinds if kind not in tried),
        temperature=temperature,
        loss_before=before,
        loss_after=after,
    )


def _name(head: nn.Module, learner: Learner) -> Any:
    return "linear" if isinstance(head, ClassificationHead) else learner.head


def _check(model: TaskModel) -> None:
    if model.outputs.kind not in ("classes", "numbers") or model.outputs.level == "token":
        raise ConfigError(
            f"--frozen: classic models have one label or number a text, not {model.task}",
            hint="--learner own trains a head of ours on the frozen encoder",
        )
    if model.pooling is not None and list(model.pooling.parameters()):
        raise ConfigError(
            f"--pooling {model.pooling.spec} has to be trained; classic models cannot",
            hint="take --pooling mean, or --learner own",
        )


def _vectors(model: TaskModel, encoded: EncodedRows) -> _Vectors:
    if encoded.reads is None:
        raise ValueError("the rows have no readings; see features.frozen.with_reads")
    x = encoded.reads.vectors(np.arange(len(encoded)))
    if model.outputs.kind == "classes":
        ids = encoded.label_ids
        if ids is None:
            raise DataError("the rows have no labels")
        return _Vectors(x, np.asarray(ids, np.int64), encoded)
    numbers = np.asarray(encoded.field("labels", np.arange(len(encoded))), np.float64)
    scale = model.scale
    assert isinstance(scale, OutputScale)
    return _Vectors(x, (numbers - float(scale.centre)) / float(scale.spread), encoded)


def fold_places(y: np.ndarray, outputs: Outputs, folds: int, seed: int) -> list[np.ndarray]:
    """Deal the rows [N] into folds, each class evenly where there are classes."""
    from sklearn.model_selection import KFold, StratifiedKFold

    kind = StratifiedKFold if outputs.kind == "classes" else KFold
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        if outputs.kind == "classes" and np.bincount(y).max() < folds:
            kind = KFold
        splits = kind(folds, shuffle=True, random_state=seed).split(np.zeros(len(y)), y)
        return [held_out for _, held_out in splits]


def _try_all(
    model: TaskModel, task: Task, rows: _Vectors, learners: Sequence[Learner], seed: int
) -> tuple[list[Trial], list[np.ndarray]]:
    """Return the trials, and for each its outputs [N, C] on the rows when they were held out."""
    folds = fold_places(rows.y, model.outputs, FOLDS, seed)
    trials: list[Trial] = []
    found: list[np.ndarray] = []
    total = sum(len(learner.grid) for learner in learners) * len(folds)
    with Progress("choose", total=total, unit="fits") as bar:
        for learner in learners:
            for setting in learner.grid:
                began = time.perf_counter()
                held_out = np.zeros((len(rows.y), model.outputs.count), np.float32)
                for fold in folds:
                    kept = np.setdiff1d(np.arange(len(rows.y)), fold)
                    head = _fit(learner, rows.part(kept), model.outputs, setting, seed)
                    held_out[fold] = run_head(head, rows.x[fold])
                    bar.advance(1)
                scored = model.scale(torch.from_numpy(held_out)).numpy()
                metrics = task.metrics(task.judge(scored, rows.encoded, {}))
                trials.append(
                    Trial(
                        learner=learner.card.name,
                        setting=dict(setting),
                        score=metrics[task.primary],
                        seconds=time.perf_counter() - began,
                    )
                )
                found.append(held_out)
    return trials, found


def _fit(
    learner: Learner, rows: _Vectors, outputs: Outputs, setting: Mapping[str, Any], seed: int
) -> nn.Module:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
        return learner.fit(rows.x, rows.y, outputs, setting, seed)


def _final_heads(
    learner: Learner, rows: _Vectors, outputs: Outputs, setting: Any, bags: int, seed: int
) -> Iterator[nn.Module]:
    """Yield the heads that the model gets: one fitted to all rows, or one a bag."""
    if bags == 1:
        yield _fit(learner, rows, outputs, setting, seed)
        return
    with Progress("fit the bags", total=bags, unit="heads") as bar:
        for place, fold in enumerate(fold_places(rows.y, outputs, bags, seed)):
            kept = np.setdiff1d(np.arange(len(rows.y)), fold)
            yield _fit(learner, rows.part(kept), outputs, setting, seed + place)
            bar.advance(1)


def run_head(head: nn.Module, x: np.ndarray, batch: int = 1024) -> np.ndarray:
    """Return the head's outputs [N, C], fp32, of vectors [N, D]."""
    with torch.no_grad():
        parts = torch.from_numpy(np.ascontiguousarray(x)).split(batch)
        return torch.cat([head(part) for part in parts]).float().numpy()


def fit_temperature(logits: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Return the temperature with the least log-loss, and the mean loss in nats at 1 and at it.

    Args:
        logits: [N, C].
        y: ids of the right classes, [N].

    Source: Guo et al. 2017, arXiv:1706.04599.
    """
    from scipy.optimize import minimize_scalar

    given = torch.from_numpy(logits).double()
    right = torch.from_numpy(np.array(y))

    def loss(log_t: float) -> float:
        return float(nn.functional.cross_entropy(given / np.exp(log_t), right))

    found: Any = minimize_scalar(loss, bounds=_T_RANGE, method="bounded")
    return float(np.exp(found.x)), loss(0.0), float(found.fun)


def divide_logits(head: nn.Module, temperature: float) -> None:
    """Divide the logits of a head of classes by the temperature, for good."""
    if isinstance(head, FittedHead):
        head.temperature.mul_(temperature)
    elif isinstance(head, ClassificationHead):
        parameters: list[Tensor] = [head.out.weight, head.out.bias]
        with torch.no_grad():
            for parameter in parameters:
                parameter.div_(temperature)
    else:
        raise TypeError(f"no classic model becomes a {type(head).__name__}")
