"""Label texts with a model."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from bertwright.config import require
from bertwright.errors import ConfigError, FileFormatError
from bertwright.files import atomic_file
from bertwright.models.multi import head_folder
from bertwright.progress import Progress
from bertwright.verbs.common import InputConfig, read_rows, saved_task, serving_model

__all__ = ["EXAMPLES", "GROUPS", "PredictConfig", "Predictions", "predict", "read_lines"]

EXAMPLES = (
    ("one text", '--model runs/small --text "book me a table for two"'),
    ("a file", "--model runs/small --input texts.jsonl --output labels.jsonl"),
    ("in a pipe: plain lines in, JSON lines out", "--model runs/small --input - < texts.txt"),
)
GROUPS = {
    "What you give": ("model", "head", "text", "input", "reading"),
    "How it runs": ("engine", "threads"),
    "Output": ("output",),
}
STANDARD = "-"
CHUNK_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Answer for each row what the model was trained for: its label, entities, vector, ...

    Each answer is a JSON object: row, the text, and what the task gives; of a classifier label,
    score and the best five labels with their probabilities. The order is that of the input.
    """

    model: str
    """A run, model or exported folder; for vectors also a folder of sentence-transformers, or
    minilm."""
    head: str | None = None
    """Which head, of a model that has several (bertwright multitask)."""
    text: tuple[str, ...] = ()
    """A text to label; may be given several times."""
    input: str | None = None
    """Rows to label: a file (csv, tsv, jsonl, parquet; .gz too; txt has one text a line), folder,
    glob, Hub dataset, or - for standard input (JSON objects or plain text, one a line)."""
    reading: InputConfig = field(default_factory=InputConfig)
    engine: str | None = None
    """torch, onnxruntime or openvino; with :fp32, :bf16 or :int8. An exported folder has its own,
    any other is run by torch:fp32."""
    threads: int | None = None
    """Processor threads. Without it, as the engine chooses."""
    output: str = STANDARD
    """File to write, JSON lines; - for standard output."""

    def __post_init__(self) -> None:
        if bool(self.text) == (self.input is not None):
            raise ConfigError(
                "give either --text or --input", hint='for example --text "book me a table"'
            )
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "at least 1")


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What was predicted. `rows` is empty when the answers went to a file or a stream."""

    rows: list[dict[str, Any]]
    num_rows: int
    seconds: float
    output: str


def predict(config: PredictConfig, *, stream: TextIO | None = None) -> Predictions:
    """Label the texts and give the answers back, or write them to a file or to `stream`.

    A file is written whole or not at all; memory stays bounded however many rows there are.

    Raises:
        UsageError: the model, the input or the engine cannot be used.
    """
    from bertwright.engines.predictor import Predictor

    model = str(head_folder(config.model, config.head))
    folder, spec = serving_model(model, config.engine)
    predictor = Predictor(folder, spec=spec, threads=config.threads)
    source: Any = [{"text": text} for text in config.text]
    if config.input == STANDARD:
        source = list(read_lines(sys.stdin, "<stdin>"))
    elif config.input is not None and config.input.endswith(".txt"):
        if not Path(config.input).is_file():
            raise FileFormatError("no such file", path=config.input)
        with open(config.input, encoding="utf-8") as file:
            source = list(read_lines(file, config.input))
    elif config.input is not None:
        source = config.input
    rejected = None if config.output == STANDARD else Path(config.output).parent / "rejected.jsonl"
    task, _ = saved_task(model)
    rows = read_rows(
        source, config.reading, task, need_label=False, rejected_path=rejected, split="test"
    )
    began = time.perf_counter()
    kept: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        if config.output != STANDARD:
            file = stack.enter_context(atomic_file(config.output))
            stream = io.TextIOWrapper(file, encoding="utf-8")  # type: ignore[arg-type]
            stack.callback(stream.detach)
        bar = stack.enter_context(Progress("predict", total=len(rows), unit="texts"))
        for start in range(0, len(rows), CHUNK_ROWS):
            part = rows.select(range(start, min(start + CHUNK_ROWS, len(rows))))
            asked = part.columns(task.inputs)
            answers = predictor.predict_rows(asked)
            found = _join(part.row_numbers().tolist(), asked, task.shown, answers)
            if stream is None:
                kept.extend(found)
            else:
                stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
                stream.flush()
            bar.advance(len(part))
    return Predictions(
        rows=kept,
        num_rows=len(rows),
        seconds=time.perf_counter() - began,
        output=config.output,
    )


def read_lines(lines: Iterable[str], name: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each line that is not blank: a JSON object, or plain text.

    The first such line decides which: all are JSON when it begins with a brace.

    Raises:
        FileFormatError: a line among JSON objects is not one.
    """
    as_json: bool | None = None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if as_json is None:
            as_json = line.lstrip().startswith("{")
        if not as_json:
            yield {"text": line.rstrip("\r\n")}
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise FileFormatError(f"not JSON: {error.msg}", path=name, line=number) from None
        if not isinstance(row, dict):
            raise FileFormatError("not a JSON object", path=name, line=number)
        yield row


def _join(
    numbers: Iterable[int],
    asked: Mapping[str, Sequence[Any]],
    shown: Sequence[str],
    answers: list[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    columns = [name for name in shown if name in asked]
    for place, (number, answer) in enumerate(zip(numbers, answers, strict=True)):
        yield {"row": number, **{name: asked[name][place] for name in columns}, **answer}
