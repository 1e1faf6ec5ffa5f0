"""Make a teacher small and fast: try students and engines, measure all, choose by budget."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertwright.compress.budget import Budget, Choice, Prefer
from bertwright.compress.config import SearchConfig
from bertwright.compress.pipeline import SearchRows, search
from bertwright.config import config_to_dict, require
from bertwright.data.labels import LabelSet
from bertwright.data.rows import Rows, split_rows
from bertwright.errors import DataError
from bertwright.evaluate.measure import model_folder
from bertwright.insight.report import render_report
from bertwright.models.multi import head_folder
from bertwright.models.task_model import TaskModel
from bertwright.tasks import Task
from bertwright.training.config import TrainingConfig
from bertwright.verbs.common import (
    DataConfig,
    open_run_dir,
    read_rows,
    read_train_and_eval,
    saved_task,
)
from bertwright.verbs.distil_rows import generator_of, with_more_rows

__all__ = ["EXAMPLES", "GROUPS", "CompressConfig", "CompressResult", "compress", "read_search"]

HELPER_COMMAND = (sys.executable, "-m", "bertwright.verbs.compress_helper")

EXAMPLES = (
    (
        "keep 99% of the score, as fast as that can be",
        "--model runs/intents --data train.csv --eval-data dev.csv --keep 0.99 --out runs/small",
    ),
    (
        "a latency and a size to hold, and a test set to report on",
        "--model runs/intents --data train.csv --eval-data dev.csv --test-data test.csv "
        "--max-latency-ms 5 --max-size-mb 40 --out runs/small",
    ),
    (
        "one depth, one engine, three seeds",
        "--model runs/intents --data train.csv --eval-data dev.csv --depths 3 --engines openvino "
        "--seeds 3 --out runs/small-3",
    ),
    (
        "the best that half an hour finds",
        "--model runs/intents --data train.csv --eval-data dev.csv --minutes 30 --out runs/small",
    ),
    (
        "carry on a search that was broken off, or whose time was up",
        "--model runs/intents --data train.csv --out runs/small --resume",
    ),
)
GROUPS = {
    "What you give": (
        *("model", "head", "data", "eval_data", "eval_share", "test_data", "judge_share"),
        "reading",
    ),
    "More to learn from": ("more_text", "generate"),
    "Budget": ("keep", "confident", "max_latency_ms", "min_speedup", "max_size_mb"),
    "Search": ("search",),
    "Training of each student": ("training",),
    "Output": ("out", "resume"),
}

MAY_CHANGE_ON_RESUME = (
    *("keep", "confident", "max_latency_ms", "min_speedup", "max_size_mb", "prefer"),
    *("depths", "narrow", "small", "students", "exits", "elastic_sizes", "jobs"),
    *("engines", "precisions", "seeds"),
    *("repeats", "measure_rows", "latency_rows", "minutes"),
)
"""What no finished student depends on: with other values they are used again all the same."""


@dataclass(frozen=True, kw_only=True)
class CompressConfig:
    """Try students and engines, measure them all on this machine, and choose by budget.

    The search always ends with a model: when none meets the budget, with the nearest, and exit
    status 1.
    """

    model: str
    """The teacher: a finetune run or model folder."""
    head: str | None = None
    """Which head, of a model that has several (bertwright multitask)."""
    data: str
    """Labelled rows to train the students on; best, those the teacher was trained on."""
    eval_data: str | None = None
    """Labelled rows to choose by. Without it, --eval-share of the rows is held out."""
    eval_share: float = 0.1
    """Share of the rows held out, when there is no --eval-data."""
    test_data: str | None = None
    """Labelled rows that choose nothing: the report's scores are of these. Without it,
    --judge-share of the rows to choose by is set aside for that."""
    judge_share: float = 0.3
    """Share of the rows to choose by that judges in their place, when there is no --test-data; 0:
    none, and the scores are of rows that chose, which flatters the chosen."""
    reading: DataConfig = field(default_factory=DataConfig)
    more_text: tuple[str, ...] = ()
    """Texts without labels, which the teacher answers for the students; a file, folder, glob or Hub
    dataset; may be given several times."""
    generate: str | None = None
    """Make so many other texts of each row, which the teacher answers: 4, or with options
    copies=4,replace=0.4 (`bertwright methods transfer_set`)."""
    keep: float | None = 0.99
    """Least share of the teacher's score to keep."""
    confident: bool = False
    """The lower end of the share's 95% interval must keep it, and not the share alone: with few
    rows to choose by, nothing small may be sure enough."""
    max_latency_ms: float | None = None
    """Most milliseconds for one text (median, tokenization included)."""
    min_speedup: float | None = None
    """Least throughput, as a multiple of the teacher's through transformers' pipeline in fp32."""
    max_size_mb: float | None = None
    """Most megabytes on disk, tokenizer included."""
    search: SearchConfig = field(default_factory=SearchConfig)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(epochs=6, lr=3e-4, evals_per_epoch=1)
    )
    out: str
    """Folder of the search: model/ and artifact/ (the chosen), frontier.json, report.html, and the
    students/ and artifacts/ tried."""
    resume: bool = False
    """Carry on a search that was broken off, or ask it anew: finished students are not trained
    again, and the budget, the engines and the measuring may be others."""

    def __post_init__(self) -> None:
        require(0 < self.eval_share < 1, "eval_share", self.eval_share, "between 0 and 1")
        require(0 <= self.judge_share < 1, "judge_share", self.judge_share, "at least 0, below 1")
        self.budget()
        generator_of(self)

    def budget(self) -> Budget:
        """Return the limits asked for."""
        return Budget(
            keep=self.keep,
            confident=self.confident,
            max_latency_ms=self.max_latency_ms,
            min_speedup=self.min_speedup,
            max_size_mb=self.max_size_mb,
        )


