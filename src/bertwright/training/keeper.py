"""What a run must not lose: its best weights, its checkpoints, its journal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bertwright.config import config_to_dict
from bertwright.errors import CheckpointError
from bertwright.training.checkpoints import CheckpointStore
from bertwright.training.hooks import Hook, RunState, hook_keys
from bertwright.training.journal import Journal, Meter
from bertwright.training.seeds import random_state, restore_random_state

if TYPE_CHECKING:
    from bertwright.data.tokenise import EncodedRows

__all__ = ["Keeper"]

SAVING_SHARE = 0.05
"""Most of the time that may go into checkpoints when `checkpoint_steps` is not given."""

FREE_TO_CHANGE = ("checkpoint_steps", "threads")
"""Options that a resumed run may have otherwise than the run it goes on with."""


class Keeper:
    """Keeps the best weights in memory, and everything needed to go on in checkpoints."""

    def __init__(
        self,
        state: RunState,
        hooks: Sequence[Hook],
        meter: Meter,
        journal: Journal,
        train_rows: EncodedRows,
        eval_rows: EncodedRows | None,
    ) -> None:
        self.journal = journal
        self.finished = False
        self._state = state
        self._hooks = hooks
        self._meter = meter
        self._store = CheckpointStore(state.run_dir / "checkpoints")
        self._best: dict[str, Tensor] | None = None
        self._made_with = {
            **{
                key: value
                for key, value in config_to_dict(state.config).items()
                if key not in FREE_TO_CHANGE
            },
            "total_steps": state.total_steps,
            "training rows": train_rows.fingerprint,
            "evaluation rows": None if eval_rows is None else eval_rows.fingerprint,
            "methods": hook_keys(hooks),
        }
        self._began = time.monotonic()
        self._seconds_before = 0.0
        self._saving_s = 0.0

    def seconds(self) -> float:
        """Return the time of the run so far, earlier parts included."""
        return self._seconds_before + time.monotonic() - self._began

    def open(self, *, resume: bool) -> None:
        """Begin anew, or go on from the newest usable checkpoint if there is one.

        Raises:
            CheckpointError: there are checkpoints, but none usable, or of another run.
        """
        checkpoint = self._store.load() if resume else None
        if checkpoint is None:
            self._store.clear()
            self.journal.cut(0)
            return
        self._check_same_run(checkpoint.state["made_with"])
        self._best = checkpoint.best
        self._restore(checkpoint.state)

    def judge(self) -> None:
        """Compare `state.metrics` with the best so far, and keep the weights if they are better."""
        state = self._state
        score = state.metrics[state.task.primary]
        if state.best_score is not None and score <= state.best_score:
            state.evaluations_since_best += 1
            return
        state.best_score, state.best_metrics = score, dict(state.metrics)
        state.best_step, state.evaluations_since_best = state.step, 0
        if state.config.keep_best:
            self._best = self._copy_weights()

    def save_if_due(self, *, evaluated: bool) -> None:
        """Save a checkpoint if the options say so after this step."""
        every = self._state.config.checkpoint_steps
        if every is not None:
            due = self._state.step % every == 0
        else:
            due = evaluated and self._saving_s <= SAVING_SHARE * self.seconds()
        if due:
            self.save()

    def save(self) -> Path:
        """Save a checkpoint from which the run can go on."""
        began = time.monotonic()
        path = self._store.save(
            self._state.step, self._collect(), best=self._best, best_step=self._state.best_step
        )
        self._saving_s += time.monotonic() - began
        return path

    def last_good(self) -> Path:
        """Return the newest checkpoint; one is made if there is none yet."""
        saved = self._store.saved()
        return saved[-1] if saved else self.save()

    def finish(self) -> None:
        """Save the result of the run (its weights, no optimizer) in place of all checkpoints."""
        state = self._state
        best_step = state.best_step if self._best is not None else state.step
        self._best = self._best or self._copy_weights()
        self._store.save(
            state.step,
            self._collect(finished=True),
            best=self._best,
            best_step=best_step,
            last=True,
        )

    def load_best(self) -> None:
        """Put the weights that the run returns into the model."""
        if self._best is not None:
            self._state.model.load_state_dict(self._best)

    def _copy_weights(self) -> dict[str, Tensor]:
        weights = self._state.model.state_dict()
        return {name: value.to("cpu", copy=True) for name, value in weights.items()}

    def _collect(self, *, finished: bool = False) -> dict[str, Any]:
        """Return everything that a resumed run needs; less, when there is nothing left to do."""
        state = self._state
        values: dict[str, Any] = {
            "made_with": self._made_with,
            "finished": finished,
            "step": state.step,
            "metrics": state.metrics,
            "best_score": state.best_score,
            "best_metrics": state.best_metrics,
            "best_step": state.best_step,
            "evaluations_since_best": state.evaluations_since_best,
            "stop_reason": state.stop_reason,
            "meter": self._meter.state_dict(),
            "journal_bytes": self.journal.size(),
            "seconds": self.seconds(),
            "hooks": {
                key: dict(hook.state_dict())
                for key, hook in zip(hook_keys(self._hooks), self._hooks, strict=True)
            },
        }
        if not finished:
            values |= {
                "model": state.model.state_dict(),
                "optimizer": state.optimizer.state_dict(),
                "scheduler": state.scheduler.state_dict(),
                "generator": state.generator.get_state(),
                "random": random_state(),
            }
        return values

    def _restore(self, values: Mapping[str, Any]) -> None:
        state = self._state
        self.finished = values["finished"]
        state.step, state.metrics = values["step"], values["metrics"]
        state.best_score, state.best_metrics = values["best_score"], values["best_metrics"]
        state.best_step = values["best_step"]
        state.evaluations_since_best = values["evaluations_since_best"]
        state.stop_reason = values["stop_reason"]
        self._meter.load_state_dict(values["meter"])
        self.journal.cut(values["journal_bytes"])
        self._seconds_before = values["seconds"]
        for key, hook in zip(hook_keys(self._hooks), self._hooks, strict=True):
            hook.load_state_dict(values["hooks"][key])
        if not self.finished:
            state.model.load_state_dict(values["model"])
            state.optimizer.load_state_dict(values["optimizer"])
            state.scheduler.load_state_dict(values["scheduler"])
            state.generator.set_state(values["generator"])
            restore_random_state(values["random"])

    def _check_same_run(self, made_with: Mapping[str, Any]) -> None:
        changed = [
            f"{key} {made_with.get(key)} (now {self._made_with.get(key)})"
            for key in {**made_with, **self._made_with}
            if made_with.get(key) != self._made_with.get(key)
        ]
        if changed:
            raise CheckpointError(
                f"the run in {self._state.run_dir} was made with other options: "
                + ", ".join(changed),
                hint="repeat its options, or start again without --resume",
            )
