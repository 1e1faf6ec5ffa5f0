"""The training loop. It is short: methods are hooks, and keeping things safe is `Keeper`'s."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from bertwright.data.batching import MODEL_INPUTS
from bertwright.errors import ConfigError, DataError, NonFiniteLossError, TimeUpError
from bertwright.models.heads.fitted import find_fitted_head
from bertwright.models.modes import eval_mode
from bertwright.models.quantized import refuse_quantized
from bertwright.progress import Progress
from bertwright.training.config import TrainingConfig
from bertwright.training.deadline import time_is_up
from bertwright.training.evaluation import compute_logits, evaluate_model
from bertwright.training.hooks import Hook, RunState, dispatch, order_hooks
from bertwright.training.journal import Journal, Meter
from bertwright.training.keeper import Keeper
from bertwright.training.optim import build_optimizer
from bertwright.training.precision import make_accelerator, resolve_precision, using_threads
from bertwright.training.schedules import build_scheduler
from bertwright.training.seeds import seed_everything
from bertwright.training.steps import PlannedStep, StepPlan

if TYPE_CHECKING:
    from bertwright.data.tokenise import EncodedRows
    from bertwright.models.task_model import TaskModel
    from bertwright.tasks.objective import Objective

__all__ = ["PAUSED", "TrainResult", "count_steps", "train"]

PAUSED = "paused"


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    `best_score` is the metric named `primary` and `metrics` are all of them, at the evaluation
    whose weights the model holds (None and empty without rows to evaluate on). `seconds` is the
    whole time, earlier parts of a resumed run included; `tokens_per_s` is of training alone.
    """

    primary: str
    best_score: float | None
    metrics: dict[str, float]
    steps: int
    seconds: float
    tokens: int
    tokens_per_s: float
    stopped: str
    run_dir: Path


def train(
    model: TaskModel,
    train_rows: EncodedRows,
    eval_rows: EncodedRows | None,
    *,
    task: Objective,
    config: TrainingConfig,
    hooks: Iterable[Hook] = (),
    run_dir: str | Path,
    resume: bool = False,
    pause_at: int | None = None,
) -> TrainResult:
    """Train the model in place; it returns with its best weights, in eval mode.

    The loss of a step is the sum over its rows divided by the epoch's mean number of rows in a
    step: batches made by token budget differ in rows, and so each row weighs the same. With
    accumulation this is the gradient of one large batch, not a mean of means.

    `run_dir` gets `metrics.jsonl` and `checkpoints/`. A run that was killed and is resumed ends
    with bitwise the same weights as an unbroken one (CPU, same number of threads). Ranges for int8
    that the model learned before are of other weights, and are dropped.

    Args:
        model: trained in place, moved to the accelerator if there is one.
        train_rows: rows with labels.
        eval_rows: rows to choose the best weights by; None: the last weights are returned.
        task: the loss and the metrics.
        config: everything else.
        hooks: the methods that take part.
        run_dir: made if absent. Without `resume`, checkpoints of an earlier run in it are removed.
        resume: go on from the newest usable checkpoint; from the start when there is none.
        pause_at: return after so many steps of the whole run (`stopped` is then "paused"), with
            the weights of that moment and a checkpoint from which `resume` goes on.

    Raises:
        NonFiniteLossError: the loss or the gradient became NaN or infinite.
        CheckpointError: resuming, no checkpoint is usable, or the run was made otherwise.
        ConfigError: nothing to train, a hook given twice, or more than one process.
        DataError: no rows, or rows without labels.
        UsageError: the model has been quantized.
        TimeUpError: the moment given by `deadline.until` has passed; a checkpoint was saved.
    """
    if not train_rows.targets:
        raise DataError("the rows to train on have no labels")
    fitted = find_fitted_head(model)
    if fitted is not None:
        raise ConfigError(
            f"a head of {fitted.name} passes no gradient: nothing below it can be trained",
            hint="train with --head linear, or freeze with --learner logistic",
        )
    if task.trains:
        refuse_quantized(model, "it cannot be trained")
    if eval_rows is not None:
        task = task.judging(eval_rows)
    hooks = order_hooks(hooks)
    accelerator = make_accelerator(config.precision)
    if accelerator.num_processes > 1:
        raise ConfigError("training in more than one process is not supported")
    plan = StepPlan(train_rows, config)
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    seed_everything(config.seed)
    model.to(accelerator.device)
    task.prepare(model, train_rows)
    model.ranges = None
    model.train()
    state = RunState(
        model=model,
        task=task,
        config=config,
        accelerator=accelerator,
        generator=torch.Generator().manual_seed(config.seed),
        run_dir=run_dir,
        total_steps=plan.total_steps,
    )
    meter = Meter()
    with using_threads(config.threads):
        dispatch(hooks, "on_start", state)
        parameters = _attach_optimizer(state, hooks)
        journal = Journal(run_dir / "metrics.jsonl")
        keeper = Keeper(state, hooks, meter, journal, train_rows, eval_rows)
        keeper.open(resume=resume)
        if not keeper.finished and task.trains:
            _run_steps(
                plan, state, hooks, parameters, train_rows, eval_rows, meter, keeper, pause_at
            )
        elif not keeper.finished:
            _only_evaluate(state, hooks, eval_rows, keeper)
        if state.stop_reason == PAUSED:
            keeper.save()
        else:
            if not keeper.finished:
                keeper.finish()
            keeper.load_best()
            model.eval()
            _tune_decoding(state, eval_rows)
            dispatch(hooks, "on_end", state)
        model.eval()
    metrics = state.best_metrics if config.keep_best else state.metrics
    return TrainResult(
        primary=task.primary,
        best_score=metrics.get(task.primary),
        metrics=dict(metrics),
        steps=state.step,
        seconds=keeper.seconds(),
        tokens=meter.tokens,
        tokens_per_s=meter.tokens_per_s(),
        stopped=state.stop_reason,
        run_dir=run_dir,
    )


