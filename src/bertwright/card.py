"""The method card: what a person must know about a method before using it, as data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

__all__ = ["MethodCard", "MethodKind", "render_card_markdown", "render_card_text"]

MethodKind = Literal[
    "finetune",
    "distil",
    "replace",
    "prune",
    "exit",
    "quantize",
    "long",
    "pool",
    "frozen",
    "compare",
]

_TITLES = {
    "summary": "What it does",
    "equation": "Equation",
    "needs": "Needs",
    "cost": "Cost",
    "expected_effect": "Expected effect",
    "expected_source": "Source of that figure",
    "when_to_use": "When to use it",
    "when_not_to_use": "When not to use it",
    "siblings": "Relation to its siblings",
    "departures": "Where this departs from the paper",
    "paper": "Paper",
    "citation": "Citation",
}


@dataclass(frozen=True, kw_only=True)
class MethodCard:
    """One method, described. Every field must be filled; a test holds this."""

    name: str
    kind: MethodKind
    summary: str
    paper: str
    year: int
    citation: str
    equation: str
    """With its reduction (mean over what) and constants (T² or not)."""
    needs: str
    """Labels? a teacher? calibration rows? which model roles?"""
    cost: str
    """Extra passes, memory, parameters."""
    expected_effect: str
    expected_source: str
    when_to_use: str
    when_not_to_use: str
    siblings: str
    departures: str

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and not value.strip():
                raise ValueError(f"MethodCard {self.name!r}: field {field.name!r} is empty")


def render_card_text(card: MethodCard) -> list[tuple[str, str]]:
    """Return (title, body) pairs in reading order, for a terminal or a page to lay out."""
    return [(title, getattr(card, key)) for key, title in _TITLES.items()]


def render_card_markdown(card: MethodCard) -> str:
    """Return the card as a Markdown section."""
    parts = [f"### `{card.name}` ({card.kind}, {card.year})", ""]
    for title, body in render_card_text(card):
        block = f"```text\n{body}\n```" if title == "Equation" else body
        parts += [
            f"**{title}.** {block}" if title != "Equation" else f"**{title}.**\n\n{block}",
            "",
        ]
    return "\n".join(parts)
