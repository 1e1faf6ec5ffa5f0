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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

__all__ = [
    "RUNNERS",
    "PipelineRunner",
    "PredictorRunner",
    "Runner",
    "count_tokens",
    "main",
    "peak_memory_mb",
]

_PR_SET_PDEATHSIG = 1


class Runner(Protocol):
    """What is measured: text in, label out."""

    engine: str
    precision: str

    def run(self, texts: list[str], texts_b: list[str] | None) -> list[str]:
        """Return one label a text."""
        ...

    def count_tokens(self, texts: list[str], texts_b: list[str] | None) -> int:
        """Return the number of real tokens (special ones counted, padding not) of all texts."""
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

    def run(self, texts: list[str], texts_b: list[str] | None) -> list[str]:
        """Return one label a text."""
        return [row["label"] for row in self.predictor.predict(texts, texts_b)]

    def count_tokens(self, texts: list[str], texts_b: list[str] | None) -> int:
        """Return the number of real tokens of all texts."""
        return count_tokens(
            self.predictor.tokenizer, texts, texts_b, max_length=self.predictor.max_length
        )


class PipelineRunner:
    """The obvious alternative: `transformers`' own text-classification pipeline in fp32.

    `path` is an exported stock model. Texts longer than `max_length` tokens are cut as ours are,
    because the pipeline would stop on them.
    """

    engine = "transformers"
    precision = "fp32"

    def __init__(self, request: dict[str, Any]) -> None:
        import torch
        import transformers

        torch.set_num_threads(request["threads"])
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(request["path"])
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            request["path"], dtype=torch.float32
        )
        self.max_length = request["max_length"] or self.tokenizer.model_max_length
        self.pipeline: Callable[..., Any] = transformers.pipeline(
            "text-classification",
            model=model,
            tokenizer=self.tokenizer,
            batch_size=request["batch_size"],
            device="cpu",
        )

    def run(self, texts: list[str], texts_b: list[str] | None) -> list[str]:
        """Return one label a text."""
        inputs: list[Any] = list(texts)
        if texts_b is not None:
            inputs = [{"text": a, "text_pair": b} for a, b in zip(texts, texts_b, strict=True)]
        answers = self.pipeline(inputs, truncation=True, max_length=self.max_length)
        return [answer["label"] for answer in answers]

    def count_tokens(self, texts: list[str], texts_b: list[str] | None) -> int:
        """Return the number of real tokens of all texts."""
        return count_tokens(self.tokenizer, texts, texts_b, max_length=self.max_length)


RUNNERS: dict[str, Callable[[dict[str, Any]], Runner]] = {
    "predictor": PredictorRunner,
    "pipeline": PipelineRunner,
}


def count_tokens(
    tokenizer: Any, texts: Sequence[str], texts_b: Sequence[str] | None, *, max_length: int
) -> int:
    """Return the tokens the model really reads: special ones counted, cut at `max_length`."""
    pairs = (list(texts_b),) if texts_b is not None else ()
    encoded = tokenizer(list(texts), *pairs, truncation=True, max_length=max_length)
    return sum(len(ids) for ids in encoded["input_ids"])


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
        self.texts: list[str] = []
        self.texts_b: list[str] | None = None
        self.num_latency = 0

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load the target; the time includes importing its libraries."""
        began = time.perf_counter()
        self.runner = RUNNERS[request["kind"]](request)
        load_s = time.perf_counter() - began
        rows = json.loads(Path(request["texts_file"]).read_text(encoding="utf-8"))
        self.texts, self.texts_b = rows["texts"], rows["texts_b"]
        self.num_latency = request["latency_rows"]
        return {
            "load_s": load_s,
            "engine": self.runner.engine,
            "precision": self.runner.precision,
            "num_tokens": self.runner.count_tokens(self.texts, self.texts_b),
        }

    def warm_up(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what will be measured once, unmeasured: every length has been seen afterwards."""
        self.throughput(request)
        self.latency({"start": 0, "count": self.num_latency})
        return {}

    def throughput(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time all texts in one call."""
        assert self.runner is not None
        began = time.perf_counter()
        labels = self.runner.run(self.texts, self.texts_b)
        seconds = time.perf_counter() - began
        if len(labels) != len(self.texts):
            raise RuntimeError(f"{len(labels)} labels for {len(self.texts)} texts")
        return {"seconds": seconds}

    def latency(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time texts one by one."""
        assert self.runner is not None
        seconds = []
        for row in range(request["start"], request["start"] + request["count"]):
            pair = None if self.texts_b is None else self.texts_b[row : row + 1]
            text = self.texts[row : row + 1]
            began = time.perf_counter()
            self.runner.run(text, pair)
            seconds.append(time.perf_counter() - began)
        return {"seconds": seconds}

    def finish(self, request: dict[str, Any]) -> dict[str, Any]:
        """Report the peak of resident memory."""
        return {"peak_memory_mb": peak_memory_mb()}


def _die_with_parent() -> None:
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
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    _serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
