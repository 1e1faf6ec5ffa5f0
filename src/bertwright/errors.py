"""Every error a user can meet: what happened, where, and what to do about it.

A `BertwrightError` prints as one short paragraph, without a traceback. `exit_code` is what the
command line returns: 2 for bad usage or bad input, 1 for work that failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Self

__all__ = [
    "ArtifactError",
    "BertwrightError",
    "BudgetError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DiskFullError",
    "EmptyTextError",
    "FileFormatError",
    "MissingColumnError",
    "MissingDependencyError",
    "ModelLoadError",
    "NonFiniteLossError",
    "ParityError",
    "RowTooLongError",
    "TimeUpError",
    "UnknownChoiceError",
    "UnknownLabelError",
    "UnsupportedFamilyError",
    "UnsupportedRoleError",
    "UsageError",
    "WorkerError",
    "closest_match",
]


class BertwrightError(Exception):
    """Base of all errors meant for a person. `hint` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message


class UsageError(BertwrightError, ValueError):
    """The request itself is wrong; nothing was run."""

    exit_code = 2


class ConfigError(UsageError):
    """An option or a recipe key is unknown, misspelled or out of range."""


class UnknownChoiceError(UsageError):
    """A name is not among the legal ones; the message lists them and the closest."""

    def __init__(self, what: str, given: str, legal: Iterable[str]) -> None:
        names = sorted(legal)
        guess = closest_match(given, names)
        hint = f"did you mean {guess!r}? " if guess else ""
        super().__init__(f"unknown {what} {given!r}", hint=f"{hint}Choose from: {', '.join(names)}")


class MissingDependencyError(UsageError):
    """An optional library is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs a library that is not installed",
            hint=f"pip install 'bertwright[{extra}]'",
        )


class DataError(UsageError):
    """Something is wrong with the data; `path` and `line` (1-based) say where."""

    def __init__(
        self, message: str, *, path: object = None, line: int | None = None, hint: str = ""
    ) -> None:
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(f"{where}{message}", hint=hint)
        self.path = path
        self.line = line
        self._bare = message

    def at(self, path: object, line: int | None = None) -> Self:
        """Return the same error with the place where it is."""
        return type(self)(self._bare, path=path, line=line, hint=self.hint)


class FileFormatError(DataError):
    """A file cannot be parsed, is of an unknown type, or does not exist."""


class MissingColumnError(DataError):
    """A needed column is not in the data."""


class EmptyTextError(DataError):
    """A row has no text."""


class UnknownLabelError(DataError):
    """A row has a label that the model (or the label list) does not know."""


class RowTooLongError(DataError):
    """A row has more tokens than allowed and truncation was not asked for."""


class ModelLoadError(UsageError):
    """A model cannot be found or loaded."""


class UnsupportedFamilyError(UsageError):
    """The model's architecture is not one that bertwright knows the parts of."""


class UnsupportedRoleError(UsageError):
    """The family has no such part, or not in a form the method can use; says why."""


class BudgetError(UsageError):
    """A budget cannot be understood (a negative size, a share above 1)."""


class CheckpointError(BertwrightError):
    """A checkpoint or a saved model is corrupt, incomplete or of another version."""


class ArtifactError(BertwrightError):
    """An engine's compiled artifact is corrupt, incomplete or of another version."""


class DiskFullError(BertwrightError):
    """There was no room to write; what was there before is untouched."""


class NonFiniteLossError(BertwrightError):
    """The loss became NaN or infinite. `rows` names the rows of that batch by their numbers."""

    def __init__(
        self,
        value: float,
        step: int,
        rows: Iterable[object],
        *,
        kept: object = None,
        what: str = "loss",
    ) -> None:
        self.value = value
        self.step = step
        self.rows = [str(row) for row in rows]
        shown = ", ".join(self.rows[:16]) + (" ..." if len(self.rows) > 16 else "")
        saved = f" The last good checkpoint is {kept}." if kept else ""
        super().__init__(
            f"the {what} became {value} at step {step}; rows of that batch: {shown}.{saved}",
            hint="look at these rows, lower --lr, or turn bf16 off with --precision fp32",
        )


class TimeUpError(BertwrightError):
    """The time that was given is over; what was done is saved, and can be resumed."""


class ParityError(BertwrightError):
    """An engine's outputs differ from torch's by more than allowed, and no repair helped."""


class WorkerError(BertwrightError):
    """A measuring process died or answered wrongly; carries the end of its stderr."""


def closest_match(given: str, legal: Iterable[str]) -> str | None:
    """Return the legal name most like `given`, or None when nothing is close."""
    matches = difflib.get_close_matches(given, list(legal), n=1, cutoff=0.6)
    return matches[0] if matches else None