@dataclass(frozen=True, kw_only=True)
class CompressResult:
    """What a search found."""

    run_dir: Path
    model_dir: Path
    """The chosen model, to load and to train further."""
    artifact_dir: Path
    """The chosen model in the chosen engine, to predict and serve with."""
    report: Path
    frontier: dict[str, Any]
    """What frontier.json holds."""
    choice: Choice
    prefer: Prefer

    @property
    def chosen(self) -> dict[str, Any]:
        """The chosen candidate with everything measured."""
        return next(c for c in self.frontier["candidates"] if c["name"] == self.choice.name)

    @property
    def met(self) -> bool:
        """Whether the budget is met."""
        return self.choice.met


def _with_more_rows(
    config: CompressConfig,
    rows: Rows,
    model: str,
    task: Task,
    labels: LabelSet | None,
    run_dir: Path,
) -> Rows | None:
    """Return the rows with those that the teacher answers; None where none are asked for."""
    if not (config.more_text or config.generate):
        return None
    teacher = TaskModel.load(model_folder(model))
    return with_more_rows(config, rows, teacher, task, labels, run_dir)


def _rows_that_judge(
    config: CompressConfig, dev: Rows, task: Task, labels: LabelSet | None
) -> tuple[Rows, Rows | None]:
    """Return the rows to choose by and those that judge what was chosen, if there are to be any."""
    if config.test_data is not None:
        rows = read_rows(config.test_data, config.reading, task, labels=labels, split="test")
        return dev, rows
    if not config.judge_share:
        return dev, None
    try:
        return split_rows(dev, share=config.judge_share, seed=config.training.seed)
    except DataError as error:
        raise DataError(
            f"{len(dev):,} rows to choose by are too few to set {config.judge_share:.0%} aside "
            "that judge what was chosen",
            path=dev.source,
            hint="give --test-data, more rows, or --judge-share 0",
        ) from error


def _where_judged(config: CompressConfig, test: Rows) -> str:
    where = config.test_data or "set aside of the rows to choose by"
    return f"{where} ({len(test):,} rows)"


def _saved_model(config: CompressConfig) -> str:
    """Return the folder of the teacher, which is there and has a task.

    Raises:
        UsageError: it is not, or has not.
    """
    model = str(head_folder(config.model, config.head))
    saved_task(model)
    return model


def read_search(config: CompressConfig, run_dir: Path) -> tuple[Path, SearchRows]:
    """Return the folder of the teacher and the rows of a search in `run_dir`."""
    model = _saved_model(config)
    task, labels = saved_task(model)
    train, dev = read_train_and_eval(config, run_dir, task, labels=labels)
    dev, test = _rows_that_judge(config, dev, task, labels)
    more = _with_more_rows(config, train, model, task, labels, run_dir)
    return model_folder(model), SearchRows(train, dev, test, more)


def compress(config: CompressConfig) -> CompressResult:
    """Search as `config` says; see `bertwright.compress.pipeline.search`.

    Raises:
        UsageError: an option, the data or the model cannot be used.
    """
    _saved_model(config)
    run_dir = open_run_dir("compress", config, may_change=MAY_CHANGE_ON_RESUME)
    model_dir, rows = read_search(config, run_dir)
    result = search(
        model_dir,
        rows,
        budget=config.budget(),
        config=config.search,
        training=config.training,
        out=run_dir,
        command=shlex.join(["bertwright", "run", str(run_dir / "recipe.yaml"), "--out", "AGAIN"]),
        helper_command=HELPER_COMMAND,
    )
    extras = {
        **result.extras,
        "title": f"Compression of {_saved_model(config)}",
        "data": {
            "train": f"{config.data} ({len(rows.train):,} rows)",
            "dev": f"{config.eval_data or 'held out of it'} ({len(rows.dev):,} rows)",
            **({} if rows.test is None else {"judged by": _where_judged(config, rows.test)}),
        },
        "recipe": config_to_dict(config),
    }
    report = render_report(result.frontier, extras, run_dir / "report.html")
    return CompressResult(
        run_dir=run_dir,
        model_dir=run_dir / "model",
        artifact_dir=run_dir / "artifact",
        report=report,
        frontier=result.frontier,
        choice=result.choice,
        prefer=config.search.prefer,
    )
