"""Students trained by several processes beside each other, each with its part of the cores.

The processes share a table of trials (`trials.py`) and leave what they train where a search alone
would: so the search then reads it, and trains itself what none of them finished.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertwright.compress.candidates import StudentPlan
from bertwright.compress.students import StudentContext, is_trained, train_half, train_whole
from bertwright.compress.trials import Phase, Trials
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import NonFiniteLossError, TimeUpError
from bertwright.evaluate.measure import THREAD_VARIABLES
from bertwright.progress import Progress, console

__all__ = ["ALONE", "Team", "train_claimed"]

LOGS = "workers"
_LOOK_EVERY_S = 0.5
_END_WITHIN_S = 10.0


@dataclass(frozen=True)
class Team:
    """Processes that help with the training of a search."""

    command: Sequence[str]
    """Of a helper: it is given the phase, its threads, and the seconds that it has."""
    size: int
    """How many; with one, the search trains by itself."""
    folder: Path
    """Of the search."""
    threads: int
    """Of all of them together."""

    def train(
        self, phase: Phase, plans: Sequence[StudentPlan], context: StudentContext, time_s: float
    ) -> dict[StudentPlan, str]:
        """Train what is not trained yet; return for which plans there is no student, and why.

        A plan of which neither is true was left by a process that died: train it yourself.

        Args:
            phase: half of the training, or all of it.
            plans: in the order in which they are begun.
            context: of the search; its folder tells what is done.
            time_s: what is left for training; may be infinite.
        """
        waiting = [plan for plan in plans if not is_trained(plan, context, phase)]
        if self.size < 2 or len(waiting) < 2:
            return {}
        with contextlib.closing(Trials(self.folder)) as trials:
            trials.put(phase, waiting)
            with self._helpers(phase, min(self.size, len(waiting)), time_s) as helpers:
                _wait(trials, phase, helpers, len(waiting))
            failures = trials.failures(phase)
        return {plan: failures[plan.name] for plan in waiting if plan.name in failures}

    @contextlib.contextmanager
    def _helpers(self, phase: Phase, count: int, time_s: float) -> Iterator[list[_Helper]]:
        threads = str(max(1, self.threads // count))
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, threads)
        words = [phase, threads, "inf" if math.isinf(time_s) else f"{max(0.0, time_s):.1f}"]
        logs = self.folder / LOGS
        logs.mkdir(parents=True, exist_ok=True)
        helpers: list[_Helper] = []
        try:
            for number in range(count):
                log = logs / f"{phase}-{number}.log"
                with log.open("wb") as stderr:
                    process = subprocess.Popen(
                        [*self.command, *words],
                        stdin=subprocess.DEVNULL,
                        stdout=stderr,
                        stderr=stderr,
                        env=environment,
                    )
                helpers.append(_Helper(process, log))
            yield helpers
        finally:
            for helper in helpers:
                helper.end()


ALONE = Team(command=(), size=1, folder=Path(), threads=1)
"""A search that trains by itself."""


@dataclass
class _Helper:
    process: subprocess.Popen[bytes]
    log: Path
    missed: bool = False
    """Whether its end has been told."""

    def end(self) -> None:
        """End the process where it has not ended."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_END_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _wait(trials: Trials, phase: Phase, helpers: Sequence[_Helper], total: int) -> None:
    """Wait until no trial is open or in work, or no process is left; show how far it is."""
    with Progress(f"train, {len(helpers)} at once", total=total, unit="students") as bar:
        ended = 0
        while True:
            for helper in helpers:
                status = helper.process.poll()
                if status and not helper.missed:
                    helper.missed = True
                    why = f"the process that trained it ended with status {status}"
                    trials.release(helper.process.pid, why)
                    console.print(f"[yellow]{why}:[/] see {helper.log}")
            alive = any(helper.process.poll() is None for helper in helpers)
            closed = trials.names(phase, "done") + trials.names(phase, "failed")
            bar.advance(len(closed) - ended)
            ended = len(closed)
            running = trials.names(phase, "running")
            bar.note(", ".join(running))
            if not alive or not (running or trials.names(phase, "open")):
                return
            time.sleep(_LOOK_EVERY_S)


def train_claimed(
    trials: Trials, phase: Phase, context: StudentContext, slice_rows: EncodedRows
) -> None:
    """Train one student after the other, as long as one is open: what a helper does."""
    while (plan := trials.claim(phase)) is not None:
        try:
            if phase == "half":
                train_half(plan, context, slice_rows)
            else:
                train_whole(plan, context)
        except (NonFiniteLossError, TimeUpError) as error:
            trials.finish(phase, plan, error.message)
        else:
            trials.finish(phase, plan)
