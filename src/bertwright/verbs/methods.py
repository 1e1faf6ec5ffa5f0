"""List the methods, or show the card of one."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from bertwright.card import MethodCard
from bertwright.registry import Choices, list_methods

__all__ = ["EXAMPLES", "GROUPS", "MethodsConfig", "methods"]

EXAMPLES = (
    ("all of them, by kind", ""),
    ("one in full", "theseus"),
    ("for a program to read", "--json"),
)
GROUPS = {"What you give": ("name",)}


@dataclass(frozen=True, kw_only=True)
class MethodsConfig:
    """List the methods, poolings, learners and contenders, or show everything about one.

    That is its equation, what it needs and costs, what to expect of it and by whose measurement,
    when to use it and when not, and its options.
    """

    name: tyro.conf.Positional[str | None] = None
    """The one to show. Without it, all are listed."""


def methods(config: MethodsConfig) -> list[MethodCard]:
    """Return the cards of all methods, poolings, learners and contenders, or of the one named.

    Raises:
        UnknownChoiceError: nothing has this name.
    """
    from bertwright.compare import CONTENDERS
    from bertwright.features.learners import LEARNERS
    from bertwright.models.pooling import POOLINGS

    cards = [entry.card for entry in list_methods()]
    cards += [kind.card for kinds in (POOLINGS, LEARNERS, CONTENDERS) for kind in kinds.values()]
    if config.name is None:
        return cards
    return [Choices("method", {card.name: card for card in cards})[config.name]]
