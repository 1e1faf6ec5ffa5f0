"""Speed and memory, measured so that the numbers can be compared.

Every target lives in a process of its own with the same number of threads. The parent gives them
turns: one repeat each, round after round, starting with another one each round, so that a machine
that grows warm or busy meets all of them alike. Whoever does not have the turn is stopped
(SIGSTOP), so that idle thread pools do not spin on cores that another is measured on. A first
round is thrown away, and medians are reported.

All targets stay loaded during the measurement: allow about half a gigabyte of memory for each.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from bertwright.errors import UsageError, WorkerError
from bertwright.evaluate.machine import usable_cores
from bertwright.models.encoder import find_model_dir, resolve_source, saved_size_mb
from bertwright.models.sentence_transformers import (
    import_sentence_transformers,
    is_sentence_transformers,
)
from bertwright.progress import Progress

__all__ = [
    "THREAD_VARIABLES",
    "WORKER_COMMAND",
    "Measurement",
    "Target",
    "measure_targets",
    "model_folder",
]

WORKER_COMMAND: tuple[str, ...] = (sys.executable, "-m", "bertwright.evaluate.worker")

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
_STDERR_TAIL = 2000
_CLOSE_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """One thing to measure."""

    name: str
    path: Path
    """An artifact, a model or run directory; for `pipeline` an exported stock model."""
    kind: Literal["predictor", "pipeline"] = "predictor"
    """`predictor`: ours, under `spec`; `pipeline`: `transformers`' own, fp32."""
    spec: str = "torch:fp32"
    """Engine and precision, as `EngineSpec.parse` reads them; unused by `pipeline`."""
    batch_size: int = 32
    """Of the pipeline; ours chooses batches by tokens."""
    max_length: int | None = None
    """Tokens at which the pipeline cuts a text; None: what its tokenizer says."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured of one target, on this machine, text in, label out."""

    name: str
    engine: str
    precision: str
    throughput_texts_s: float
    """Median over the repeats."""
    throughput_tokens_s: float
    """Real tokens (special ones counted, padding not) a second, at the same median."""
    throughput_spread_texts_s: float
    """Interquartile range of the repeats."""
    latency_p50_ms: float
    latency_p95_ms: float
    size_mb: float
    """Of the serialised artefact, tokenizer included (10^6 bytes)."""
    peak_memory_mb: float
    """Most resident memory of the target's process (10^6 bytes), libraries included."""
    load_s: float
    """From the request to load until ready, imports included."""
    repeats: int


def model_folder(path: str | Path) -> Path:
    """Return the folder of the model that `path` names.

    That is `path/model` of a run directory, `path` itself of a model or an artifact, and of
    `minilm` or a folder of sentence-transformers a copy in our own format.
    """
    folder = find_model_dir(path)
    if folder is None and not Path(path).is_file():
        where = resolve_source(path)
        if is_sentence_transformers(where):
            return import_sentence_transformers(where)
    return folder or Path(path)


def measure_targets(
    targets: Sequence[Target],
    rows: Mapping[str, Sequence[Any]],
    *,
    threads: int | None = None,
    repeats: int = 5,
    latency_rows: int = 200,
    warmup: int = 1,
    timeout_s: float = 900.0,
    title: str = "measure",
) -> list[Measurement]:
    """Measure all targets side by side and return one Measurement each, in their order.

    Args:
        targets: what to measure; names must differ.
        rows: of the throughput measurement, by column, in their real mix of lengths.
        threads: for every target alike; None: as many as this process may use cores.
        repeats: rounds of the throughput measurement; the median counts.
        latency_rows: how many rows are answered one by one (at most all), over all rounds.
        warmup: rounds thrown away before.
        timeout_s: seconds that loading, or one repeat, may take.
        title: of the progress bar.

    Raises:
        UsageError: no targets, no rows, names twice, or a count below one.
        WorkerError: a process died, answered wrongly or took too long.
    """
    _check(targets, rows, repeats=repeats, latency_rows=latency_rows)
    num_rows = len(next(iter(rows.values())))
    threads = threads or usable_cores()
    latency_rows = min(latency_rows, num_rows)
    slices = _split(latency_rows, repeats)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bertwright-")))
        rows_file = folder / "rows.json"
        columns = {name: list(column) for name, column in rows.items()}
        rows_file.write_text(json.dumps(columns), encoding="utf-8")
        bar = stack.enter_context(
            Progress(title, total=len(targets) * (1 + warmup + repeats), unit="repeats")
        )
        workers: list[_Worker] = []
        loaded: list[dict[str, Any]] = []
        for target in targets:
            bar.note(f"{target.name}: load")
            stderr_path = folder / f"stderr-{len(workers)}.txt"
            worker = stack.enter_context(_Worker(target.name, stderr_path, threads, timeout_s))
            workers.append(worker)
            request = {
                "op": "load",
                "kind": target.kind,
                "path": str(target.path),
                "spec": target.spec,
                "threads": threads,
                "batch_size": target.batch_size,
                "max_length": target.max_length,
                "rows_file": str(rows_file),
                "latency_rows": latency_rows,
            }
            loaded.append(worker.ask(request))
            bar.advance()
        for _ in range(warmup):
            for worker in workers:
                bar.note(f"{worker.name}: warm-up")
                worker.ask({"op": "warm_up"})
                bar.advance()
        seconds: list[list[float]] = [[] for _ in workers]
        latencies: list[list[float]] = [[] for _ in workers]
        for turn, (start, count) in enumerate(slices):
            for step in range(len(workers)):
                index = (turn + step) % len(workers)
                worker = workers[index]
                bar.note(worker.name)
                seconds[index].append(worker.ask({"op": "throughput"})["seconds"])
                answer = worker.ask({"op": "latency", "start": start, "count": count})
                latencies[index] += answer["seconds"]
                bar.advance()
        peaks = [worker.ask({"op": "finish"})["peak_memory_mb"] for worker in workers]
    return [
        _summarise(target, facts, seconds[i], latencies[i], peaks[i], num_rows)
        for i, (target, facts) in enumerate(zip(targets, loaded, strict=True))
    ]


