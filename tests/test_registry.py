from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from bertwright import registry
from bertwright.config import require
from bertwright.errors import ConfigError, UnknownChoiceError
from bertwright.registry import (
    Choices,
    find_method,
    list_methods,
    parse_method_spec,
    register_method,
)


@dataclass(frozen=True, kw_only=True)
class DecayConfig:
    decay: float = 0.9
    layers: tuple[int, ...] = ()
    bias: bool = True

    def __post_init__(self) -> None:
        require(0 < self.decay <= 1, "decay", self.decay, "above 0, at most 1")


class Decay:
    pass


@pytest.fixture
def decay(monkeypatch):
    """Register one more method, for this test only."""
    list_methods()
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    card = replace(list_methods()[0].card, name="decay", kind="finetune")
    assert register_method(config=DecayConfig, card=card)(Decay) is Decay
    return card


def test_a_method_is_found_by_name_and_by_config(decay):
    assert find_method("decay") is find_method(DecayConfig)
    assert find_method("decay").apply is Decay
    assert "decay" in [entry.name for entry in list_methods()]


def test_methods_are_listed_by_kind_and_name(decay):
    keys = [(entry.card.kind, entry.name) for entry in list_methods()]
    assert keys == sorted(keys)


def test_registering_twice_raises(decay):
    with pytest.raises(ValueError, match="registered twice"):
        register_method(config=DecayConfig, card=replace(decay, name="other"))(Decay)

    @dataclass(frozen=True)
    class Other:
        pass

    with pytest.raises(ValueError, match="registered twice"):
        register_method(config=Other, card=decay)(Decay)
    with pytest.raises(ValueError, match="not a dataclass"):
        register_method(config=int, card=decay)


def test_a_spec_becomes_a_config(decay):
    assert parse_method_spec("decay") == DecayConfig()
    assert parse_method_spec("decay:") == DecayConfig()
    spec = " decay : decay = 0.5 , layers=1+3, bias=no "
    assert parse_method_spec(spec) == DecayConfig(decay=0.5, layers=(1, 3), bias=False)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("decy", "did you mean 'decay'?"),
        ("decay:deacy=1", "did you mean 'decay'?"),
        ("decay:0.9", "'0.9' is not key=value"),
        ("decay:decay=x", "--method decay:decay=x: decay: 'x' is not a valid float"),
        ("decay:decay=2", "--method decay:decay=2: --decay 2.0: must be above 0, at most 1"),
        ("", "unknown method ''"),
    ],
)
def test_a_wrong_spec_is_refused_with_words(decay, spec, words):
    with pytest.raises((ConfigError, UnknownChoiceError)) as caught:
        parse_method_spec(spec)
    assert words in str(caught.value)


def test_choices_explain_themselves():
    choices = Choices("pooling", {"mean": 1, "cls": 2})
    assert choices["mean"] == 1
    assert list(choices) == ["mean", "cls"] and len(choices) == 2
    assert "cls" in choices and "max" not in choices
    assert choices.get("max") is None and choices.get("max", 7) == 7 and choices.get("cls") == 2
    with pytest.raises(UnknownChoiceError, match="unknown pooling 'maen'"):
        choices["maen"]


def test_choices_do_not_follow_the_dict_they_were_made_of():
    source = {"a": 1}
    choices = Choices("thing", source)
    source["b"] = 2
    assert list(choices) == ["a"]
