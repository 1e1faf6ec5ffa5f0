from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bertwright.config import (
    config_from_dict,
    config_from_kwargs,
    config_from_strings,
    config_to_dict,
    dump_recipe,
    flat_fields,
    load_recipe,
    option_name,
    require,
)
from bertwright.errors import ConfigError

# PyYAML does not give control characters such as U+0085 back
PRINTABLE = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))


@dataclass(frozen=True, kw_only=True)
class Inner:
    lr: float = 1e-4
    steps: int | None = None
    mode: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", self.lr, "above 0")


@dataclass(frozen=True, kw_only=True)
class Outer:
    data: str
    out: Path = Path("runs/x")
    method: tuple[str, ...] = ()
    layers: tuple[int, ...] = (1, 2)
    resume: bool = False
    training: Inner = field(default_factory=Inner)


def test_a_recipe_holds_every_value_and_gives_the_same_config_back(tmp_path):
    config = Outer(data="ä.csv", method=("a:x=1",), training=Inner(lr=3e-5, mode="cosine"))
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe("finetune", config), encoding="utf-8")
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert list(written) == [
        "version", "verb", "data", "out", "method", "layers", "resume", "training",
    ]  # fmt: skip
    assert list(written["training"]) == ["lr", "steps", "mode"]
    verb, values = load_recipe(path)
    assert verb == "finetune"
    assert config_from_dict(Outer, values) == config


@given(
    lr=st.floats(min_value=1e-12, max_value=1e6),
    steps=st.none() | st.integers(1, 10**9),
    words=st.lists(st.text(PRINTABLE, max_size=8), max_size=3),
)
def test_any_config_survives_yaml(lr, steps, words):
    config = Outer(data="d", method=tuple(words), training=Inner(lr=lr, steps=steps))
    values = yaml.safe_load(dump_recipe("v", config))
    del values["version"], values["verb"]
    assert config_from_dict(Outer, values) == config


def test_yaml_reads_1e_4_as_text_and_it_is_a_number_all_the_same():
    values = yaml.safe_load("data: d\ntraining: {lr: 1e-4, steps: 3.0}")
    assert values["training"]["lr"] == "1e-4"
    training = config_from_dict(Outer, values).training
    assert training.lr == 1e-4
    assert training.steps == 3 and isinstance(training.steps, int)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data": "d", "metod": []}, ["recipe: unknown key 'metod'", "did you mean 'method'?"]),
        ({"data": "d", "training": {"rl": 1}}, ["recipe: training: unknown key 'rl'"]),
        ({}, ["'data' is missing", "--data"]),
        ({"data": 3}, ["recipe: data: 3 is not a valid str"]),
        ({"data": None}, ["data: None is not a valid str"]),
        ({"data": "d", "resume": "yes"}, ["resume: 'yes' is not a valid bool"]),
        ({"data": "d", "resume": 1}, ["resume: 1 is not a valid bool"]),
        ({"data": "d", "method": "swa"}, ["method: needs a list"]),
        ({"data": "d", "layers": [1, 2.5]}, ["layers: 2.5 is not a valid int"]),
        ({"data": "d", "layers": [True]}, ["layers: True is not a valid int"]),
        ({"data": "d", "training": 5}, ["training: needs keys and values"]),
        ({"data": "d", "training": {"mode": "cosin"}}, ["not a choice", "did you mean 'cosine'?"]),
        ({"data": "d", "training": {"lr": -1}}, ["recipe: training: --lr -1.0: must be above 0"]),
        ({"data": "d", "training": {"lr": "fast"}}, ["lr: 'fast' is not a valid float"]),
        ({"data": "d", "training": {"lr": True}}, ["lr: True is not a valid float"]),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(values, words):
    with pytest.raises(ConfigError) as caught:
        config_from_dict(Outer, values, source="recipe")
    for word in words:
        assert word in str(caught.value)
    assert caught.value.exit_code == 2


def test_strings_become_values_of_their_types():
    values = {"lr": "0.5", "steps": "none", "mode": "cosine"}
    assert config_from_strings(Inner, values, source="--method x") == Inner(lr=0.5, mode="cosine")
    assert config_from_strings(Inner, {"steps": "7"}, source="x").steps == 7
    strings = {"data": "d", "layers": "0+2+5", "resume": "true", "out": "o"}
    outer = config_from_strings(Outer, strings, source="x")
    assert outer.layers == (0, 2, 5) and outer.resume is True and outer.out == Path("o")


@pytest.mark.parametrize(
    "strings", [{"steps": "7.5"}, {"steps": ""}, {"lr": "x"}, {"mode": "x"}, {"x": "1"}]
)
def test_strings_that_do_not_fit_are_refused_with_their_source(strings):
    with pytest.raises(ConfigError, match="--method x"):
        config_from_strings(Inner, strings, source="--method x")


def test_keyword_arguments_may_be_flat_or_nested_or_both():
    flat = config_from_kwargs(Outer, {"data": "d", "lr": 0.1, "steps": 2}, source="f()")
    assert flat.training == Inner(lr=0.1, steps=2)
    kwargs: dict[str, Any] = {"data": "d", "training": Inner(steps=5), "lr": 0.2}
    assert config_from_kwargs(Outer, kwargs, source="f()").training == Inner(lr=0.2, steps=5)
    kwargs = {"data": "d", "training": {"steps": 5}, "out": "runs/y", "method": ["a"]}
    both = config_from_kwargs(Outer, kwargs, source="f()")
    assert both.training.steps == 5 and both.out == Path("runs/y") and both.method == ("a",)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"data": "d", "step": 3}, ["f(): unknown argument 'step'", "did you mean 'steps'?"]),
        ({"data": "d", "lr": 0}, ["f(): training", "--lr 0.0: must be above 0"]),
        ({"lr": 1}, ["'data' is missing"]),
        ({"data": ["a"]}, ["f(): data: ['a'] is not a valid str"]),
    ],
)
def test_wrong_keyword_arguments_are_named(kwargs, words):
    with pytest.raises(ConfigError) as caught:
        config_from_kwargs(Outer, kwargs, source="f()")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "needs a 'verb' key"),
        ("data: d", "needs a 'verb' key"),
        ("verb: 3", "needs a 'verb' key"),
        ("verb: finetune\nversion: 10", "recipe version 10"),
        ("verb: finetune\nversion: '1'", "recipe version '1'"),
    ],
)
def test_a_broken_recipe_is_refused_by_name(tmp_path, text, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


def test_a_recipe_that_cannot_be_read_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match="no such recipe file"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_recipe(tmp_path / "b.yaml")


def test_a_recipe_without_version_is_of_the_first(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("verb: finetune\ndata: d\n")
    assert load_recipe(path) == ("finetune", {"data": "d"})


def test_plain_values_hold_no_paths_and_no_tuples():
    plain = config_to_dict(Outer(data="d", out=Path("a/b")))
    assert plain["out"] == "a/b" and plain["layers"] == [1, 2]
    assert plain["training"] == {"lr": 1e-4, "steps": None, "mode": "linear"}


def test_option_names_and_flat_fields():
    assert option_name("max_steps") == "--max-steps"
    names = [name for name, _ in flat_fields(Outer)]
    assert names == ["data", "out", "method", "layers", "resume", "lr", "steps", "mode"]


def test_a_field_of_an_unsupported_type_is_the_programmers_error():
    @dataclass(frozen=True, kw_only=True)
    class Odd:
        value: complex = 1j

    with pytest.raises(TypeError, match="not supported"):
        config_from_dict(Odd, {"value": 1})
