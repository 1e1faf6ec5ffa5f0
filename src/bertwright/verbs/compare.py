"""Compare ways to classify texts on one data set: score, training time, throughput."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertwright.compare import CONTENDERS
from bertwright.compare.worker import Job, parse_contender
from bertwright.config import require
from bertwright.errors import ConfigError, DataError
from bertwright.evaluate.machine import machine, versions
from bertwright.files import read_json, write_json
from bertwright.models.pooling import POOLINGS
from bertwright.progress import console
from bertwright.tasks import find_task
from bertwright.verbs.common import DataConfig, open_run_dir, read_rows

if TYPE_CHECKING:
    from bertwright.data.rows import Rows

__all__ = ["EXAMPLES", "GROUPS", "CompareConfig", "compare"]

EXAMPLES = (
    (
        "the usual ones, judged on test rows",
        "--data train.csv --eval-data dev.csv --test-data test.csv --out runs/compare",
    ),
    (
        "a list of your own, with options",
        "--contender tfidf --contender frozen:pooling=max --contender student:layers=1 "
        "--data train.csv --test-data test.csv --out runs/three",
    ),
    ("carry a broken-off one on", "--data train.csv --test-data test.csv --out runs/c --resume"),
)
GROUPS = {
    "What you give": ("data", "eval_data", "eval_share", "test_data", "reading"),
    "What is compared": ("contender", "all_poolings", "model", "max_length"),
    "How": ("seeds", "threads", "repeats", "speed_rows"),
    "Output": ("out", "resume"),
}
RESULTS, PAGE = "compare.json", "compare.html"


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare ways to classify texts on one data set.

    Counts of words, topics, n-gram vectors, language models trained on the texts, a frozen encoder,
    a fine-tuned one and its student, one after the other, each in a process of its own. One page
    shows the scores with their intervals against training time and throughput.
    """

    data: str
    """Labelled rows to learn from: a file (csv, tsv, jsonl, parquet; .gz too), folder, glob, Hub
    dataset, or builtin:train."""
    eval_data: str | None = None
    """Rows to choose epochs and penalties on. Without it, --eval-share of the rows is held out."""
    eval_share: float = 0.1
    """Share of the rows held out, when there is no --eval-data."""
    test_data: str
    """Rows that judge; no contender sees them before."""
    reading: DataConfig = field(default_factory=DataConfig)
    contender: tuple[str, ...] = ()
    """What to compare, NAME or NAME:key=value,key=value; may be given several times. Without it all
    of them: tfidf, lda, words, ngrams, bilstm-lm, causal-lm, frozen, finetune, student."""
    all_poolings: bool = False
    """The frozen encoder with each pooling, too."""
    model: str = "minilm"
    """The encoder: a Hub name, a directory, or minilm (no network needed)."""
    max_length: int = 128
    """Tokens of a text that an encoder reads."""
    seeds: int = 1
    """Seeds of each contender; scores and times are their means."""
    threads: int | None = None
    """Processor threads. Without it, all cores that this process may use."""
    repeats: int = 3
    """Rounds of the throughput measurement; the median counts."""
    speed_rows: int = 2000
    """Most texts in one round."""
    out: str
    """The run's folder: recipe.yaml, compare.json, compare.html, contenders/."""
    resume: bool = False
    """Carry on a comparison that was broken off: contenders that are done are not run again."""

    def __post_init__(self) -> None:
        require(0 < self.eval_share < 1, "eval_share", self.eval_share, "between 0 and 1")
        for name in ("seeds", "repeats", "speed_rows"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.max_length >= 2, "max_length", self.max_length, "at least 2")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "at least 1")
        for spec in self.contender:
            parse_contender(spec)
        twice = {spec for spec in self.contender if self.contender.count(spec) > 1}
        if twice:
            raise ConfigError(f"--contender {min(twice)} is given twice", hint="give each once")


