"""The help pages: one that lists the verbs, and one a verb that teaches its options."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Union

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bertwright.cli.parse import is_positional
from bertwright.config import option_name
from bertwright.verbs import GROUPS, VERBS, VerbEntry

__all__ = [
    "Option",
    "describe_options",
    "field_docs",
    "print_overview",
    "print_verb_help",
    "verb_options",
]

FIRST_STEPS = (
    ("see it work, with nothing but this machine", "bertwright demo"),
    ("train on your own text", "bertwright finetune --data train.csv --out runs/mine"),
    (
        "make that small and fast",
        "bertwright compress --model runs/mine --data train.csv --out runs/small",
    ),
    ("use it", 'bertwright predict --model runs/small --text "book me a table for two"'),
)
METAVARS = {
    "data": "DATA",
    "eval_data": "DATA",
    "test_data": "DATA",
    "calibration": "DATA",
    "input": "FILE",
    "output": "FILE",
    "model": "MODEL",
    "teacher": "MODEL",
    "out": "FOLDER",
    "method": "METHOD",
    "name": "NAME",
    "target": "MODEL@ENGINE",
    "engine": "ENGINE",
    "recipe": "RECIPE",
    "text_column": "COLUMN",
    "text_b_column": "COLUMN",
    "label_column": "COLUMN",
    "layer_choice": "HOW",
}
INTRODUCTION = (
    "small, fast, proven text classifiers. Bring an encoder and labelled text: it trains, "
    "shrinks and measures, and shows what was kept and what was lost."
)
MAX_WIDTH = 110
MAX_METAVAR = 14


@dataclasses.dataclass(frozen=True)
class Option:
    """One line of a help page."""

    field: str
    spelling: str
    metavar: str
    doc: str
    default: str
    """What is taken when the option is not given; "" when that needs no words."""
    required: bool


def print_overview(console: Console) -> None:
    """Print the page of `bertwright --help`: the verbs in groups, and first steps."""
    table = _columns()
    for group in GROUPS:
        table.add_row(Text(group, style="bold"), "")
        for entry in VERBS.values():
            if entry.group == group:
                table.add_row(Text(f"  {entry.name}", style="cyan"), entry.help)
    _print(
        console,
        Text.assemble(("bertwright", "bold cyan"), ": ", INTRODUCTION),
        Text.assemble("\n", ("Usage  ", "bold"), "bertwright COMMAND [OPTIONS]\n"),
        table,
        Text(""),
    )
    _print_examples(console, "First steps", FIRST_STEPS)
    console.print(
        Text.assemble(
            "\n",
            ("bertwright COMMAND --help", "cyan"),
            " teaches one command; ",
            ("--version", "cyan"),
            " tells the version.",
        )
    )


def print_verb_help(console: Console, entry: VerbEntry) -> None:
    """Print the page of `bertwright VERB --help`: what it does, its options in groups, examples."""
    options = verb_options(entry)
    required = [o for group in options.values() for o in group if o.required]
    usage = Text.assemble(("Usage  ", "bold"), f"bertwright {entry.name}")
    for option in required:
        usage.append(" " + f"{option.spelling} {option.metavar}".strip())
    optional = [o for group in options.values() for o in group if not o.required]
    if any(not o.spelling for o in optional):
        usage.append("".join(f" [{o.metavar}]" for o in optional if not o.spelling))
    if any(o.spelling for o in optional):
        usage.append(" [OPTIONS]")
    table = _columns()
    for title, group in options.items():
        if table.row_count:
            table.add_row("", "")
        table.add_row(Text(title, style="bold"), "")
        for option in group:
            name = Text.assemble("  ", (option.spelling, "cyan"))
            name.append(f" {option.metavar}" if option.spelling else option.metavar, style="dim")
            body = Text(option.doc)
            if option.required:
                body.append(" Required.", style="yellow")
            elif option.default:
                body.append(f" [{option.default}]", style="dim")
            table.add_row(name, body)
    about = Text(_paragraph(inspect.getdoc(entry.config_type) or ""))
    _print(console, about, Text(""), usage, Text(""), *([table, Text("")] if options else []))
    commands = [
        (why, f"bertwright {entry.name} {arguments}".strip())
        for why, arguments in entry.module.EXAMPLES
    ]
    _print_examples(console, "Examples", commands)


def verb_options(entry: VerbEntry) -> dict[str, list[Option]]:
    """Return the verb's options under the titles of its module's `GROUPS`.

    A nested config stands in `GROUPS` under its own name, for those of its options that have not
    been shown before. What `GROUPS` leaves out comes last, under "More".
    """
    titles = dict(entry.module.GROUPS)
    titles["More"] = tuple(f.name for f in dataclasses.fields(entry.config_type))
    every = {
        f.name: list(_field_options(entry.config_type, f.name))
        for f in dataclasses.fields(entry.config_type)
    }
    single = {option.field: [option] for group in every.values() for option in group}
    shown: set[str] = set()
    options: dict[str, list[Option]] = {}
    for title, names in titles.items():
        for name in names:
            for option in every.get(name) or single[name]:
                if option.field not in shown:
                    shown.add(option.field)
                    options.setdefault(title, []).append(option)
    if entry.offers_json:
        listed = Option("json", "--json", "", "Print JSON on stdout instead of a table.", "", False)
        options.setdefault("Output", []).append(listed)
    return options


def describe_options(config_type: type) -> Table:
    """Return the options of a method, as `--method NAME:key=value` takes them.

    Fields that are left out of the repr are their caller's.
    """
    table = _columns()
    for f in (field for field in dataclasses.fields(config_type) if field.repr):
        for option in _field_options(config_type, f.name):
            body = Text(option.doc)
            default = option.default or ("none" if option.metavar else "no")
            body.append(" Required." if option.required else f" [{default}]", "dim")
            table.add_row(Text(f"  {option.field}", style="cyan"), body)
    return table


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring literal under each field of a dataclass, as one line each."""
    docs: dict[str, str] = {}
    for owner in reversed([kind for kind in cls.__mro__ if dataclasses.is_dataclass(kind)]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        body = typing.cast(ast.ClassDef, tree.body[0]).body
        for statement, after in pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                docs[statement.target.id] = _paragraph(after.value.value)
    return docs


def _field_options(cls: type, name: str, within: Any = None) -> Iterator[Option]:
    """Yield the options of a field; `within` is the instance whose values are the defaults."""
    hint = typing.get_type_hints(cls)[name]
    field = next(f for f in dataclasses.fields(cls) if f.name == name)
    default = field.default if within is None else getattr(within, name)
    if field.default_factory is not dataclasses.MISSING and within is None:
        default = field.default_factory()
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        for f in dataclasses.fields(hint):
            yield from _field_options(hint, f.name, default)
        return
    metavar, spelling = METAVARS.get(name) or _metavar(hint), option_name(name)
    doc = field_docs(cls).get(name, "")
    choices = _choices(hint)
    if hint is bool and default is True:
        metavar, spelling = "", option_name(f"no_{name}")
        doc = f"Turns this off: {doc[:1].lower()}{doc[1:]}"
    elif hint is bool:
        metavar = ""
    elif is_positional(cls, name):
        spelling = ""
    yield Option(
        field=name,
        spelling=spelling,
        metavar=metavar,
        doc=f"{doc} One of {', '.join(map(str, choices))}." if metavar == "CHOICE" else doc,
        default=_shown_default(default),
        required=default is dataclasses.MISSING,
    )


def _choices(hint: Any) -> tuple[Any, ...]:
    """Return the values of a Literal, also within an optional or a tuple."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return tuple(choice for arg in typing.get_args(hint) for choice in _choices(arg))


def _metavar(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return "|".join(dict.fromkeys(_metavar(arg) for arg in args if arg is not type(None)))
    if origin is Literal:
        names = "|".join(map(str, args))
        return names if len(names) <= MAX_METAVAR else "CHOICE"
    if origin is tuple:
        return _metavar(args[0])
    return {int: "N", float: "X", str: "TEXT", Path: "PATH"}.get(hint, "")


def _shown_default(value: Any) -> str:
    if value is None or isinstance(value, bool) or value == () or value is dataclasses.MISSING:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)


def _paragraph(text: str) -> str:
    return " ".join(text.split())


def _columns() -> Table:
    table = Table.grid(padding=(0, 2), expand=False)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    return table


def _print_examples(console: Console, title: str, pairs: Iterable[tuple[str, str]]) -> None:
    console.print(Text(title, style="bold"))
    for why, command in pairs:
        console.print(Text(f"  # {why}", style="dim"), soft_wrap=True)
        console.print(Text(_folded(command, console.width - 2)), soft_wrap=True)


def _folded(command: str, width: int) -> str:
    """Break a long command before options, as a shell allows, so that it can be copied."""
    lines = ["  "]
    for number, part in enumerate(command.split(" --")):
        word = part if number == 0 else f"--{part}"
        if number and len(lines[-1]) + len(word) + 1 > width:
            lines[-1] += " \\"
            lines.append(f"      {word}")
        else:
            lines[-1] += word if number == 0 else f" {word}"
    return "\n".join(lines)


def _print(console: Console, *parts: RenderableType) -> None:
    console.print(Group(*parts), width=min(console.width, MAX_WIDTH))
