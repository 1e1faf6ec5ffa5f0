"""From the words of a command line to a config, through tyro."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import typing
from collections.abc import Sequence
from typing import TypeVar

import tyro

from bertwright.config import flat_fields, option_name
from bertwright.errors import BertwrightError, ConfigError, closest_match

__all__ = ["is_positional", "parse_command_line"]

C = TypeVar("C")


def parse_command_line(cls: type[C], argv: Sequence[str], *, prog: str) -> C:
    """Parse options into `cls` through tyro; nested configs are flat (`--lr`, not `--training.lr`).

    An option of a tuple type is given once for each item: `--method A --method B`.

    Raises:
        UsageError: an option is unknown (with the closest legal one), or missing, or its value
            is out of range.
        SystemExit: 2, after tyro's message: a value is not of its option's type.
    """
    _refuse_unknown_options(cls, argv)

    def parse() -> C:
        return tyro.cli(
            cls,
            args=list(argv),
            prog=prog,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.UseAppendAction),
        )

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return parse()
    except SystemExit as stop:
        cause: BaseException | None = stop
        while cause is not None and not isinstance(cause, BertwrightError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise cause from None
    _refuse_missing_options(cls, argv, prog)
    return parse()


def is_positional(cls: type, name: str) -> bool:
    """Return whether a field is given by its place, without an option's name."""
    hint = typing.get_type_hints(cls, include_extras=True)[name]
    return typing.get_origin(hint) is typing.Annotated


def _refuse_missing_options(cls: type, argv: Sequence[str], prog: str) -> None:
    given = {word.partition("=")[0].replace("_", "-") for word in argv if word.startswith("--")}
    missing = []
    for f in dataclasses.fields(cls):
        if f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING:
            continue
        if is_positional(cls, f.name):
            if not argv or argv[0].startswith("-"):
                missing.append(f.name.upper())
        elif option_name(f.name) not in given:
            missing.append(option_name(f.name))
    if missing:
        is_or_are = "is" if len(missing) == 1 else "are"
        raise ConfigError(f"{', '.join(missing)} {is_or_are} missing", hint=f"{prog} --help")


def _refuse_unknown_options(cls: type, argv: Sequence[str]) -> None:
    known = {"--help"}
    for name, hint in flat_fields(cls):
        known.add(option_name(name))
        if hint is bool:
            known.add(option_name(f"no_{name}"))
    for word in argv:
        given = word.partition("=")[0]
        if given.startswith("--") and given.replace("_", "-") not in known:
            guess = closest_match(given, known)
            raise ConfigError(
                f"unknown option {given}",
                hint=(f"did you mean {guess}? " if guess else "") + "--help lists the options",
            )
