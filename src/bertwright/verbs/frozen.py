"""`finetune --frozen`: train what stands on an encoder, and leave the encoder as it is."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bertwright.errors import ConfigError, UnknownChoiceError
from bertwright.features.learners import BEST, LEARNERS, learners_named
from bertwright.files import write_json
from bertwright.models.heads import BagHead, HeadConfig, build_head
from bertwright.progress import console
from bertwright.tasks import find_task

if TYPE_CHECKING:
    from bertwright.data.tokenise import EncodedRows
    from bertwright.models.task_model import TaskModel
    from bertwright.tasks import Task
    from bertwright.training.config import TrainingConfig
    from bertwright.training.loop import TrainResult

__all__ = ["FrozenConfig", "check_frozen", "check_head_is_trained", "train_frozen"]

OWN = "own"
CHOICE_FILE = "learners.json"


@dataclass(frozen=True, kw_only=True)
class FrozenConfig:
    """Train what stands on the encoder alone."""

    frozen: bool = False
    """Leave the encoder as it is: each text is read once, and only what stands on it is trained."""
    learner: str | None = None
    """With --frozen, what is trained: logistic, svm, ridge, nearest, boosting (scikit-learn's, as a
    head), best (the one of them that cross-validation prefers), or own (--pooling and --head, by
    gradients). Without it, best for labels and numbers, own for all else."""


def check_head_is_trained(head: HeadConfig) -> None:
    """Check that a head is one that is trained together with the encoder.

    Raises:
        ConfigError: it is fitted, or several that are averaged.
    """
    if head.head in ("nearest", "trees"):
        raise ConfigError(
            f"--head {head.head} is not trained by gradients",
            hint=f"--frozen --learner {'nearest' if head.head == 'nearest' else 'boosting'}",
        )
    if head.head_bags > 1:
        raise ConfigError(
            "--head-bags averages heads on a frozen encoder; this one is trained",
            hint="finetune --frozen, or leave it out",
        )


def check_frozen(config: Any) -> None:
    """Check the options that are for frozen encoders.

    Args:
        config: of `finetune`.

    Raises:
        ConfigError: they contradict each other.
        UnknownChoiceError: there is no such learner.
    """
    frozen, head = config.freezing, config.classifier
    if not frozen.frozen:
        if frozen.learner is not None:
            raise ConfigError(f"--learner {frozen.learner} is for frozen encoders", hint="--frozen")
        check_head_is_trained(head)
        return
    check_head_is_trained(replace(head, head_bags=1))
    if find_task(config.task).name == "senses":
        raise ConfigError(
            "--frozen: senses are found by vectors of an encoder that needs no head",
            hint="--task senses:how=nearest trains nothing",
        )
    if config.method:
        raise ConfigError(
            f"--method {config.method[0]} is of no use to a frozen encoder",
            hint="leave it out, or leave --frozen out",
        )
    if frozen.learner not in (None, BEST, OWN, *LEARNERS):
        raise UnknownChoiceError("learner", str(frozen.learner), [*LEARNERS, BEST, OWN])


def train_frozen(
    model: TaskModel,
    rows: tuple[EncodedRows, EncodedRows],
    task: Task,
    config: Any,
    run_dir: Path,
) -> TrainResult:
    """Train what stands on the model's encoder, and judge it.

    Args:
        model: gets its head.
        rows: to train and to evaluate on.
        task: of both.
        config: of `finetune`.
        run_dir: is there.

    Raises:
        UsageError: the task, the pooling or the learner does not go with a frozen encoder.
    """
    from bertwright.features.frozen import freeze, with_reads
    from bertwright.training.precision import using_threads

    training: TrainingConfig = config.training
    precision = "bf16" if training.precision == "bf16" else "fp32"
    freeze(model)
    with using_threads(training.threads):
        task.prepare(model, rows[0])
        read, read_eval = (with_reads([model], part, precision=precision)[0] for part in rows)
    learner = config.freezing.learner or _usual_learner(model)
    if learner == OWN:
        return _train_own(model, (read, read_eval), task, config, run_dir)
    return _fit_classic(model, (read, read_eval), task, config, run_dir, learner)


def _usual_learner(model: TaskModel) -> str:
    pooling = model.pooling
    one_vector = pooling is not None and not list(pooling.parameters())
    return BEST if one_vector and model.outputs.kind in ("classes", "numbers") else OWN


def _train_own(
    model: TaskModel,
    rows: tuple[EncodedRows, EncodedRows],
    task: Task,
    config: Any,
    run_dir: Path,
) -> TrainResult:
    """Train the pooling and the head by gradients; several heads one after the other."""
    from bertwright.training.loop import train

    training: TrainingConfig = config.training
    if not isinstance(model.head, BagHead):
        return train(
            model, *rows, task=task, config=training, run_dir=run_dir, resume=config.resume
        )
    return _train_bags(model, rows, task, config, run_dir)


def _train_bags(
    model: TaskModel,
    rows: tuple[EncodedRows, EncodedRows],
    task: Task,
    config: Any,
    run_dir: Path,
) -> TrainResult:
    """Train a head on all rows but a fold, for each fold with a seed of its own."""
    from bertwright.training.loop import train
    from bertwright.training.made import judge_made

    bag = model.head
    assert isinstance(bag, BagHead)
    if model.pooling is not None and list(model.pooling.parameters()):
        raise ConfigError(
            f"--head-bags: --pooling {model.pooling.spec} is trained, and heads share it",
            hint="take --pooling mean, or leave --head-bags out",
        )
    training: TrainingConfig = config.training
    count = len(bag.heads)
    order = np.random.default_rng(training.seed).permutation(len(rows[0]))
    results: list[TrainResult] = []
    for place, fold in enumerate(np.array_split(order, count)):
        seed = training.seed + place
        kept = np.setdiff1d(np.arange(len(rows[0])), fold)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.head = build_head(
                model.encoder.config,
                model.outputs,
                replace(model.config, head_bags=1),
                model.labels,
                width=None if model.pooling is None else model.pooling.width,
            )
        folder = run_dir / "bags" / str(place)
        console.print(f"head {place + 1} of {count}", style="dim", markup=False)
        results.append(
            train(
                model,
                rows[0].select(kept),
                rows[1],
                task=task,
                config=replace(training, seed=seed),
                run_dir=folder,
                resume=config.resume and folder.exists(),
            )
        )
        bag.heads[place] = model.head
    model.head = bag
    return judge_made(
        model,
        rows[1],
        task,
        training,
        run_dir,
        steps=sum(result.steps for result in results),
        seconds=sum(result.seconds for result in results),
        stopped=results[-1].stopped,
    )


def _fit_classic(
    model: TaskModel,
    rows: tuple[EncodedRows, EncodedRows],
    task: Task,
    config: Any,
    run_dir: Path,
    learner: str,
) -> TrainResult:
    from bertwright.features.classic import fit_classic
    from bertwright.training.made import judge_made
    from bertwright.training.precision import using_threads

    training: TrainingConfig = config.training
    began = time.perf_counter()
    with using_threads(training.threads):
        fit = fit_classic(
            model,
            rows[0],
            task,
            learners=learners_named(learner),
            bags=config.classifier.head_bags,
            seed=training.seed,
        )
    write_json(run_dir / CHOICE_FILE, asdict(fit))
    settings = ", ".join(f"{key} {value:g}" for key, value in fit.chosen.setting.items())
    stopped = (
        f"{fit.chosen.learner} with {settings}: {task.primary} {fit.chosen.score:.4f} "
        f"over {len(fit.trials)} tried in cross-validation"
    )
    if fit.left_out:
        stopped += f"; {', '.join(fit.left_out)} not tried, which would take too long"
    seconds = time.perf_counter() - began
    return judge_made(
        model, rows[1], task, training, run_dir, steps=0, seconds=seconds, stopped=stopped
    )
