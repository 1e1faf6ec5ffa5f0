"""What a model of any size would take for given rows, from a few that were measured.

Tables are measured once a machine, engine, precision, number of threads and kind of model, and kept
in the cache.

Shapes: N rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from bertwright.compress.latency_table import (
    Cell,
    LatencyTable,
    LayerShape,
    table_cells,
    table_models,
)
from bertwright.data.batching import plan_batches
from bertwright.engines.base import EngineSpec
from bertwright.engines.predictor import BATCH_SIZE, BATCH_TOKENS
from bertwright.errors import BertwrightError, UsageError, WorkerError
from bertwright.evaluate.machine import machine, usable_cores, versions
from bertwright.evaluate.measure import THREAD_VARIABLES, model_folder
from bertwright.files import cache_dir, read_json, write_json
from bertwright.models.task_model import TaskModel
from bertwright.models.widths import why_heads_stay, why_neurons_stay, widths_of
from bertwright.progress import Progress

__all__ = ["PriceList", "layers_of", "make_price_list"]

_WORKER = (sys.executable, "-m", "bertwright.compress.shape_worker")
_TEXT_ROWS = 500
_STDERR_TAIL = 2000


@dataclass(frozen=True)
class PriceList:
    """Prices of models of one kind for some rows, on this machine."""

    spec: EngineSpec
    alone: LatencyTable
    """A batch has all threads."""
    together: LatencyTable
    """As many batches at once as there are streams; the time is that of one of them."""
    lengths: np.ndarray
    """Tokens of each row, [N]."""
    text_s: float
    """What splitting and decoding take, a row, in a call with many."""
    text_one_s: float
    """The same in a call with one."""

    def throughput_texts_s(self, layers: Sequence[LayerShape]) -> float:
        """Return the rows a second of a model of these layers, text in, answer out."""
        model_s = float(self.together.batch_seconds(layers, self._batches).sum())
        return len(self.lengths) / (model_s + len(self.lengths) * self.text_s)

    def latency_p50_ms(self, layers: Sequence[LayerShape]) -> float:
        """Return the median time of single rows, text in, answer out."""
        singles = [(1, int(length)) for length in np.unique(self.lengths)]
        of_length = dict(zip(singles, self.alone.batch_seconds(layers, singles), strict=True))
        times = [of_length[1, int(length)] for length in self.lengths]
        return 1e3 * (statistics.median(times) + self.text_one_s)

    @property
    def _batches(self) -> list[Cell]:
        return _batches_of(self.lengths)


def _batches_of(lengths: np.ndarray) -> list[Cell]:
    """Return rows and tokens of the batches that a predictor makes of these rows."""
    plan = plan_batches(
        lengths,
        batch_tokens=BATCH_TOKENS,
        batch_size=BATCH_SIZE,
        seed=0,
        epoch=0,
        shuffle=False,
        pad_multiple=1,
    )
    return [(len(batch), int(lengths[batch].max())) for batch in plan]


def layers_of(model: TaskModel) -> list[LayerShape]:
    """Return the shape of each layer; what the family does not tell counts as 0."""
    widths = widths_of(model.encoder)
    every = range(model.roles.num_layers)
    heads = widths.heads or [0 for _ in every]
    neurons = widths.neurons or [0 for _ in every]
    return [LayerShape(h, f) for h, f in zip(heads, neurons, strict=True)]


def make_price_list(
    model_dir: str | Path,
    spec: EngineSpec | str,
    rows: Mapping[str, Sequence[Any]],
    lengths: np.ndarray,
    *,
    threads: int | None = None,
    rounds: int = 5,
) -> PriceList:
    """Return prices of smaller models of a saved one for such rows; measures what is not cached.

    Args:
        model_dir: a saved model of several layers, all of one shape.
        spec: engine and precision.
        rows: by column; the work around the model is measured on up to 500 of them.
        lengths: tokens of all rows, [N].
        threads: for the model; None: as many as this process may use cores.
        rounds: of each measurement; medians count.

    Raises:
        UsageError: the model has one layer, or layers of several shapes.
        WorkerError: the measuring process died.
    """
    spec = EngineSpec.parse(spec) if isinstance(spec, str) else spec
    threads = threads or usable_cores()
    folder = model_folder(model_dir)
    model = TaskModel.load(folder)
    shapes = layers_of(model)
    if len(set(shapes)) != 1:
        raise UsageError(
            "the layers of this model have several shapes", hint="price the model it was made from"
        )
    roles = model.roles
    models = table_models(
        shapes[0],
        len(shapes),
        heads=why_heads_stay(roles) is None,
        neurons=why_neurons_stay(roles) is None,
    )
    cells = table_cells(int(lengths.max()), BATCH_TOKENS, BATCH_SIZE)
    sample = {name: list(column[:_TEXT_ROWS]) for name, column in rows.items()}
    streams = [1, threads] if spec.engine != "torch" and threads > 1 else [1]
    request = {
        **{"model": str(folder), "spec": str(spec), "threads": threads, "rounds": rounds},
        **{"streams": streams, "cells": cells},
        "models": [[m.layers, m.shape.heads, m.shape.neurons] for m in models],
    }
    answer = _answer(request, _kind_of(model), sample)
    tables = [
        LatencyTable(
            whole=shapes[0],
            cells=tuple(cells),
            seconds=dict(zip(models, map(tuple, seconds), strict=True)),
        )
        for seconds in answer["seconds"]
    ]
    return PriceList(
        spec=spec,
        alone=tables[0],
        together=tables[-1],
        lengths=np.asarray(lengths),
        text_s=answer["text_s"],
        text_one_s=answer["text_one_s"],
    )


def _kind_of(model: TaskModel) -> dict[str, Any]:
    """Return what decides the time of a model of this kind, besides its size."""
    config = model.encoder.config.to_dict()
    for name in ("_name_or_path", "transformers_version", "architectures", "num_hidden_layers"):
        config.pop(name, None)
    return {
        **{"encoder": config, "task": model.task, "outputs": len(model.labels)},
        **{"pooling": str(model.config.pooling), "depth": model.roles.num_layers},
    }


def _answer(
    request: Mapping[str, Any], kind: Mapping[str, Any], rows: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """Return what the worker answers, from the cache where it was asked before."""
    asked = {name: value for name, value in request.items() if name != "model"}
    signed = json.dumps(
        [asked, kind, rows, machine(), versions()], sort_keys=True, default=str
    ).encode()
    place = cache_dir() / "latency" / f"{hashlib.blake2b(signed, digest_size=16).hexdigest()}.json"
    if place.exists():
        with contextlib.suppress(BertwrightError):
            return read_json(place)
    answer = _ask(request, rows)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_json(place, answer)
    return answer


def _ask(request: Mapping[str, Any], rows: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Measure in a process of its own."""
    title = f"price {request['spec']}"
    with tempfile.TemporaryDirectory(prefix="bertwright-") as place:
        rows_file, log = Path(place) / "rows.json", Path(place) / "stderr.txt"
        rows_file.write_text(json.dumps(rows), encoding="utf-8")
        environment = {
            **os.environ,
            **dict.fromkeys(THREAD_VARIABLES, str(request["threads"])),
        }
        with (
            log.open("wb") as stderr,
            subprocess.Popen(
                _WORKER,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                text=True,
            ) as process,
        ):
            try:
                answer = _listen(process, {**request, "rows_file": str(rows_file)}, title)
            except BaseException:
                process.kill()
                raise
        if answer is None:
            said = log.read_text(encoding="utf-8", errors="replace").strip()[-_STDERR_TAIL:]
            raise WorkerError(
                f"{title}: the measuring process died with exit status {process.returncode}"
                + (f"; the end of its stderr:\n{said}" if said else "")
            )
        return answer


def _listen(
    process: subprocess.Popen[str], request: Mapping[str, Any], title: str
) -> dict[str, Any] | None:
    """Ask, show how far it is, and return the answer; None where none came."""
    stdin, stdout = _stream(process.stdin), _stream(process.stdout)
    with contextlib.suppress(BrokenPipeError):
        stdin.write(json.dumps(request))
        stdin.close()
    with contextlib.ExitStack() as stack:
        bar: Progress | None = None
        for line in stdout:
            told = json.loads(line)
            if "done" not in told:
                return told
            if bar is None:
                bar = stack.enter_context(Progress(title, total=told["of"], unit="rounds"))
            bar.advance()
    return None


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
