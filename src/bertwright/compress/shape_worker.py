"""The process that times models of given shapes, and everything around a model that is text.

One request comes on stdin as JSON; progress and the answer go out as JSON lines on what was stdout.
Models are parts of a saved one, made, compiled and opened here, all of them, once for each number
of streams; then they have turns, round after round, each batch size in each, starting with another
model each round. A first round is thrown away, and medians count.

Request: `{"model", "spec", "threads", "streams": [1, 2], "models": [[layers, heads, neurons], ...],
"cells": [[rows, tokens], ...], "rounds", "rows_file"}`. Lines: `{"done", "of"}`, at the end
`{"seconds": [[[...], ...], ...], "text_s", "text_one_s"}`, by streams, models, cells.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.compress.latency_table import Cell, LayerShape, MeasuredModel
from bertwright.engines.base import Batch, EngineSpec, Session, load_engine
from bertwright.engines.parity import random_parity_batches
from bertwright.engines.predictor import Predictor
from bertwright.methods.distil.student_init import choose_layers
from bertwright.models.build import copy_with_first, copy_with_layers
from bertwright.models.task_model import TaskModel
from bertwright.models.widths import widths_of

__all__ = ["NoSession", "cut_model", "main", "time_text"]

_LEAST_S = 0.02
"""A batch that takes less is run again until so much time has passed."""
_BATCHES_PER_STREAM = 4


def cut_model(model: TaskModel, wanted: MeasuredModel) -> TaskModel:
    """Return the first layers of a model, with the first heads and neurons of each."""
    smaller = copy_with_layers(model, choose_layers(model.roles.num_layers, wanted.layers, "first"))
    widths, shape = widths_of(smaller.encoder), wanted.shape
    return copy_with_first(
        smaller,
        heads=shape.heads if widths.heads else None,
        neurons=shape.neurons if widths.neurons else None,
    )


class NoSession:
    """Answers at once, with zeros: what is left of a prediction is the work around the model."""

    def __init__(self, shape: Callable[[np.ndarray], tuple[int, ...]]) -> None:
        self.precision = "fp32"
        self._shape = shape

    def __call__(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        token_type_ids: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return zeros of the shape of the model's outputs."""
        return np.zeros(self._shape(input_ids), np.float32)

    def run_many(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        """Yield zeros for each batch."""
        for batch in batches:
            yield self(**batch)

    def close(self) -> None:
        """Nothing is held."""


def time_text(
    path: str | Path, rows: Mapping[str, Sequence[Any]], rounds: int
) -> tuple[float, float]:
    """Return what splitting, padding, gathering and decoding take, in seconds a row.

    Args:
        path: of a saved model.
        rows: by column.
        rounds: medians of so many.

    Returns:
        In a call with all rows, and in calls with one row each.
    """
    predictor = Predictor(path, spec="torch:fp32", threads=1)
    width = predictor.session(*_one_batch((1, 2), 2).values()).shape
    by_token = len(width) == 3
    predictor.session = NoSession(lambda ids: (*ids.shape[: 1 + by_token], width[-1]))
    num_rows = len(next(iter(rows.values())))
    singles = [
        {name: column[i : i + 1] for name, column in rows.items()} for i in range(min(50, num_rows))
    ]
    together, alone = [], []
    for turn in range(1 + rounds):
        began = time.perf_counter()
        predictor.predict_rows(rows)
        middle = time.perf_counter()
        for one in singles:
            predictor.predict_rows(one)
        if turn:
            together.append((middle - began) / num_rows)
            alone.append((time.perf_counter() - middle) / len(singles))
    return statistics.median(together), statistics.median(alone)


def _one_batch(cell: Cell, vocabulary: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(0, vocabulary, cell)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _compile(model: TaskModel, spec: EngineSpec, folder: Path) -> dict[str, Any]:
    """Compile a model without checking its answers: its weights mean nothing here."""
    engine = load_engine(spec, compiling=True)
    folder.mkdir()
    batches = random_parity_batches(model).padded[:2]
    facts = engine.make_compiler(model, spec.precision).write(folder, calibration=batches, kept=())
    return {**facts, "precision": spec.precision}


def _time_batch(session: Session, batch: Batch, streams: int) -> float:
    """Return the time of a batch, where all streams have work, in seconds."""
    count = 1 if streams == 1 else _BATCHES_PER_STREAM * streams
    began, runs = time.perf_counter(), 0
    while True:
        for _ in session.run_many([batch] * count):
            pass
        runs += count
        passed = time.perf_counter() - began
        if passed >= _LEAST_S:
            return passed / runs


def _answer(request: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> None:
    spec, rounds = EngineSpec.parse(request["spec"]), int(request["rounds"])
    models = [MeasuredModel(n, LayerShape(h, f)) for n, h, f in request["models"]]
    whole = TaskModel.load(request["model"])
    vocabulary = int(whole.encoder.config.vocab_size)
    batches = [_one_batch((rows, length), vocabulary) for rows, length in request["cells"]]
    total = len(models) * (1 + len(request["streams"]) * (1 + rounds))
    done = itertools.count(1)

    def advance() -> None:
        tell({"done": next(done), "of": total})

    seconds = []
    with tempfile.TemporaryDirectory(prefix="bertwright-") as place:
        folders = [Path(place) / str(number) for number in range(len(models))]
        facts = []
        for model, folder in zip(models, folders, strict=True):
            facts.append(_compile(cut_model(whole, model), spec, folder))
            advance()
        engine = load_engine(spec)
        for streams in request["streams"]:
            sessions = [
                engine.open_artifact(folder, one, threads=request["threads"], streams=streams)
                for folder, one in zip(folders, facts, strict=True)
            ]
            seconds.append(_time_in_turn(sessions, batches, streams, rounds, advance))
            for session in sessions:
                session.close()
    rows = json.loads(Path(request["rows_file"]).read_text(encoding="utf-8"))
    text_s, text_one_s = time_text(request["model"], rows, rounds)
    tell({"seconds": seconds, "text_s": text_s, "text_one_s": text_one_s})


def _time_in_turn(
    sessions: Sequence[Session],
    batches: Sequence[Batch],
    streams: int,
    rounds: int,
    advance: Callable[[], None],
) -> list[list[float]]:
    """Return the median time of each batch, for each session."""
    found: list[list[list[float]]] = [[[] for _ in batches] for _ in sessions]
    for turn in range(1 + rounds):
        for step in range(len(sessions)):
            index = (turn + step) % len(sessions)
            for cell, batch in enumerate(batches):
                passed = _time_batch(sessions[index], batch, streams)
                if turn:
                    found[index][cell].append(passed)
            advance()
    return [[statistics.median(times) for times in of_session] for of_session in found]


def main() -> None:
    """Answer the one request on stdin."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def tell(line: Mapping[str, Any]) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    _answer(json.loads(sys.stdin.read()), tell)


if __name__ == "__main__":
    main()
