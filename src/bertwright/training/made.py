"""The result of a model that was made without steps of the loop: a head that was fitted."""

from __future__ import annotations

from pathlib import Path

from bertwright.data.tokenise import EncodedRows
from bertwright.models.task_model import TaskModel
from bertwright.tasks import Task
from bertwright.training.config import TrainingConfig
from bertwright.training.evaluation import compute_logits, evaluate_model
from bertwright.training.journal import Journal
from bertwright.training.loop import TrainResult

__all__ = ["judge_made"]


def judge_made(
    model: TaskModel,
    eval_rows: EncodedRows,
    task: Task,
    training: TrainingConfig,
    run_dir: Path,
    *,
    steps: int,
    seconds: float,
    stopped: str,
) -> TrainResult:
    """Evaluate the model, tune its decoding, and return what a run of training would.

    Where the run has no `metrics.jsonl` of its own, the scores are written there as its only line.

    Args:
        model: put in eval mode.
        eval_rows: may be empty.
        task: the model's.
        training: batches of the evaluation.
        run_dir: of the run; made if absent.
        steps: taken on the way.
        seconds: taken to make it.
        stopped: why it is done.
    """
    model.eval()
    metrics: dict[str, float] = {}
    if len(eval_rows):
        metrics, _ = evaluate_model(model, eval_rows, task, training.batch_tokens, "fp32")
        outputs = None
        if task.tunes_on_rows:
            outputs = compute_logits(model, eval_rows, precision="fp32")
        model.decoding = task.tune(model, outputs, eval_rows)
    run_dir.mkdir(parents=True, exist_ok=True)
    journal = Journal(run_dir / "metrics.jsonl")
    if not journal.size():
        scores = {f"eval_{name}": value for name, value in metrics.items()}
        journal.write({"step": steps, "epoch": 0.0, **scores, "seconds": round(seconds, 3)})
    return TrainResult(
        primary=task.primary,
        best_score=metrics.get(task.primary),
        metrics=metrics,
        steps=steps,
        seconds=seconds,
        tokens=0,
        tokens_per_s=0.0,
        stopped=stopped,
        run_dir=run_dir,
    )
