"""Calling bertwright's commands, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

__all__ = ["bertwright", "options"]


def bertwright(words: list[str], threads: int) -> str:
    """Run a command and return its stdout."""
    command = [sys.executable, "-m", "bertwright", *words]
    print("+", *command, file=sys.stderr, flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, check=True, text=True
    ).stdout


def options(values: dict[str, object]) -> list[str]:
    """Return `--name value` of each."""
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]
