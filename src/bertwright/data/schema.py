"""What a row holds: its columns, how each value is read, and what is stored of them.

A task declares a `RowSchema`; the loader (`data/load.py`) does the rest alike for all tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from bertwright.data.labels import LabelSet, label_name
from bertwright.errors import (
    EmptyTextError,
    FileFormatError,
    MissingColumnError,
    UnknownLabelError,
    closest_match,
)

__all__ = [
    "LABEL",
    "TEXT",
    "TEXT_B",
    "Column",
    "RowSchema",
    "classes",
    "read_label",
    "read_text",
    "resolve_columns",
    "texts_and",
]


OWN_OPTIONS = ("text", "text_b", "label")
"""Roles whose column has an option of its own."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One value of a row: what it is called, and how it is read.

    `read` takes the value as the source has it (class ids already turned into names) and the
    column's name, and returns what the schema's `build` takes, or raises a `DataError` without a
    place; the loader adds file and line.
    """

    role: str
    """Its name in bertwright, as in `--column ROLE=NAME`."""
    noun: str
    """What a message calls it: "second text"."""
    read: Callable[[object, str], Any]
    aliases: tuple[str, ...] = ()
    """Other names under which it is found, compared without case and outer spaces."""
    optional: bool = False
    """May be absent, then from every row."""
    target: bool = False
    """Is what a model is trained on; not read where no labels are needed."""


def _as_they_are(values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(values)


def _never(fields: Collection[str]) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class RowSchema:
    """The columns of a task's rows and what is stored of them."""

    columns: tuple[Column, ...]
    stored: Mapping[str, pa.DataType]
    """The type of each stored field; a row has those that `build` returns."""
    label_fields: tuple[str, ...] = ()
    """Stored fields whose values, or lists of values, are label names; they become ids."""
    build: Callable[[Mapping[str, Any]], dict[str, Any]] = _as_they_are
    """From the values read, by role, to the stored fields; raises a `DataError` without a place
    where values do not fit together."""
    needs_target: bool = True
    """Where labels are needed, rows without any target are refused."""
    order_labels: Callable[[Iterable[str]], LabelSet] = LabelSet.from_values
    """Gives the label names met in the rows their order."""
    open_labels: Callable[[Collection[str]], bool] = _never
    """Of rows with these stored fields: whether they may have labels that are not in the list they
    are read with, as a word may have a sense that was not trained on. Those get ids after the list;
    no answer is one of them, so such rows count as wrong."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.role for column in self.columns)


def resolve_columns(
    names: Sequence[str],
    schema: RowSchema,
    given: Mapping[str, str] | None = None,
    *,
    need_label: bool = True,
    path: object = None,
    line: int | None = None,
) -> dict[str, str]:
    """Say which of `names` holds which column of the schema.

    A column that is given must exist. Otherwise the column's own name wins; without it exactly one
    of its aliases may be present.

    Args:
        names: the column names of the data.
        schema: what is wanted.
        given: what the user gave, by role.
        need_label: False leaves the targets out.
        path: named in the error.
        line: named in the error (1-based).

    Returns:
        The name of each column found, by role; optional ones may be absent.

    Raises:
        MissingColumnError: a given or needed column is not there.
        FileFormatError: two columns could be meant and none was given.
    """
    found: dict[str, str] = {}
    for column in schema.columns:
        if column.target and not need_label:
            continue
        name = _find(names, (given or {}).get(column.role), column, path, line)
        if name is not None:
            found[column.role] = name
        elif not column.optional:
            raise MissingColumnError(
                f"no {column.role} column among {_listed(names)}",
                path=path,
                line=line,
                hint=f"name it with {_option(column)}, or call it {column.role!r}",
            )
    return found


def _option(column: Column) -> str:
    if column.role in OWN_OPTIONS:
        return f"--{column.role.replace('_', '-')}-column"
    return f"--column {column.role}="


def _given(option: str, name: str) -> str:
    return f"{option}{name!r}" if option.endswith("=") else f"{option} {name!r}"


def _find(
    names: Sequence[str], given: str | None, column: Column, path: object, line: int | None
) -> str | None:
    option = _option(column)
    if given is not None:
        if given in names:
            return given
        guess = closest_match(given, names)
        raise MissingColumnError(
            f"no column {given!r} among {_listed(names)}",
            path=path,
            line=line,
            hint=f"did you mean {_given(option, guess)}?" if guess else f"correct {option}",
        )
    plain = {name: name.strip().lower() for name in names}
    own = [name for name, low in plain.items() if low == column.role]
    found = own or [name for name, low in plain.items() if low in column.aliases]
    if len(found) > 1:
        raise FileFormatError(
            f"{_listed(found)} could each be the {column.role} column",
            path=path,
            line=line,
            hint=f"say which with {option}",
        )
    return found[0] if found else None


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:12])
    return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def read_text(value: object, column: str) -> str:
    """Return a text.

    Raises:
        EmptyTextError: there is none, or only spaces.
        FileFormatError: it is no text, or not valid UTF-8.
    """
    if isinstance(value, str):
        if value and not value.isspace():
            return _checked(value, column)
    elif value is not None:
        raise FileFormatError(f"{column} is not text but {type(value).__name__}")
    raise EmptyTextError(
        f"{column} is empty", hint="fill it in, or leave such rows out with --on-bad-row skip"
    )


def read_label(value: object, column: str) -> str:
    """Return the name of a label; see `label_name`.

    Raises:
        UnknownLabelError: there is none, or it can be no label.
        FileFormatError: it is not valid UTF-8.
    """
    try:
        name = label_name(value)
    except TypeError as error:
        raise UnknownLabelError(str(error)) from None
    if name is None:
        raise UnknownLabelError("has no label")
    return _checked(name, column)


def _checked(text: str, column: str) -> str:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise FileFormatError(f"{column} is not valid UTF-8") from None
    return text


TEXT = Column(
    role="text",
    noun="text",
    read=read_text,
    aliases=(
        "text_a", "text1", "sentence", "sentence1", "sentence_a", "sentence_1", "query", "content",
        "utterance", "review", "document", "body", "premise", "question1",
    ),
)  # fmt: skip
TEXT_B = Column(
    role="text_b",
    noun="second text",
    read=read_text,
    aliases=(
        "text2", "text_pair", "sentence2", "sentence_b", "sentence_2", "hypothesis", "question2",
    ),
    optional=True,
)  # fmt: skip
LABEL = Column(
    role="label",
    noun="label",
    read=read_label,
    aliases=(
        "labels", "intent", "class", "target", "category", "sentiment", "topic", "coarse_label",
    ),
    target=True,
)  # fmt: skip


def texts_and(target: Column, stored: pa.DataType, **options: Any) -> RowSchema:
    """Return the schema of a text or a pair of texts, with a target stored under its own name."""
    return RowSchema(
        columns=(TEXT, TEXT_B, target),
        stored={"text": pa.string(), "text_b": pa.string(), target.role: stored},
        **options,
    )


def classes() -> RowSchema:
    """Return the schema of rows with one label each."""
    return texts_and(LABEL, pa.int64(), label_fields=("label",))
