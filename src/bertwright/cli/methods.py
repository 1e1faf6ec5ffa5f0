"""Show the methods' cards."""

from __future__ import annotations

import dataclasses
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bertwright.card import MethodCard, render_card_text
from bertwright.cli.help import describe_options
from bertwright.cli.tables import print_json
from bertwright.registry import find_method

__all__ = ["show"]

KINDS = {
    "finetune": "Fine-tuning",
    "distil": "Distillation: a student learns from a teacher",
    "replace": "Replacement: parts of the model give way to smaller ones",
    "prune": "Pruning: parts of the model are taken out",
    "exit": "Early exit: no more layers than a text needs",
    "quantize": "Quantization: fewer bits a number",
    "long": "Long texts",
    "pool": "Pooling: from the states of an encoder to one vector a text (--pooling NAME)",
    "frozen": "Learners on a frozen encoder (finetune --frozen --learner NAME)",
    "compare": "Contenders (compare --contender NAME)",
}
USES = {
    "pool": "finetune --pooling",
    "frozen": "finetune --frozen --learner",
    "compare": "compare --contender",
}
MAX_WIDTH = 100


def show(cards: list[MethodCard], *, as_json: bool = False) -> int:
    """Print the cards on stdout: one in full, or a line for each of several."""
    if as_json:
        print_json([dataclasses.asdict(card) for card in cards])
    elif len(cards) == 1:
        _show_one(cards[0])
    else:
        _show_list(cards)
    return 0


def _show_list(cards: list[MethodCard]) -> None:
    console = Console()
    names = max(len(card.name) for card in cards) + 2
    for kind, group in groupby(cards, key=lambda card: card.kind):
        console.print(Text(KINDS[kind], style="bold"))
        table = Table.grid(padding=(0, 2))
        table.add_column(style="cyan", no_wrap=True, min_width=names)
        table.add_column()
        for card in group:
            table.add_row(f"  {card.name}", escape(card.summary))
        console.print(table, width=min(console.width, MAX_WIDTH))
    console.print(Text("\nbertwright methods NAME shows one in full", style="dim"))


def _show_one(card: MethodCard) -> None:
    console = Console()
    width = min(console.width, MAX_WIDTH)
    console.print(Text.assemble((card.name, "bold cyan"), f"  ({card.kind}, {card.year})"))
    for title, body in render_card_text(card):
        console.print(Text(f"\n{title}", style="bold"))
        if title == "Equation":
            equation = "\n".join(f"  {line}" for line in body.splitlines())
            console.print(Text(equation, style="green"), soft_wrap=True)
        else:
            console.print(Padding(Text(body), (0, 0, 0, 2)), width=width)
    if card.kind in USES:
        console.print(Text("\nUse it", style="bold"))
        name = _with_number(card.name) if card.kind == "pool" else card.name
        console.print(Padding(Text(f"bertwright {USES[card.kind]} {name}"), (0, 0, 0, 2)))
    if card.kind in ("pool", "frozen"):
        return
    console.print(Text("\nOptions", style="bold"), Text("(NAME:key=value,key=value)", style="dim"))
    console.print(describe_options(_options_of(card)), width=width)


def _options_of(card: MethodCard) -> type:
    from bertwright.compare import CONTENDERS

    return CONTENDERS[card.name] if card.kind == "compare" else find_method(card.name).config_type


def _with_number(name: str) -> str:
    """Return how a pooling is written, with the number it may have."""
    from bertwright.models.pooling import POOLINGS

    what = POOLINGS[name].number_is
    return name if what is None else f"{name}[:{what.upper()}]"