def count_steps(train_rows: EncodedRows, config: TrainingConfig) -> int:
    """Return the optimizer steps that `train` would take over these rows."""
    return StepPlan(train_rows, config).total_steps


def _attach_optimizer(state: RunState, hooks: Sequence[Hook]) -> list[nn.Parameter]:
    """Give the state its optimizer and scheduler; return the parameters in training."""
    extra = [part for hook in hooks for part in hook.trainable_parameters()]
    for part in extra:
        if isinstance(part, nn.Module):
            part.to(state.accelerator.device)
    config = state.config
    state.optimizer = build_optimizer([state.model, *extra], config)
    state.optimizer.zero_grad(set_to_none=True)
    state.scheduler = build_scheduler(
        state.optimizer,
        total_steps=state.total_steps,
        warmup=config.warmup,
        schedule=config.schedule,
    )
    return [p for group in state.optimizer.param_groups for p in group["params"]]


def _run_steps(
    plan: StepPlan,
    state: RunState,
    hooks: Sequence[Hook],
    parameters: list[nn.Parameter],
    train_rows: EncodedRows,
    eval_rows: EncodedRows | None,
    meter: Meter,
    keeper: Keeper,
    pause_at: int | None,
) -> None:
    """Take the steps that are left, recording, evaluating and saving where the plan says."""
    config = state.config
    with Progress(
        "train", total=plan.total_steps, unit="steps", rate_unit="tokens", start=state.step
    ) as bar:
        for planned in plan.steps_after(state.step):
            if pause_at is not None and state.step >= pause_at:
                state.stop(PAUSED)
                return
            if time_is_up():
                keeper.save()
                raise TimeUpError(
                    f"time was up after {state.step} of {plan.total_steps} steps",
                    hint="--resume trains on",
                )
            began, tokens_before = time.monotonic(), meter.tokens
            lr = state.optimizer.param_groups[0]["lr"]
            grad_norm = _take_step(planned, state, hooks, parameters, train_rows, meter, keeper)
            meter.add_seconds(time.monotonic() - began)
            bar.advance(1, rate=meter.tokens - tokens_before)
            if config.minutes is not None and keeper.seconds() >= 60 * config.minutes:
                state.stop("time limit")
            last = state.should_stop or state.step == plan.total_steps
            evaluating = plan.evaluates_after(state.step) or last
            if evaluating or plan.records_after(state.step):
                record: dict[str, Any] = {
                    "step": state.step,
                    "epoch": round(planned.epochs_done, 4),
                    **meter.take(),
                    "lr": lr,
                    "grad_norm": grad_norm,
                }
                if evaluating and eval_rows is not None:
                    record |= _evaluate(state, hooks, eval_rows, keeper)
                record["seconds"] = round(keeper.seconds(), 3)
                keeper.journal.write(record)
                bar.note(_remark(record, state))
            if state.should_stop:
                return
            if not last:
                keeper.save_if_due(evaluated=evaluating)
    state.stop("all steps done")


