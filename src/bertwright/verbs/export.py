"""Write a model in a form that others load."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bertwright.config import config_from_strings, require
from bertwright.data.rows import Rows
from bertwright.data.tokenise import tokenise
from bertwright.errors import ConfigError
from bertwright.evaluate.measure import model_folder
from bertwright.files import folder_size_mb
from bertwright.methods.quantize.static_ranges import StaticRanges, StaticRangesConfig
from bertwright.models.export import export_transformers
from bertwright.models.multi import head_folder
from bertwright.models.sentence_transformers import export_sentence_transformers
from bertwright.models.task_model import TaskModel
from bertwright.registry import split_spec
from bertwright.tasks import find_task
from bertwright.verbs.common import DataConfig, read_rows, refuse_full, saved_task

if TYPE_CHECKING:
    from bertwright.engines.artifact import Artifact

__all__ = ["EXAMPLES", "GROUPS", "ExportConfig", "ExportResult", "export"]

EXAMPLES = (
    (
        "for AutoModelForSequenceClassification",
        "--model runs/mine --format transformers --out exported",
    ),
    (
        "an embedding model, for SentenceTransformer",
        "--model runs/vectors --format sentence-transformers --out exported",
    ),
    (
        "the fastest on most processors",
        "--model runs/small --format openvino --precision int8 --data train.csv --out served",
    ),
    (
        "where int8 costs score: another way to find the ranges",
        "--model runs/small --format openvino --precision int8 --ranges mse:smooth=0.5 "
        "--data train.csv --out served",
    ),
    ("the most portable", "--model runs/small --format onnx --out served-onnx"),
)
GROUPS = {
    "What you give": ("model", "head", "data", "eval_data", "reading"),
    "Output": ("format", "precision", "ranges", "table_bits", "tolerance_points", "threads", "out"),
}
ENGINE_OF = {"onnx": "onnxruntime", "openvino": "openvino"}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a model so that transformers, sentence-transformers, ONNX Runtime or OpenVINO load it.

    The numbers are compared with torch's on real rows, and an export that answers differently is
    refused.
    """

    model: str
    """A run or model folder."""
    head: str | None = None
    """Which head, of a model that has several (bertwright multitask)."""
    format: Literal["transformers", "sentence-transformers", "onnx", "openvino"]
    """Who is to load it."""
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    """Number format. int8 needs --data with labels: for calibration, and to see that the score
    holds."""
    data: str = "builtin:dev"
    """Rows to compare the numbers on (and to calibrate int8 with): best, the training rows."""
    eval_data: str | None = None
    """Labelled rows on which an export in int8 or bf16 must hold its score. Without it, a tenth of
    --data for int8. A model with early exits needs them: its threshold is found anew on them."""
    reading: DataConfig = field(default_factory=lambda: DataConfig(max_rows=2000))
    ranges: str | None = None
    """How OpenVINO's int8 finds the ranges of activations: min-max, percentile or mse, with options
    percentile:percentile=99.9,smooth=0.5 (`bertwright methods static_ranges`). Without it those
    that training with qat learned, or by NNCF."""
    table_bits: Literal["8", "4"] = "8"
    """Bits a number of the word embeddings in int8. With 4 the file is smaller; where that costs
    too much score they have 8 all the same."""
    tolerance_points: float = 0.5
    """Most points (hundredths) of the score that int8 may cost; beyond, the worst layers stay in
    higher precision, or the export is refused."""
    threads: int | None = None
    """Processor threads. Without it, as the engine chooses."""
    out: str
    """Folder to write."""

    def __post_init__(self) -> None:
        require(self.tolerance_points >= 0, "tolerance_points", self.tolerance_points, "at least 0")
        if self.format not in ENGINE_OF and self.precision != "fp32":
            raise ConfigError(
                f"--precision {self.precision}: a {self.format} folder is written in fp32",
                hint="--format onnx or openvino",
            )
        if self.ranges is not None:
            static_ranges(self.ranges)
            if (self.format, self.precision) != ("openvino", "int8"):
                raise ConfigError(
                    f"--ranges {self.ranges} is for OpenVINO's int8",
                    hint="--format openvino --precision int8, or leave it out",
                )
        if self.table_bits != "8" and self.precision != "int8":
            raise ConfigError(
                f"--table-bits {self.table_bits} goes with --precision int8", hint="or leave it out"
            )
        if self.precision == "int8" and self.data.startswith("builtin"):
            raise ConfigError(
                "--precision int8 needs --data: labelled rows like those it will meet",
                hint="give the training file",
            )


