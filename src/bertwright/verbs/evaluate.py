"""Score one model and measure its speed, size and memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bertwright.config import require
from bertwright.evaluate.evaluate import evaluate_model_dir
from bertwright.models.multi import head_folder
from bertwright.verbs.common import DataConfig, read_rows, saved_task, serving_model

__all__ = ["EXAMPLES", "GROUPS", "EvaluateConfig", "evaluate"]

EXAMPLES = (
    ("a table to read", "--model runs/mine --data test.csv"),
    ("one JSON object for a program", "--model runs/small --data test.csv --json"),
    (
        "the same weights under another engine",
        "--model runs/mine --data test.csv --engine openvino",
    ),
)
GROUPS = {
    "What you give": ("model", "head", "data", "reading"),
    "How it is measured": (
        "engine",
        "threads",
        "repeats",
        "latency_rows",
        "speed_rows",
        "seed",
    ),
}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score a model on labelled rows, and measure its speed, size and memory.

    The score has a 95% bootstrap interval. Speed is measured in a process of its own: text in,
    label out, tokenization included.
    """

    model: str
    """A run, model or exported folder; for vectors also a folder of sentence-transformers, or
    minilm."""
    head: str | None = None
    """Which head, of a model that has several (bertwright multitask)."""
    data: str
    """Labelled rows: a file, folder, glob, Hub dataset, or builtin:test."""
    reading: DataConfig = field(default_factory=DataConfig)
    engine: str | None = None
    """torch, onnxruntime or openvino; with :fp32, :bf16 or :int8. An exported folder has its own,
    any other is run by torch:fp32."""
    threads: int | None = None
    """Processor threads. Without it, all cores that this process may use."""
    repeats: int = 5
    """Rounds of the throughput measurement; the median counts."""
    latency_rows: int = 200
    """Texts answered one by one, for the latency."""
    speed_rows: int = 2000
    """Most texts in one round of the throughput measurement."""
    seed: int = 0
    """Of the bootstrap, and of the texts drawn."""

    def __post_init__(self) -> None:
        for name in ("repeats", "latency_rows", "speed_rows"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "at least 1")


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Return one object: task, num_rows, metrics, score and interval, engine, speed, size, memory.

    Raises:
        UsageError: the model, the data or the engine cannot be used.
        WorkerError: the measuring process failed.
    """
    model = str(head_folder(config.model, config.head))
    folder, spec = serving_model(model, config.engine)
    task, labels = saved_task(model)
    rows = read_rows(config.data, config.reading, task, labels=labels, split="test")
    return evaluate_model_dir(
        folder,
        rows,
        spec,
        threads=config.threads,
        repeats=config.repeats,
        latency_rows=config.latency_rows,
        speed_rows=config.speed_rows,
        seed=config.seed,
    )
