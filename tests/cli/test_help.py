from __future__ import annotations

import dataclasses
import io
import shlex

import pytest
from rich.console import Console

from bertwright.cli.help import field_docs, print_overview, print_verb_help, verb_options
from bertwright.cli.parse import parse_command_line
from bertwright.config import flat_fields
from bertwright.verbs import GROUPS, VERBS


def page(show, *args, width: int) -> str:
    screen = io.StringIO()
    show(Console(file=screen, width=width, color_system=None), *args)
    return screen.getvalue()


def test_the_overview_shows_every_verb_in_its_group_on_one_line():
    text = page(print_overview, width=80)
    lines = [line.rstrip() for line in text.splitlines()]
    for entry in VERBS.values():
        assert entry.group in GROUPS and entry.group in text
        (line,) = [one for one in lines if one.startswith(f"  {entry.name} ")]
        assert line.endswith(entry.help), "the line is wrapped at 80 columns"


@pytest.mark.parametrize("name", list(VERBS))
@pytest.mark.parametrize("width", [80, 120])
def test_a_page_shows_every_option_with_a_text(name, width):
    entry = VERBS[name]
    text = page(print_verb_help, entry, width=width)
    options = [option for group in verb_options(entry).values() for option in group]
    listed = [option.field for option in options if option.field != "json"]
    assert sorted(listed) == sorted(field for field, _ in flat_fields(entry.config_type))
    for option in options:
        assert option.doc, f"{name} {option.spelling} has no help text"
        assert (option.spelling or option.metavar) in text
    assert "Examples" in text and "Usage" in text
    for noise in ("{None}", "fixed", "default_factory", "MISSING", "<class", "Ellipsis"):
        assert noise not in text
    assert text.count("Required.") == sum(option.required for option in options)
    wide = [
        line
        for line in text.splitlines()
        if len(line.rstrip()) > width and "bertwright" not in line
    ]
    assert not wide


@pytest.mark.parametrize("name", list(VERBS))
def test_every_example_can_be_parsed(name):
    entry = VERBS[name]
    assert entry.module.EXAMPLES
    for why, arguments in entry.module.EXAMPLES:
        assert why
        words = shlex.split(arguments.partition(" < ")[0])
        words = [word for word in words if not (entry.offers_json and word == "--json")]
        assert parse_command_line(entry.config_type, words, prog="x")


@pytest.mark.parametrize("name", list(VERBS))
def test_options_of_a_verb_do_not_collide(name):
    """A nested config's name must not be an option's name: keyword arguments would clash."""
    config_type = VERBS[name].config_type
    flat = [field for field, _ in flat_fields(config_type)]
    assert len(set(flat)) == len(flat)
    nested = {f.name for f in dataclasses.fields(config_type)} - set(flat)
    assert not nested & set(flat)


def test_defaults_units_and_switches_are_shown():
    options = {
        option.field: option
        for group in verb_options(VERBS["finetune"]).values()
        for option in group
    }
    assert options["lr"].default == "0.0001"
    assert options["epochs"].default == "3"
    assert options["data"].required and options["out"].required
    assert options["keep_best"].spelling == "--no-keep-best"
    assert options["keep_best"].doc.startswith("Turns this off: ")
    assert options["resume"].metavar == ""
    assert options["schedule"].metavar == "CHOICE"
    assert "One of linear, cosine, constant." in options["schedule"].doc
    export = [o for group in verb_options(VERBS["export"]).values() for o in group]
    assert {o.field: o for o in export}["max_rows"].default == "2000"


def test_texts_of_inherited_fields_are_found():
    @dataclasses.dataclass
    class Base:
        a: int = 1
        """First
        line."""

    @dataclasses.dataclass
    class Derived(Base):
        b: int = 2
        """Second."""
        c: int = 3

    assert field_docs(Derived) == {"a": "First line.", "b": "Second."}