def static_ranges(spec: str) -> StaticRanges:
    """Return what finds the ranges as `--ranges` says.

    Raises:
        ConfigError: there is no such way, or an option is unknown or out of range.
    """
    by, options = split_spec(spec, "--ranges")
    source = f"--ranges {spec}"
    return StaticRanges(
        config_from_strings(StaticRangesConfig, {"by": by, **options}, source=source)
    )


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written, and how its numbers compare with torch's."""

    out: Path
    format: str
    task: str
    """Of the model, with its options."""
    precision: str
    size_mb: float
    parity: dict[str, Any]
    """Differences of the logits on real rows; empty for `transformers`, which is the same code."""
    score: dict[str, Any] = field(default_factory=dict)
    """What int8 and bf16 cost on labelled rows, in points: see `artifact.json`."""
    table_bits: int | None = None
    """Bits a number of the word embeddings; None where it is not int8."""
    weight_bits: int | None = None
    """What matrices have in int8 on this processor: 7 where it has no VNNI."""


def export(config: ExportConfig) -> ExportResult:
    """Export as `config` says. An existing, non-empty folder is refused.

    Raises:
        UsageError: the model, the data or the folder cannot be used.
        ParityError: the exported model answers differently, or int8 costs too much.
    """
    out = Path(config.out)
    refuse_full(out)
    source = model_folder(head_folder(config.model, config.head))
    parity: dict[str, Any] = {}
    score: dict[str, Any] = {}
    table_bits = weight_bits = None
    if config.format == "transformers":
        export_transformers(source, out)
    elif config.format == "sentence-transformers":
        export_sentence_transformers(source, out)
    else:
        artifact = _compile(config, source, out)
        parity, table_bits = dict(artifact.parity), artifact.facts.get("table_bits")
        weight_bits = _weight_bits() if config.precision == "int8" else None
        score = dict(artifact.score) if config.precision != "fp32" else {}
    return ExportResult(
        out=out,
        format=config.format,
        task=saved_task(str(source))[0].spec,
        precision=config.precision,
        size_mb=folder_size_mb(out),
        parity=parity,
        score=score,
        table_bits=table_bits,
        weight_bits=weight_bits,
    )


def _weight_bits() -> int:
    from bertwright.engines.exact_sums import exact_weight_bits

    return exact_weight_bits()


def _compile(config: ExportConfig, source: Path, out: Path) -> Artifact:
    from bertwright.engines.base import EngineSpec
    from bertwright.engines.compile import compile_model

    model = TaskModel.load(source)

    def encode(rows: Rows):
        return tokenise(
            rows,
            model.tokenizer,
            encoder=find_task(model.task).encoder,
            max_length=model.max_length,
        )

    quantized = config.precision == "int8"
    task, labels = saved_task(str(source))
    rows = read_rows(config.data, config.reading, task, labels=labels, need_label=quantized)
    dev = None
    if config.precision != "fp32" and config.eval_data is not None:
        dev = read_rows(config.eval_data, config.reading, task, labels=labels, split="test")
    elif quantized and model.exits is None:  # exits may have learned from these rows
        order = np.random.default_rng(0).permutation(len(rows))
        cut = max(1, len(rows) // 10)
        dev, rows = rows.select(sorted(order[:cut])), rows.select(sorted(order[cut:]))
    encoded = encode(rows)
    with contextlib.ExitStack() as stack:
        if config.ranges is not None:
            model = static_ranges(config.ranges).apply(model, encoded)
            source = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
            model.save(source)
        return compile_model(
            source,
            EngineSpec.parse(f"{ENGINE_OF[config.format]}:{config.precision}"),
            out,
            calibration=encoded if quantized else None,
            parity=encoded.select(range(min(len(encoded), 256))),
            dev=encode(dev) if dev is not None else None,
            tolerance_points=config.tolerance_points,
            table_bits=4 if config.table_bits == "4" else 8,
            threads=config.threads,
        )
