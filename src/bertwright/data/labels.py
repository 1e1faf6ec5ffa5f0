"""What a label is: its name, and the ordered list of those a task has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from bertwright.errors import ConfigError, UnknownLabelError, closest_match

__all__ = ["LabelSet", "label_name"]


def label_name(value: object) -> str | None:
    """Return the label's name: strings stripped, integers in decimal, None when there is none.

    A float that is a whole number counts as an integer (tables write 1.0 for 1); a boolean is
    "true" or "false", as JSON spells it.

    Raises:
        TypeError: the value is neither (a fraction, a list, an object).
    """
    if isinstance(value, str):
        return value.strip() or None
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if value.is_integer():
            return str(int(value))
    raise TypeError(f"label {value!r} is neither a string nor an integer")


def _integer(name: str) -> int | None:
    try:
        return int(name)
    except ValueError:
        return None


@dataclass(frozen=True)
class LabelSet:
    """The labels of a task in order; the position of a name is its id."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise ConfigError("a label list is empty")
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ConfigError(f"labels named twice: {', '.join(twice)}")

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._ids

    def id_of(self, name: str, *, path: object = None, line: int | None = None) -> int:
        """Return the id of a label.

        Raises:
            UnknownLabelError: no such label; names `path` and `line`.
        """
        index = self._ids.get(name)
        if index is None:
            guess = closest_match(name, self.names)
            shown = ", ".join(self.names[:8]) + (", ..." if len(self) > 8 else "")
            raise UnknownLabelError(
                f"unknown label {name!r}",
                path=path,
                line=line,
                hint=(f"did you mean {guess!r}? " if guess else "")
                + f"The {len(self)} known labels: {shown}",
            )
        return index

    def name_of(self, index: int) -> str:
        """Return the name of the label with this id (0 <= index < len)."""
        if not 0 <= index < len(self):
            raise IndexError(f"label id {index} is not in 0..{len(self) - 1}")
        return self.names[index]

    def with_others(self, names: Iterable[str]) -> LabelSet:
        """Return these labels and after them those of `names` that are not among them, sorted."""
        others = sorted(set(names) - set(self.names))
        return LabelSet((*self.names, *others)) if others else self

    @classmethod
    def from_values(cls, values: Iterable[object]) -> LabelSet:
        """Collect the labels of some rows.

        Sorted by value when all are integers (whether written as numbers or as text), else
        alphabetically, so that the order does not depend on the order of the rows.
        """
        names = {name for value in values if (name := label_name(value)) is not None}
        if all(_integer(name) is not None for name in names):
            return cls(tuple(sorted(names, key=lambda name: (int(name), name))))
        return cls(tuple(sorted(names)))

    def to_json(self) -> list[str]:
        """Return the names as a JSON list."""
        return list(self.names)

    @classmethod
    def from_json(cls, value: object) -> LabelSet:
        """Read what `to_json` returned.

        Raises:
            ConfigError: it is not a list of strings.
        """
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ConfigError(f"a label list must be a JSON list of strings, not {value!r:.80}")
        return cls(tuple(value))
