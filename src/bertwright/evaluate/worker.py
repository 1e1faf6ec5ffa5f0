"""The measuring process: one target, loaded and timed here, driven over JSON lines.

Requests come on stdin, one JSON object a line; each gets one line on what was stdout when the
process started. Everything that libraries print goes to stderr. The process ends when stdin closes
and, on Linux, when its parent dies.

Requests: `{"op": "load", ...}`, `{"op": "warm_up"}`, `{"op": "throughput"}`, `{"op": "latency",
"start", "count"}`, `{"op": "finish"}`. Answers: `{"ok": true, ...}` or `{"ok": false, "error"}`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TextIO

__all__ = [
    "RUNNERS",
    "PipelineRunner",
    "PredictorRunner",
    "Runner",
    "die_with_parent",
    "main",
    "peak_memory_mb",
]

_PR_SET_PDEATHSIG = 1

Rows = dict[str, list[Any]]
"""Rows by column, as the task's schema stores them, without targets."""


class Runner(Protocol):
    """What is measured: rows in, answers out."""

    engine: str
    precision: str

    def run(self, rows: Rows) -> list[Any]:
        """Return one answer a row."""
        ...

    def count_tokens(self, rows: Rows) -> int:
        """Return the number of real tokens (special ones counted, padding not) of all rows."""
        ...


class PredictorRunner:
    """An artifact or a model directory under one of our engines."""

    def __init__(self, request: dict[str, Any]) -> None:
        from bertwright.engines.base import EngineSpec
        from bertwright.engines.predictor import Predictor

        spec = EngineSpec.parse(request["spec"])
        self.predictor = Predictor(request["path"], spec=spec, threads=request["threads"])
        self.engine = spec.engine
        self.precision = str(self.predictor.session.precision)

    def run(self, rows: Rows) -> list[Any]:
        """Return one answer a row."""
        return self.predictor.predict_rows(rows)

    def count_tokens(self, rows: Rows) -> int:
        """Return the number of real tokens of all rows."""
        return self.predictor.count_tokens(rows)


class PipelineRunner:
    """The obvious alternative: `transformers`' own pipeline for texts or for tokens, in fp32.

    `path` is an exported stock model. Texts longer than `max_length` tokens are cut, because the
    pipeline would stop on them.
    """

    engine = "transformers"
    precision = "fp32"

    def __init__(self, request: dict[str, Any]) -> None:
        import torch
        import transformers

        torch.set_num_threads(request["threads"])
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(request["path"])
        config = transformers.AutoConfig.from_pretrained(request["path"])
        self.max_length = request["max_length"] or self.tokenizer.model_max_length
        name = str((config.architectures or [""])[0])
        self.options: dict[str, Any] = {}
        if name.endswith("ForTokenClassification"):
            kind, auto = "token-classification", transformers.AutoModelForTokenClassification
            self.tokenizer.model_max_length = self.max_length
            self.options = {"aggregation_strategy": "first"}
        else:
            kind, auto = "text-classification", transformers.AutoModelForSequenceClassification
            self.options = {"truncation": True, "max_length": self.max_length}
        self.pipeline: Callable[..., Any] = transformers.pipeline(
            kind,
            model=auto.from_pretrained(request["path"], dtype=torch.float32),
            tokenizer=self.tokenizer,
            batch_size=request["batch_size"],
            device="cpu",
        )

    def run(self, rows: Rows) -> list[Any]:
        """Return one answer a row."""
        inputs: list[Any] = list(rows["text"])
        if "text_b" in rows:
            pairs = zip(inputs, rows["text_b"], strict=True)
            inputs = [{"text": a, "text_pair": b} for a, b in pairs]
        return self.pipeline(inputs, **self.options)

    def count_tokens(self, rows: Rows) -> int:
        """Return the number of real tokens of all rows."""
        pairs = (list(rows["text_b"]),) if "text_b" in rows else ()
        encoded = self.tokenizer(
            list(rows["text"]), *pairs, truncation=True, max_length=self.max_length
        )
        return sum(len(ids) for ids in encoded["input_ids"])


RUNNERS: dict[str, Callable[[dict[str, Any]], Runner]] = {
    "predictor": PredictorRunner,
    "pipeline": PipelineRunner,
}


def peak_memory_mb() -> float:
    """Return the most resident memory this process has had, in MB (10^6 bytes).

    On Linux this is VmHWM, which starts anew at exec; elsewhere `getrusage`.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


class _Bench:
    """Answers the requests, one method an operation."""

    def __init__(self) -> None:
        self.runner: Runner | None = None
        self.rows: Rows = {}
        self.num_latency = 0

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load the target; the time includes importing its libraries."""
        began = time.perf_counter()
        self.runner = RUNNERS[request["kind"]](request)
        load_s = time.perf_counter() - began
        self.rows = json.loads(Path(request["rows_file"]).read_text(encoding="utf-8"))
        self.num_latency = request["latency_rows"]
        return {
            "load_s": load_s,
            "engine": self.runner.engine,
            "precision": self.runner.precision,
            "num_tokens": self.runner.count_tokens(self.rows),
        }

    def warm_up(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what will be measured once, unmeasured: every length has been seen afterwards."""
        self.throughput(request)
        self.latency({"start": 0, "count": self.num_latency})
        return {}

    def throughput(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time all rows in one call."""
        assert self.runner is not None
        began = time.perf_counter()
        answers = self.runner.run(self.rows)
        seconds = time.perf_counter() - began
        num_rows = len(next(iter(self.rows.values())))
        if len(answers) != num_rows:
            raise RuntimeError(f"{len(answers)} answers for {num_rows} rows")
        return {"seconds": seconds}

    def latency(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time rows one by one."""
        assert self.runner is not None
        seconds = []
        for row in range(request["start"], request["start"] + request["count"]):
            one = {name: column[row : row + 1] for name, column in self.rows.items()}
            began = time.perf_counter()
            self.runner.run(one)
            seconds.append(time.perf_counter() - began)
        return {"seconds": seconds}

    def finish(self, request: dict[str, Any]) -> dict[str, Any]:
        """Report the peak of resident memory."""
        return {"peak_memory_mb": peak_memory_mb()}


def die_with_parent() -> None:
    """Ask Linux to end this process with its parent: a stopped one could not notice by itself."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _serve(requests: TextIO, answers: TextIO) -> None:
    bench = _Bench()
    operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "load": bench.load,
        "warm_up": bench.warm_up,
        "throughput": bench.throughput,
        "latency": bench.latency,
        "finish": bench.finish,
    }
    for line in requests:
        request = json.loads(line)
        try:
            answer = {"ok": True, **operations[request["op"]](request)}
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Serve requests until stdin closes."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    _serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
