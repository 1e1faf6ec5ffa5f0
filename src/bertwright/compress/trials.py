"""The students that several processes train for one search: who has which, in a table of SQLite.

What a student has learned lies in its own folder (`students.py`); the table only says whose turn it
is. A trial whose process has ended without finishing it is open again, but not for ever.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from bertwright.compress.candidates import StudentPlan

__all__ = ["TRIALS_FILE", "Phase", "Trials"]

TRIALS_FILE = "trials.sqlite"
MOST_ATTEMPTS = 2
"""A trial that ended so many processes is given up."""
_WAIT_S = 60.0
_TABLE = """
CREATE TABLE IF NOT EXISTS trials (
    phase TEXT NOT NULL, name TEXT NOT NULL, plan TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, process INTEGER, began REAL, ended REAL, failure TEXT,
    PRIMARY KEY (phase, name)
)
"""

Phase = Literal["half", "whole"]


class Trials:
    """The table; every process opens its own."""

    def __init__(self, folder: Path) -> None:
        self._database = sqlite3.connect(
            folder / TRIALS_FILE, timeout=_WAIT_S, isolation_level=None
        )
        self._database.execute(_TABLE)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def put(self, phase: Phase, plans: Sequence[StudentPlan]) -> None:
        """Open trials, in this order; what an earlier search began or failed is open again."""
        with self._alone():
            for plan in plans:
                self._database.execute(
                    "DELETE FROM trials WHERE phase = ? AND name = ?", (phase, plan.name)
                )
                self._database.execute(
                    "INSERT INTO trials (phase, name, plan, state) VALUES (?, ?, ?, 'open')",
                    (phase, plan.name, json.dumps(asdict(plan))),
                )

    def claim(self, phase: Phase) -> StudentPlan | None:
        """Return the next open trial, which is then this process's; None: all are taken."""
        with self._alone():
            found = self._database.execute(
                "SELECT name, plan FROM trials WHERE phase = ? AND state = 'open' "
                "ORDER BY rowid LIMIT 1",
                (phase,),
            ).fetchone()
            if found is None:
                return None
            self._database.execute(
                "UPDATE trials SET state = 'running', process = ?, began = ?, "
                "attempts = attempts + 1 WHERE phase = ? AND name = ?",
                (os.getpid(), time.time(), phase, found[0]),
            )
        return StudentPlan(**json.loads(found[1]))

    def finish(self, phase: Phase, plan: StudentPlan, failure: str | None = None) -> None:
        """Close a trial; `failure` says why there is no such student."""
        state = "done" if failure is None else "failed"
        self._database.execute(
            "UPDATE trials SET state = ?, ended = ?, failure = ? WHERE phase = ? AND name = ?",
            (state, time.time(), failure, phase, plan.name),
        )

    def release(self, process: int, why: str) -> None:
        """Open what a process left when it ended; what ended too many is given up."""
        with self._alone():
            self._database.execute(
                "UPDATE trials SET state = 'failed', failure = ? "
                "WHERE state = 'running' AND process = ? AND attempts >= ?",
                (why, process, MOST_ATTEMPTS),
            )
            self._database.execute(
                "UPDATE trials SET state = 'open' WHERE state = 'running' AND process = ?",
                (process,),
            )

    def names(self, phase: Phase, state: str) -> list[str]:
        """Return the students of a phase that are `open`, `running`, `done` or `failed`."""
        found = self._database.execute(
            "SELECT name FROM trials WHERE phase = ? AND state = ? ORDER BY rowid", (phase, state)
        )
        return [name for (name,) in found]

    def failures(self, phase: Phase) -> dict[str, str]:
        """Return why there is no such student, by name."""
        found = self._database.execute(
            "SELECT name, failure FROM trials WHERE phase = ? AND state = 'failed'", (phase,)
        )
        return dict(found.fetchall())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from changing the table in the block; an error undoes it."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
