"""Calling bertwright's commands, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

__all__ = ["bertwright", "options"]


def bertwright(words: list[str], threads: int, *, may_miss: bool = False) -> str:
    """Run a command and return its stdout; with `may_miss` it may end with 1: no budget met."""
    command = [sys.executable, "-m", "bertwright", *words]
    print("+", *command, file=sys.stderr, flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode not in ((0, 1) if may_miss else (0,)):
        raise subprocess.CalledProcessError(done.returncode, command)
    return done.stdout


def options(values: dict[str, object]) -> list[str]:
    """Return `--name value` of each."""
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]
