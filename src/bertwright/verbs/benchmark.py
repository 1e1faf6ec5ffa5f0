"""Measure several models and engines side by side."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertwright.config import require
from bertwright.errors import ConfigError
from bertwright.evaluate.evaluate import sample_rows
from bertwright.evaluate.machine import machine, versions
from bertwright.evaluate.measure import Target, measure_targets
from bertwright.tasks import Task, find_task
from bertwright.verbs.common import InputConfig, read_rows, saved_task, serving_model

__all__ = ["EXAMPLES", "GROUPS", "BenchmarkConfig", "benchmark"]

EXAMPLES = (
    (
        "two engines and a small model",
        "--target runs/mine --target runs/mine@openvino:fp32 --target runs/small --data test.csv",
    ),
    (
        "against transformers' own pipeline, on a stock export",
        "--target exported@pipeline --target runs/small --data test.csv",
    ),
)
GROUPS = {
    "What you give": ("target", "data", "reading"),
    "How it is measured": ("threads", "repeats", "latency_rows", "speed_rows", "seed"),
}


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Measure speed, size and memory of several models and engines side by side.

    Each runs in a process of its own, with the same threads and texts, and they take turns. Scores
    are the affair of `bertwright evaluate`.
    """

    target: tuple[str, ...]
    """What to measure; give it several times. The engine is torch, onnxruntime or openvino, with
    :fp32, :bf16 or :int8; or pipeline, for transformers' own on a stock folder."""
    data: str = "builtin:test"
    """Texts to run; labels are not needed."""
    reading: InputConfig = field(default_factory=InputConfig)
    threads: int | None = None
    """Processor threads. Without it, all cores that this process may use."""
    repeats: int = 5
    """Rounds of the throughput measurement; the median counts."""
    latency_rows: int = 200
    """Texts answered one by one, for the latency."""
    speed_rows: int = 2000
    """Most texts in one round of the throughput measurement."""
    seed: int = 0
    """Of the texts drawn."""

    def __post_init__(self) -> None:
        if not self.target:
            raise ConfigError(
                "--target is missing", hint="give what to measure: --target runs/mine"
            )
        for name in ("repeats", "latency_rows", "speed_rows"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "at least 1")


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Return {"machine", "versions", "num_texts", "targets": [one measurement each, in order]}.

    Raises:
        UsageError: a target or the data cannot be used.
        WorkerError: a measuring process failed.
    """
    targets = [_read_target(word) for word in dict.fromkeys(config.target)]
    task = next(map(_task_of, targets))
    rows = read_rows(config.data, config.reading, task, need_label=False, split="test")
    sample = sample_rows(rows, task, config.speed_rows, seed=config.seed)
    measured = measure_targets(
        targets,
        sample,
        threads=config.threads,
        repeats=config.repeats,
        latency_rows=config.latency_rows,
    )
    return {
        "machine": machine(),
        "versions": versions(),
        "num_texts": len(next(iter(sample.values()))),
        "targets": [dataclasses.asdict(measurement) for measurement in measured],
    }


def _task_of(target: Target) -> Task:
    """Return what a target is for: the pipeline's stock models classify."""
    return find_task("classify") if target.kind == "pipeline" else saved_task(str(target.path))[0]


def _read_target(word: str) -> Target:
    place, at, engine = word.rpartition("@")
    if not at:
        place, engine = word, ""
    path = Path(place)
    if not path.exists():
        raise ConfigError(
            f"--target {word}: there is no {place}", hint="give a folder, or FOLDER@ENGINE"
        )
    if engine == "pipeline":
        if not (path / "config.json").exists():
            raise ConfigError(
                f"--target {word}: {place} is not a stock transformers folder",
                hint=f"bertwright export --model {place} --format transformers --out FOLDER",
            )
        return Target(name=word, path=path, kind="pipeline")
    folder, spec = serving_model(place, engine or None)
    return Target(name=word, path=folder, spec=str(spec))
