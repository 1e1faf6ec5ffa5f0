from __future__ import annotations

from dataclasses import fields, replace
from typing import get_args

import pytest

from bertwright.card import MethodCard, MethodKind, render_card_markdown, render_card_text
from bertwright.registry import list_methods

CARD = MethodCard(
    name="swa",
    kind="finetune",
    summary="Average the weights.",
    paper="Averaging weights",
    year=2018,
    citation="Someone 2018",
    equation="w = mean_t w_t",
    needs="Nothing.",
    cost="A copy of the weights.",
    expected_effect="+0.3 points",
    expected_source="the paper",
    when_to_use="Always.",
    when_not_to_use="Never.",
    siblings="ema",
    departures="None.",
)
TEXTS = [f.name for f in fields(MethodCard) if f.name != "year"]


@pytest.mark.parametrize("name", TEXTS)
def test_no_field_may_be_empty(name):
    with pytest.raises(ValueError, match=f"{name!r} is empty"):
        replace(CARD, **{name: "  "})


def test_every_field_is_shown():
    text = dict(render_card_text(CARD))
    markdown = render_card_markdown(CARD)
    for name in TEXTS:
        assert getattr(CARD, name) in markdown
        assert name in ("name", "kind") or getattr(CARD, name) in text.values()
    assert "### `swa` (finetune, 2018)" in markdown
    assert "```text\nw = mean_t w_t\n```" in markdown


def test_every_method_of_the_package_has_a_full_card():
    entries = list_methods()
    assert len(entries) >= 5
    for entry in entries:
        card = entry.card
        assert card.kind in get_args(MethodKind)
        assert 1980 < card.year <= 2026, card.name
        assert len(card.summary.splitlines()) == 1, card.name
        assert card.name == card.name.lower() and " " not in card.name
        assert max(map(len, card.equation.splitlines())) <= 100, card.name
