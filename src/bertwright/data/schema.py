"""What a row is called and what a label is: column names and the ordered label list."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from bertwright.errors import (
    ConfigError,
    FileFormatError,
    MissingColumnError,
    UnknownLabelError,
    closest_match,
)

__all__ = [
    "COLUMN_ALIASES",
    "Columns",
    "LabelSet",
    "label_name",
    "resolve_columns",
]

COLUMN_ALIASES: dict[str, tuple[str, ...]] = {
    "text": (
        "text_a", "text1", "sentence", "sentence1", "sentence_a", "sentence_1", "query", "content",
        "utterance", "review", "document", "body", "premise", "question1",
    ),
    "text_b": (
        "text2", "text_pair", "sentence2", "sentence_b", "sentence_2", "hypothesis", "question2",
    ),
    "label": (
        "labels", "intent", "class", "target", "category", "sentiment", "topic", "coarse_label",
    ),
}  # fmt: skip
"""Other names under which a column is found, compared without case and outer spaces."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns to read; None means "find it by name"."""

    text: str | None = None
    """Column that holds the text (found by name: text, sentence, query, content, ...)."""
    text_b: str | None = None
    """Column that holds the second text of a pair (text_b, sentence2, hypothesis, ...)."""
    label: str | None = None
    """Column that holds the label (label, labels, intent, class, target, ...)."""


def resolve_columns(
    names: Sequence[str],
    columns: Columns,
    *,
    need_label: bool = True,
    path: object = None,
    line: int | None = None,
) -> Columns:
    """Say which of `names` holds the text, the second text and the label.

    A column that is given must exist. Otherwise the column's own name (`text`, `text_b`, `label`)
    wins; without it exactly one of its aliases may be present.

    Args:
        names: the column names of the data.
        columns: what the user gave.
        need_label: False leaves the label column out.
        path: named in the error.
        line: named in the error (1-based).

    Returns:
        Columns with `text` set, `label` set if needed, `text_b` set if there is one.

    Raises:
        MissingColumnError: a given or needed column is not there.
        FileFormatError: two columns could be meant and none was given.
    """
    text = _find(names, columns.text, "text", path, line)
    text_b = _find(names, columns.text_b, "text_b", path, line)
    label = _find(names, columns.label, "label", path, line) if need_label else None
    for role, found in (("text", text), ("label", label)):
        if found is None and (role == "text" or need_label):
            raise MissingColumnError(
                f"no {role} column among {_listed(names)}",
                path=path,
                line=line,
                hint=f"name it with --{role}-column, or call it {role!r}",
            )
    return Columns(text=text, text_b=text_b, label=label)


def _find(
    names: Sequence[str], given: str | None, role: str, path: object, line: int | None
) -> str | None:
    option = f"--{role.replace('_', '-')}-column"
    if given is not None:
        if given in names:
            return given
        guess = closest_match(given, names)
        raise MissingColumnError(
            f"no column {given!r} among {_listed(names)}",
            path=path,
            line=line,
            hint=f"did you mean {option} {guess!r}?" if guess else f"correct {option}",
        )
    plain = {name: name.strip().lower() for name in names}
    own = [name for name, low in plain.items() if low == role]
    found = own or [name for name, low in plain.items() if low in COLUMN_ALIASES[role]]
    if len(found) > 1:
        raise FileFormatError(
            f"{_listed(found)} could each be the {role} column",
            path=path,
            line=line,
            hint=f"say which with {option}",
        )
    return found[0] if found else None


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:12])
    return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "")


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