def compare(config: CompareConfig) -> dict[str, Any]:
    """Run the contenders; return {"rows", "contenders", "failed", "machine", "versions", "page"}.

    A contender that fails is named with its reason, and the others go on.

    Raises:
        UsageError: an option or the data cannot be used; nothing was run.
    """
    run_dir = open_run_dir("compare", config, may_change=("contender", "all_poolings", "seeds"))
    splits, labels = _read_splits(config, run_dir)
    specs = _specs(config)
    results: dict[str, list[dict[str, Any]]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for split, values in splits.items():
            write_json(Path(folder) / f"{split}.json", values)
        for spec in specs:
            for seed in range(config.seeds):
                out = run_dir / "contenders" / f"{_file_name(spec)}-s{seed}.json"
                if not out.exists():
                    reason = _run(_job(config, spec, seed, folder, out, run_dir, len(labels)))
                    if reason:
                        failed[spec] = reason
                        console.print(f"{spec} failed: {reason}", style="yellow", markup=False)
                        break
                results.setdefault(spec, []).append(read_json(out))
                _tell(results[spec][-1])
    summary = {
        "rows": {split: len(values["texts"]) for split, values in splits.items()},
        **{"num_classes": len(labels), "data": config.data, "test_data": config.test_data},
        "contenders": [_summarise(spec, runs) for spec, runs in results.items()],
        "failed": failed,
        **{"machine": machine(), "versions": versions(), "threads": _threads(config)},
        "command": "bertwright " + " ".join(["run", str(run_dir / "recipe.yaml")]),
    }
    write_json(run_dir / RESULTS, summary)
    from bertwright.insight.comparison import render_comparison

    render_comparison(summary, run_dir / PAGE)
    return {**summary, "page": str(run_dir / PAGE)}


def _read_splits(
    config: CompareConfig, run_dir: Path
) -> tuple[dict[str, dict[str, list[Any]]], Sequence[str]]:
    """Return texts and ids of labels by split, and the labels.

    Raises:
        DataError: rows are pairs of texts.
    """
    from bertwright.data.rows import split_rows

    task = find_task("classify")
    rows = read_rows(config.data, config.reading, task, rejected_path=run_dir / "rejected.jsonl")
    labels = rows.labels
    assert labels is not None

    def read(source: str, split: str) -> Rows:
        rejected = run_dir / f"rejected-{split}.jsonl"
        return read_rows(
            source, config.reading, task, labels=labels, rejected_path=rejected, split=split
        )

    if config.eval_data is None:
        train, dev = split_rows(rows, share=config.eval_share, seed=0)
    else:
        train, dev = rows, read(config.eval_data, "validation")
    parts = {"train": train, "dev": dev, "test": read(config.test_data, "test")}
    for split, part in parts.items():
        if "text_b" in part.dataset.column_names:
            raise DataError(
                f"the {split} rows are pairs of texts; these contenders read one text",
                hint="join the two columns, or give --text-column of files with one",
            )
    values = {
        split: {"texts": list(part.dataset["text"][:]), "labels": list(part.dataset["label"][:])}
        for split, part in parts.items()
    }
    return values, labels.names


def _specs(config: CompareConfig) -> list[str]:
    """Return the contenders to run; a teacher before its students."""
    specs = list(config.contender) or list(CONTENDERS)
    if config.all_poolings:
        specs += [f"frozen:pooling={name}" for name in POOLINGS if name != "mean"]
        if "frozen" not in specs:
            specs.append("frozen")
    order = ("frozen", "finetune", "student")
    rank = {name: place for place, name in enumerate(order, start=1)}
    return sorted(specs, key=lambda spec: rank.get(spec.partition(":")[0], 0))


def _file_name(spec: str) -> str:
    kept = (c if c.isalnum() or c in "-=." else "_" for c in spec)
    return "".join(kept)


def _job(
    config: CompareConfig,
    spec: str,
    seed: int,
    rows: str,
    out: Path,
    run_dir: Path,
    num_classes: int,
) -> Job:
    return Job(
        contender=spec,
        rows=rows,
        out=str(out),
        models=str(run_dir / "models"),
        num_classes=num_classes,
        model=config.model,
        max_length=config.max_length,
        seed=seed,
        threads=_threads(config),
        repeats=config.repeats,
        speed_rows=config.speed_rows,
    )


def _threads(config: CompareConfig) -> int:
    return config.threads or len(os.sched_getaffinity(0))


def _run(job: Job) -> str | None:
    """Run the job in a process of its own; return why it failed, or None."""
    Path(job.out).parent.mkdir(parents=True, exist_ok=True)
    file = Path(job.rows) / "job.json"
    write_json(file, asdict(job))
    console.print(f"{job.contender} (seed {job.seed})", style="bold", markup=False)
    threads = {"OMP_NUM_THREADS": str(job.threads), "MKL_NUM_THREADS": str(job.threads)}
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", "bertwright.compare.worker", str(file)]
        done = subprocess.run(command, env=os.environ | threads, stderr=log, check=False)
        if done.returncode == 0:
            return None
        log.seek(0)
        lines = [line.strip() for line in log.read().splitlines() if line.strip()]
    return lines[-1] if lines else f"the process ended with {done.returncode}"


def _tell(result: Mapping[str, Any]) -> None:
    console.print(
        f"  {result['primary']} {result['score']:.4f}, trained in {result['train_s']:.0f} s, "
        f"{result['throughput_texts_s']:,.0f} texts/s",
        markup=False,
        highlight=False,
    )


def _summarise(spec: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a contender's means over its seeds, the interval's ends too."""
    keys = ("score", "score_low", "score_high", "train_s", "throughput_texts_s")
    means = {key: statistics.mean(run[key] for run in runs) for key in (*keys, "size_mb")}
    return {
        "name": spec,
        "primary": runs[0]["primary"],
        **means,
        "peak_memory_mb": max(run["peak_memory_mb"] for run in runs),
        "seeds": len(runs),
        "scores": [run["score"] for run in runs],
        "metrics": {
            name: statistics.mean(run["metrics"][name] for run in runs)
            for name in runs[0]["metrics"]
        },
        "options": runs[0]["options"],
    }