def _only_evaluate(
    state: RunState, hooks: Sequence[Hook], eval_rows: EncodedRows | None, keeper: Keeper
) -> None:
    """Note how good the model is as it came, where there is nothing to train."""
    if eval_rows is not None:
        record = {"step": 0, "epoch": 0.0, **_evaluate(state, hooks, eval_rows, keeper)}
        keeper.journal.write(record)
    state.stop("nothing to train")


def _take_step(
    planned: PlannedStep,
    state: RunState,
    hooks: Sequence[Hook],
    parameters: list[nn.Parameter],
    rows: EncodedRows,
    meter: Meter,
    keeper: Keeper,
) -> float:
    """Take one optimizer step over its batches; return the gradient's norm before clipping."""
    hidden = any(hook.needs_hidden_states for hook in hooks)
    attentions = any(hook.needs_attentions for hook in hooks)
    device = state.accelerator.device
    state.epoch = planned.epoch
    for indices in planned.batches:
        batch = rows.collate(indices)
        state.batch = {
            key: value.to(device) if isinstance(value, torch.Tensor) else value
            for key, value in batch.items()
        }
        state.losses = {}
        dispatch(hooks, "on_batch", state)
        with state.accelerator.autocast():
            state.output = state.model(
                **{key: state.batch[key] for key in MODEL_INPUTS if key in state.batch},
                output_hidden_states=hidden,
                output_attentions=attentions,
                answer_alone=True,
            )
            state.output.logits = state.output.logits.float()
            dispatch(hooks, "on_forward", state)
        state.per_example_loss = state.task.per_example_loss(
            state.output.logits, state.batch, state.model
        )
        dispatch(hooks, "on_loss", state)
        total = state.per_example_loss.sum()
        loss_sum = total.item()
        if not math.isfinite(loss_sum):
            raise NonFiniteLossError(
                loss_sum, state.step + 1, rows.row_names(indices), kept=keeper.last_good()
            )
        state.loss = total / planned.rows_per_step
        state.accelerator.backward(state.loss)
        meter.add_batch(
            rows=len(indices),
            tokens=int(rows.lengths[indices].sum()),
            loss_sum=loss_sum,
            parts=state.losses,
        )
    dispatch(hooks, "on_backward", state)
    limit = state.config.clip_norm or math.inf
    grad_norm = float(state.accelerator.clip_grad_norm_(parameters, limit))  # type: ignore[arg-type]
    if not math.isfinite(grad_norm):
        names = rows.row_names(np.concatenate(planned.batches))
        raise NonFiniteLossError(
            grad_norm, state.step + 1, names, kept=keeper.last_good(), what="gradient"
        )
    state.optimizer.step()
    state.scheduler.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    dispatch(hooks, "on_step", state)
    return grad_norm


def _evaluate(
    state: RunState, hooks: Sequence[Hook], eval_rows: EncodedRows, keeper: Keeper
) -> dict[str, float]:
    """Evaluate, keep the weights if they are the best so far; return the figures to record."""
    config = state.config
    with eval_mode(state.model):
        state.metrics, _ = evaluate_model(
            state.model,
            eval_rows,
            state.task,
            batch_tokens=config.batch_tokens,
            precision=resolve_precision(config.precision),
        )
        dispatch(hooks, "on_evaluate", state)
    keeper.judge()
    if config.patience is not None and state.evaluations_since_best >= config.patience:
        state.stop(f"no better {state.task.primary} in {config.patience} evaluations")
    return {f"eval_{name}": value for name, value in state.metrics.items()}


def _tune_decoding(state: RunState, eval_rows: EncodedRows | None) -> None:
    """Let the task tune the decoding of the weights that the run returns."""
    task, config = state.task, state.config
    outputs = None
    if eval_rows is not None and task.tunes_on_rows:
        outputs = compute_logits(
            state.model,
            eval_rows,
            batch_tokens=config.batch_tokens,
            precision=resolve_precision(config.precision),
        )
    state.model.decoding = task.tune(state.model, outputs, eval_rows)


def _remark(record: dict[str, Any], state: RunState) -> str:
    text = f"loss {record['loss']:.3f}"
    if state.best_score is not None:
        text += f", best {state.task.primary} {state.best_score:.4f}"
    return text