def _check(
    targets: Sequence[Target],
    rows: Mapping[str, Sequence[Any]],
    *,
    repeats: int,
    latency_rows: int,
) -> None:
    if not targets:
        raise UsageError("nothing to measure: no targets")
    names = [target.name for target in targets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"targets of the same name: {', '.join(twice)}")
    counts = {name: len(column) for name, column in rows.items()}
    if not any(counts.values()):
        raise UsageError("nothing to measure with: no rows")
    if len(set(counts.values())) > 1:
        raise UsageError(f"columns of different lengths: {counts}")
    for option, value in (("repeats", repeats), ("latency_rows", latency_rows)):
        if value < 1:
            raise UsageError(f"{option} {value}: must be at least 1")


def _split(count: int, parts: int) -> list[tuple[int, int]]:
    """Cut range(count) into `parts` runs (start, length) of nearly equal length."""
    edges = [round(count * part / parts) for part in range(parts + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(edges)]


def _summarise(
    target: Target,
    facts: Mapping[str, Any],
    seconds: Sequence[float],
    latencies_s: Sequence[float],
    peak_mb: float,
    num_texts: int,
) -> Measurement:
    rates = [num_texts / s for s in seconds]
    median = statistics.median(rates)
    low, high = np.percentile(rates, [25, 75])
    p50, p95 = np.percentile(latencies_s, [50, 95]) * 1e3
    return Measurement(
        name=target.name,
        engine=facts["engine"],
        precision=facts["precision"],
        throughput_texts_s=median,
        throughput_tokens_s=median * facts["num_tokens"] / num_texts,
        throughput_spread_texts_s=float(high - low),
        latency_p50_ms=float(p50),
        latency_p95_ms=float(p95),
        size_mb=saved_size_mb(model_folder(target.path)),
        peak_memory_mb=peak_mb,
        load_s=facts["load_s"],
        repeats=len(seconds),
    )


class _Worker:
    """One measuring process: runs while it is asked something, is stopped otherwise.

    Its stderr goes to a file and its requests are shorter than a pipe holds, so neither side can
    block on writing; every wait for an answer has a deadline.
    """

    def __init__(self, name: str, stderr_path: Path, threads: int, timeout_s: float) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.stderr_path = stderr_path
        self._buffer = b""
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
        with stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                WORKER_COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                bufsize=0,
            )

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Let the process run, send one request, wait for its answer, stop the process again."""
        doing = str(request["op"]).replace("_", " ")
        self._signal(signal.SIGCONT)
        try:
            try:
                _stream(self.process.stdin).write(json.dumps(request).encode() + b"\n")
            except BrokenPipeError:
                raise self._death(doing) from None
            line = self._read_line(doing)
        finally:
            self._signal(signal.SIGSTOP)
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:
            raise WorkerError(
                f"measuring {self.name} ({doing}): the process answered {line[:200]!r}"
                f"{self._tail()}"
            ) from None
        if not answer["ok"]:
            raise WorkerError(f"measuring {self.name} ({doing}): {answer['error']}{self._tail()}")
        return answer

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """End the process: politely when all went well, and surely."""
        self._signal(signal.SIGCONT if kind is None else signal.SIGKILL)
        with contextlib.suppress(OSError):
            _stream(self.process.stdin).close()
        try:
            self.process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        _stream(self.process.stdout).close()

    def _signal(self, number: int) -> None:
        """Send a signal unless the process has ended (and its number may be another's)."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def _read_line(self, doing: str) -> bytes:
        deadline = time.monotonic() + self.timeout_s
        stdout = _stream(self.process.stdout)
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise WorkerError(
                        f"measuring {self.name} ({doing}): no answer within {self.timeout_s:g} s"
                        f"{self._tail()}",
                        hint="measure fewer texts",
                    )
                piece = os.read(stdout.fileno(), 65536)
                if not piece:
                    raise self._death(doing)
                self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _death(self, doing: str) -> WorkerError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_CLOSE_TIMEOUT_S)
        code = self.process.returncode
        how, hint = f"exit status {code}", ""
        if code is not None and code < 0:
            how = f"signal {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                hint = "often the system out of memory: measure fewer targets at once"
        return WorkerError(
            f"measuring {self.name} ({doing}): the process died with {how}{self._tail()}", hint=hint
        )

    def _tail(self) -> str:
        text = self.stderr_path.read_text(encoding="utf-8", errors="replace").strip()
        return f"; the end of its stderr:\n{text[-_STDERR_TAIL:]}" if text else ""


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
