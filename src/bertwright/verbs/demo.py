"""The whole road on built-in text: teacher, students, engines, frontier, report, predictions."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from bertwright.compress.config import SearchConfig
from bertwright.progress import console
from bertwright.training.config import TrainingConfig
from bertwright.verbs.common import DataConfig
from bertwright.verbs.compress import CompressConfig, CompressResult, compress
from bertwright.verbs.finetune import FinetuneConfig, finetune
from bertwright.verbs.predict import PredictConfig, predict

__all__ = ["EXAMPLES", "GROUPS", "DemoConfig", "DemoResult", "demo"]

EXAMPLES = (
    ("the whole road, under 20 minutes on two cores", ""),
    ("a look at it in a few minutes", "--max-rows 1000 --epochs 1 --student-epochs 1 --out d"),
    ("from the start, though an earlier one is there", "--fresh"),
)
GROUPS = {
    "What it does": ("keep", "min_speedup", "epochs", "student_epochs", "max_rows"),
    "Output": ("out", "fresh"),
}

SAMPLES = (
    "Return evenly spaced numbers over a specified interval.",
    "Fit the model to data matrix X and target(s) y.",
    "Applies a 2D convolution over an input signal composed of several input planes.",
    "Open a pipe to or from a subprocess and wait for it to finish.",
)


DEMO_SEARCH = SearchConfig(
    depths=(3, 2), students=("control", "distil", "fitted"), engines=("openvino",), repeats=3
)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Fine-tune a teacher on the built-in corpus, compress it, choose, report and predict.

    The corpus is sentences from the docstrings of the libraries installed here; the task is to
    tell which library a sentence is from. Nothing is downloaded.
    """

    keep: float = 0.98
    """Least share of the teacher's score to keep."""
    min_speedup: float = 6.0
    """Least throughput, as a multiple of the teacher's through transformers' pipeline in fp32."""
    epochs: float = 3.0
    """Passes over the rows for the teacher."""
    student_epochs: float = 2.0
    """Passes over the rows for each student."""
    max_rows: int | None = None
    """Use only so many rows, for a quick look."""
    out: str = "runs/demo"
    """Folder for all of it: teacher/ and small/, with report.html."""
    fresh: bool = False
    """Begin anew, deleting what an earlier demo left in --out. Otherwise what it finished is used
    again, and only the measuring is repeated."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Where things are, and what the chosen model says of a few sentences."""

    teacher_dir: Path
    compressed: CompressResult
    predictions: list[dict]

    @property
    def met(self) -> bool:
        """Whether the budget is met."""
        return self.compressed.met


def demo(config: DemoConfig) -> DemoResult:
    """Run the demo as `config` says.

    Raises:
        ConfigError: the folder holds a demo with other options, or something else.
    """
    out = Path(config.out)
    teacher, small = out / "teacher", out / "small"
    if config.fresh:
        for folder in (teacher, small):
            shutil.rmtree(folder, ignore_errors=True)
    reading = DataConfig(max_rows=config.max_rows)
    if not (teacher / "model" / "bertwright.json").exists():
        console.rule("teacher", align="left")
        finetune(
            FinetuneConfig(
                data="builtin:train",
                eval_data="builtin:dev",
                reading=reading,
                training=TrainingConfig(epochs=config.epochs, lr=3e-4, batch_size=64),
                out=str(teacher),
                resume=teacher.exists(),
            )
        )
    compressed = compress(
        CompressConfig(
            model=str(teacher),
            data="builtin:train",
            eval_data="builtin:dev",
            test_data="builtin:test",
            reading=reading,
            keep=config.keep,
            min_speedup=config.min_speedup,
            search=DEMO_SEARCH,
            training=TrainingConfig(
                epochs=config.student_epochs, lr=4e-4, batch_size=64, evals_per_epoch=1
            ),
            out=str(small),
            resume=small.exists(),
        )
    )
    console.rule("predict", align="left")
    predictions = predict(PredictConfig(model=str(small), text=SAMPLES)).rows
    return DemoResult(teacher_dir=teacher, compressed=compressed, predictions=predictions)
