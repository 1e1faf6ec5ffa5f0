"""A worker whose targets are easy to foresee: started by the tests in place of the real one."""

from __future__ import annotations

import os
import sys
import time

from bertwright.evaluate import worker


class FakeRunner:
    """`spec` says what it does: `sleep=0.001` (seconds a text), `die=9`, `garbage`, `spin`, ..."""

    engine = "fake"
    precision = "fp32"

    def __init__(self, request):
        self.what, _, value = request["spec"].partition("=")
        self.value = float(value or 0)
        self.calls = 0
        print("a library that prints to stdout", flush=True)
        os.write(1, b"and one that writes to its descriptor\n")
        if self.what == "noload":
            raise ValueError("cannot load this")
        if self.what == "threads":
            self.precision = os.environ["OMP_NUM_THREADS"]
        if self.what == "memory":
            self.ballast = bytearray(os.urandom(1)) * int(self.value * 1e6)

    def run(self, rows):
        self.calls += 1
        if self.calls > 1:  # not in the warm-up
            self._misbehave()
        if self.what == "sleep":
            time.sleep(self.value * len(rows["text"]))
        if self.what == "warm" and self.calls == 1:
            time.sleep(self.value)
        if self.what == "few":
            return []
        return ["yes"] * len(rows["text"])

    def _misbehave(self):
        if self.what == "die":
            print("the last words of the worker", file=sys.stderr, flush=True)
            os.kill(os.getpid(), int(self.value))
        if self.what == "exit":
            os._exit(int(self.value))
        if self.what == "hang":
            time.sleep(60)
        if self.what == "flood":
            sys.stderr.write("x" * 4_000_000)

    def count_tokens(self, rows):
        return sum(len(text.split()) for column in rows.values() for text in column)


worker.RUNNERS["predictor"] = FakeRunner

if __name__ == "__main__":
    worker.main()
