"""One model on one set of labelled rows: how good, how sure, how fast, how big."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.data.sources import Rows
from bertwright.engines.base import EngineSpec
from bertwright.engines.predictor import Predictor
from bertwright.errors import CheckpointError, UnknownLabelError, UsageError
from bertwright.evaluate.measure import Measurement, Target, measure_targets, model_folder
from bertwright.evaluate.significance import Interval, bootstrap, bootstrap_interval
from bertwright.files import read_json
from bertwright.tasks import TASKS, Task

__all__ = [
    "EVALUATE_KEYS",
    "Scores",
    "confusion_counts",
    "evaluate_model_dir",
    "evaluation_record",
    "sample_texts",
    "score_logits",
    "score_model_dir",
]

EVALUATE_KEYS = (
    "task",
    "num_rows",
    "metrics",
    "primary",
    "score",
    "score_low",
    "score_high",
    "engine",
    "precision",
    "throughput_texts_s",
    "throughput_tokens_s",
    "latency_p50_ms",
    "latency_p95_ms",
    "size_mb",
    "peak_memory_mb",
)
"""What `evaluate --json` prints, in this order."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How good a model is on labelled rows, with what every comparison needs."""

    task: str
    primary: str
    metrics: dict[str, float]
    interval: Interval
    """Of the primary metric: 95%, percentile bootstrap over rows."""
    logits: np.ndarray
    """[N,C] float32, in the order of the rows."""
    labels: np.ndarray
    """[N] int64, ids of the model's labels."""
    correct: np.ndarray
    """[N] bool."""
    label_names: tuple[str, ...]
    """The C labels of the model."""

    @property
    def score(self) -> float:
        """The primary metric."""
        return self.metrics[self.primary]

    @property
    def predictions(self) -> np.ndarray:
        """[N] int64, the most likely label's id of each row."""
        return self.logits.argmax(axis=-1)


