from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
import tyro

from bertwright.cli.parse import is_positional, parse_command_line
from bertwright.config import require
from bertwright.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Training:
    lr: float = 1e-4
    mode: Literal["linear", "cosine"] = "linear"
    patience: int | None = None

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", self.lr, "above 0")


@dataclass(frozen=True, kw_only=True)
class Verb:
    data: str
    out: str
    method: tuple[str, ...] = ()
    resume: bool = False
    keep_best: bool = True
    eval_data: str | None = None
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        require(self.data != "x", "data", self.data, "something else")


@dataclass(frozen=True, kw_only=True)
class Show:
    name: tyro.conf.Positional[str | None] = None
    recipe: tyro.conf.Positional[str]


def parse(line: str) -> Verb:
    return parse_command_line(Verb, line.split(), prog="bertwright verb")


def test_options_are_flat_and_repeatable():
    config = parse("--data d --out=o --method a:x=1 --method b --lr 1e-3 --no-keep-best --resume")
    assert config == Verb(
        data="d",
        out="o",
        method=("a:x=1", "b"),
        keep_best=False,
        resume=True,
        training=Training(lr=1e-3),
    )


def test_underscores_do_as_well_and_none_is_none():
    config = parse("--data d --out o --eval_data e --patience None")
    assert config.eval_data == "e" and config.training.patience is None
    assert parse("--data d --out o").method == ()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--out o", "--data is missing"),
        ("", "--data, --out are missing"),
        ("--data d --out o --evaldata e", "did you mean --eval-data?"),
        ("--data d --out o --learning 3", "unknown option --learning"),
        ("--data d --out o --lr=-1", "--lr -1.0: must be above 0"),
        ("--data x --out o", "--data x: must be something else"),
        ("--dat=d --out o", "did you mean --data?"),
    ],
)
def test_bad_usage_names_the_option(line, words, capsys):
    with pytest.raises(ConfigError) as caught:
        parse(line)
    assert words in str(caught.value)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--data d --out o --lr fast", "--lr"),
        ("--data d --out o --mode x", "--mode"),
        ("--data d --out o --patience 1.5", "--patience"),
        ("--data d --out o stray", "stray"),
        ("--data d --out", "--out"),
    ],
)
def test_what_does_not_fit_its_type_exits_2_and_names_the_option(line, words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(line)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_positional_arguments():
    assert is_positional(Show, "recipe") and not is_positional(Verb, "data")
    with pytest.raises(ConfigError, match="RECIPE is missing"):
        parse_command_line(Show, [], prog="bertwright show")
