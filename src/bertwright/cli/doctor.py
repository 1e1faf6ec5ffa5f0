"""Show what `doctor` found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bertwright.cli.tables import print_json
from bertwright.verbs.doctor import DoctorReport

__all__ = ["show"]

YES = ("yes", "green")
NO = ("no", "yellow")
NAME_WIDTH = 22


def show(report: DoctorReport, *, as_json: bool = False) -> int:
    """Print the report on stdout. Exit status 1 when a core library is missing."""
    if as_json:
        print_json(dataclasses.asdict(report))
        return 0 if report.ready else 1
    console = Console(highlight=False)
    facts = report.machine
    machine = [
        ("processor", str(facts["processor"])),
        ("cores", f"{facts['cores']} usable"),
        ("memory", f"{facts['memory_gb']} GB"),
        ("disk", f"{report.disk_free_gb:,} GB free here"),
        ("cache", f"{report.cache} ({report.cache_mb:,.0f} MB)"),
        ("system", str(facts["system"])),
        ("python", report.python),
    ]
    features = [
        (name, Text(*(YES if feature["present"] else NO)), str(feature["use"]))
        for name, feature in report.features.items()
    ]
    libraries = [
        (
            name,
            Text(version, "green") if version else Text("missing", "yellow"),
            "" if extra == "core" else f"extra {extra}",
        )
        for extra, versions in report.libraries.items()
        for name, version in versions.items()
    ]
    engines = [
        (name, Text(*(NO if reason else YES)), reason or "")
        for name, reason in report.engines.items()
    ]
    _section(console, "Machine", machine)
    _section(console, "Processor features", features)
    _section(console, "Libraries", libraries)
    _section(console, "Engines", engines)
    if report.advice:
        console.print(Text("What to do next", style="bold"))
        for line in report.advice:
            console.print(Text.assemble(("  -> ", "green"), line))
    else:
        console.print(Text("All is well. Try: bertwright demo", style="green"))
    return 0 if report.ready else 1


def _section(console: Console, title: str, rows: Sequence[Sequence[str | Text]]) -> None:
    console.print(Text(title, style="bold"))
    table = Table.grid(padding=(0, 2))
    for place in range(len(rows[0]) if rows else 1):
        last = place == len(rows[0]) - 1 if rows else True
        table.add_column(
            style="" if place else "cyan",
            no_wrap=not last,
            min_width=(NAME_WIDTH, 9, 0)[place],
            overflow="fold",
        )
    for name, *rest in rows:
        table.add_row(Text.assemble("  ", name), *rest)
    console.print(table)
    console.print()