def score_logits(
    task: Task,
    logits: np.ndarray,
    labels: np.ndarray,
    label_names: tuple[str, ...],
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Scores:
    """Return the metrics of `logits` [N,C] against `labels` [N], with the primary's interval.

    Args:
        task: what is asked; its `primary` metric gets the interval.
        logits: [N,C] in the order of the rows.
        labels: [N] ids of `label_names`.
        label_names: the C labels.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        UsageError: there are no rows.
    """
    labels = np.asarray(labels)
    if not len(labels):
        raise UsageError("there are no rows to evaluate on")
    metrics = task.compute_metrics(logits, labels)
    correct = task.correct(logits, labels)
    if task.primary == "accuracy":
        interval = bootstrap_interval(correct, num_resamples=num_resamples, seed=seed)
    else:
        interval = bootstrap(
            lambda drawn, truth: task.compute_metrics(drawn, truth)[task.primary],
            logits,
            labels,
            num_resamples=num_resamples,
            seed=seed,
        )
    return Scores(
        task=task.name,
        primary=task.primary,
        metrics=metrics,
        interval=interval,
        logits=logits,
        labels=labels,
        correct=correct,
        label_names=label_names,
    )


def score_model_dir(
    path: str | Path,
    rows: Rows,
    spec: str | EngineSpec = "torch:fp32",
    *,
    threads: int | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Scores:
    """Predict labelled rows with a model or artifact directory and score the answers.

    Labels are matched by name, so the rows may hold only some of the model's labels.

    Args:
        path: model, run or artifact directory.
        rows: labelled rows.
        spec: engine and precision.
        threads: processor threads; None: as the engine chooses.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        UsageError: there are no rows, or they have no labels.
        UnknownLabelError: the rows have a label that the model does not know.
        CheckpointError: the directory does not say what its task and labels are.
    """
    facts = _read_facts(path)
    names = tuple(str(name) for name in facts["labels"])
    labels = _labels_as_ids(rows, names)
    if isinstance(spec, str):
        spec = EngineSpec.parse(spec)
    predictor = Predictor(model_folder(path), spec=spec, threads=threads)
    try:
        logits = predictor.logits(rows.texts(), _second_texts(rows))
    finally:
        predictor.close()
    return score_logits(
        TASKS[facts["task"]], logits, labels, names, num_resamples=num_resamples, seed=seed
    )


def evaluate_model_dir(
    path: str | Path,
    rows: Rows,
    spec: str | EngineSpec = "torch:fp32",
    *,
    threads: int | None = None,
    repeats: int = 5,
    latency_rows: int = 200,
    speed_rows: int | None = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a model on labelled rows and measure its speed on a sample of their texts.

    Args:
        path: model, run or artifact directory.
        rows: labelled rows.
        spec: engine and precision.
        threads: processor threads; None: all cores that this process may use.
        repeats: rounds of the throughput measurement; the median counts.
        latency_rows: texts answered one by one.
        speed_rows: most rows in the throughput measurement, drawn at random; None: all.
        seed: of the bootstrap and the drawn rows.

    Returns:
        One JSON object with exactly the keys of `EVALUATE_KEYS`.

    Raises:
        UsageError: there are no rows, or they have no labels.
        UnknownLabelError: the rows have a label that the model does not know.
        WorkerError: the measuring process failed.
    """
    scores = score_model_dir(path, rows, spec, threads=threads, seed=seed)
    texts, texts_b = sample_texts(rows, speed_rows, seed=seed)
    target = Target(name=Path(path).name, path=Path(path), spec=str(spec))
    (measured,) = measure_targets(
        [target], texts, texts_b, threads=threads, repeats=repeats, latency_rows=latency_rows
    )
    return evaluation_record(scores, measured)


def evaluation_record(scores: Scores, measured: Measurement) -> dict[str, Any]:
    """Return scores and measurement as one JSON object with the keys of `EVALUATE_KEYS`."""
    return {
        "task": scores.task,
        "num_rows": len(scores.labels),
        "metrics": dict(scores.metrics),
        "primary": scores.primary,
        "score": scores.score,
        "score_low": scores.interval.low,
        "score_high": scores.interval.high,
        "engine": measured.engine,
        "precision": measured.precision,
        "throughput_texts_s": measured.throughput_texts_s,
        "throughput_tokens_s": measured.throughput_tokens_s,
        "latency_p50_ms": measured.latency_p50_ms,
        "latency_p95_ms": measured.latency_p95_ms,
        "size_mb": measured.size_mb,
        "peak_memory_mb": measured.peak_memory_mb,
    }


def sample_texts(
    rows: Rows, count: int | None, *, seed: int = 0
) -> tuple[list[str], list[str] | None]:
    """Return texts (and second texts) of at most `count` rows drawn at random, for measuring."""
    if count is not None and count < len(rows):
        drawn = np.random.default_rng(seed).choice(len(rows), size=count, replace=False)
        rows = rows.select(drawn.tolist())
    return rows.texts(), _second_texts(rows)


def confusion_counts(labels: np.ndarray, predictions: np.ndarray, num_labels: int) -> np.ndarray:
    """Return counts [C,C]: row = the true label's id, column = the predicted one's."""
    cells = np.asarray(labels) * num_labels + np.asarray(predictions)
    return np.bincount(cells, minlength=num_labels**2).reshape(num_labels, num_labels)


def _read_facts(path: str | Path) -> Mapping[str, Any]:
    file = model_folder(path) / "bertwright.json"
    if not file.exists():
        raise CheckpointError(
            f"{path} is not a model directory: it has no bertwright.json",
            hint="give the --out of finetune, distil or compress, or an exported artifact",
        )
    facts = read_json(file)
    if not isinstance(facts, dict) or "task" not in facts or not facts.get("labels"):
        raise CheckpointError(f"{file} does not name the model's task and labels")
    return facts


def _labels_as_ids(rows: Rows, names: tuple[str, ...]) -> np.ndarray:
    if rows.labels is None or "label" not in rows.dataset.column_names:
        raise UsageError(
            f"{rows.source}: the rows have no labels, so nothing can be scored",
            hint="give a file with a label column; `predict` needs none",
        )
    known = {name: number for number, name in enumerate(names)}
    ids = np.asarray(rows.dataset["label"], dtype=np.int64)
    used = {int(i): rows.labels.names[int(i)] for i in np.unique(ids)}
    unknown = sorted(name for name in used.values() if name not in known)
    if unknown:
        raise UnknownLabelError(
            f"labels that the model does not know: {', '.join(unknown[:5])}",
            path=rows.source,
            hint=f"the model knows {len(names)}: {', '.join(names[:8])}"
            + (" ..." if len(names) > 8 else ""),
        )
    table = np.full(len(rows.labels.names), -1, dtype=np.int64)
    for number, name in used.items():
        table[number] = known[name]
    return table[ids]


def _second_texts(rows: Rows) -> list[str] | None:
    return list(rows.dataset["text_b"]) if "text_b" in rows.dataset.column_names else None
