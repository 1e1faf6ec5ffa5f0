"""One model on one set of labelled rows: how good, how sure, how fast, how big."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.data.gather import RowOutputs
from bertwright.data.labels import LabelSet
from bertwright.data.rows import Rows
from bertwright.data.tokenise import EncodedRows
from bertwright.engines.base import EngineSpec
from bertwright.engines.predictor import Predictor
from bertwright.errors import CheckpointError, UsageError
from bertwright.evaluate.measure import Measurement, Target, measure_targets, model_folder
from bertwright.files import read_json
from bertwright.tasks import Task, find_task
from bertwright.tasks.judged import Judged
from bertwright.tasks.significance import Interval

__all__ = [
    "EVALUATE_KEYS",
    "Scores",
    "as_judged",
    "confusion_counts",
    "evaluate_model_dir",
    "evaluation_record",
    "make_scores",
    "sample_rows",
    "score_model_dir",
    "score_outputs",
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

    metrics: dict[str, float]
    interval: Interval
    """Of the primary metric: 95%, percentile bootstrap over rows."""
    judged: Judged
    answers: tuple[str, ...]
    """What the model said of each row, in a few words, [R]."""
    truths: tuple[str, ...]
    """What is right, in the same words, [R]."""
    sureness: tuple[float | None, ...]
    """How sure the model was, 0 to 1, where the task says so, [R]."""
    label_names: tuple[str, ...]
    """The labels of the model."""

    @property
    def task(self) -> str:
        """The task's name."""
        return self.judged.task.name

    @property
    def primary(self) -> str:
        """The name of the metric by which models are compared."""
        return self.judged.task.primary

    @property
    def score(self) -> float:
        """The primary metric."""
        return self.metrics[self.primary]

    def __len__(self) -> int:
        return len(self.judged)


def score_outputs(
    task: Task,
    logits: RowOutputs,
    encoded: EncodedRows,
    label_names: Sequence[str],
    *,
    decoding: Mapping[str, Any] | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Scores:
    """Return the metrics of outputs [N,C] against labelled features, and the primary's interval.

    Args:
        task: what is asked; its `primary` metric gets the interval.
        logits: [N,C] in the order of the features.
        encoded: N features, with labels in the order of `label_names`.
        label_names: of the model.
        decoding: what the task tuned for this model.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        UsageError: there are no rows.
    """
    if not len(encoded):
        raise UsageError("there are no rows to evaluate on")
    task, decoding = task.judging(encoded), decoding or {}
    answers = task.decode(logits, encoded.inputs(), label_names, decoding)
    described = [task.describe(answer) for answer in answers]
    return make_scores(
        Judged(task, task.judge(logits, encoded, decoding)),
        answers=[words for words, _ in described],
        truths=task.describe_truth(encoded),
        sureness=[sure for _, sure in described],
        label_names=label_names,
        num_resamples=num_resamples,
        seed=seed,
    )


def make_scores(
    judged: Judged,
    *,
    answers: Sequence[str],
    truths: Sequence[str],
    sureness: Sequence[float | None],
    label_names: Sequence[str],
    num_resamples: int = 2000,
    seed: int = 0,
) -> Scores:
    """Return the scores of answers that were judged; see `Scores`."""
    return Scores(
        metrics=judged.task.metrics(judged.statistics),
        interval=judged.interval(num_resamples=num_resamples, seed=seed),
        judged=judged,
        answers=tuple(answers),
        truths=tuple(truths),
        sureness=tuple(sureness),
        label_names=tuple(label_names),
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
        DataError: the rows have no labels.
        UnknownLabelError: the rows have a label that the model does not know.
        CheckpointError: the directory does not say what its task and labels are.
    """
    facts = _read_facts(path)
    names = tuple(str(name) for name in facts["labels"])
    if names:
        rows = rows.with_labels(LabelSet(names))
    if isinstance(spec, str):
        spec = EngineSpec.parse(spec)
    predictor = Predictor(model_folder(path), spec=spec, threads=threads)
    try:
        encoded = predictor.encode(rows)
        logits = predictor.logits_encoded(encoded)
    finally:
        predictor.close()
    return score_outputs(
        find_task(facts["task"]),
        logits,
        encoded,
        names,
        decoding=facts.get("decoding"),
        num_resamples=num_resamples,
        seed=seed,
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
    sample = sample_rows(rows, find_task(scores.task), speed_rows, seed=seed)
    target = Target(name=Path(path).name, path=Path(path), spec=str(spec))
    (measured,) = measure_targets(
        [target], sample, threads=threads, repeats=repeats, latency_rows=latency_rows
    )
    return evaluation_record(scores, measured)


def evaluation_record(scores: Scores, measured: Measurement) -> dict[str, Any]:
    """Return scores and measurement as one JSON object with the keys of `EVALUATE_KEYS`."""
    return {
        "task": scores.task,
        "num_rows": len(scores),
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


def as_judged(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a search found of a model, by the scores of rows that the search did not use.

    `score` is then what was `test_score`, and so on; what it was on the rows that chose is
    `search_score`. A record without such scores stays as it is.
    """
    judged = {k.removeprefix("test_"): v for k, v in record.items() if k.startswith("test_")}
    chosen_by = {f"search_{name}": record[name] for name in judged if name in record}
    return {**record, **judged, **chosen_by}


def sample_rows(
    rows: Rows, task: Task, count: int | None, *, seed: int = 0
) -> dict[str, list[Any]]:
    """Return what is asked (no targets) of at most `count` rows drawn at random, by column."""
    if count is not None and count < len(rows):
        drawn = np.random.default_rng(seed).choice(len(rows), size=count, replace=False)
        rows = rows.select(drawn.tolist())
    return rows.columns(task.inputs)


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
    if not isinstance(facts, dict) or not facts.keys() >= {"task", "labels"}:
        raise CheckpointError(f"{file} does not name the model's task and labels")
    return facts
