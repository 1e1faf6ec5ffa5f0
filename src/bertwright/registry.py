"""How methods, poolings, heads and engines are found by name.

Methods register with a decorator keyed by their config type. Small closed choices (a pooling, an
engine) are a `Choices` dict whose error lists the legal keys and the closest match.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, Generic, TypeVar

from bertwright.card import MethodCard
from bertwright.config import config_from_strings
from bertwright.errors import ConfigError, UnknownChoiceError

__all__ = [
    "Choices",
    "MethodEntry",
    "find_method",
    "list_methods",
    "parse_method_spec",
    "register_method",
    "split_spec",
]

V = TypeVar("V")
T = TypeVar("T", bound=type)


class Choices(Mapping[str, V], Generic[V]):
    """A read-only dict of named things that explains itself when the name is wrong."""

    def __init__(self, what: str, items: Mapping[str, V]) -> None:
        self.what = what
        self._items = dict(items)

    def __getitem__(self, name: str) -> V:
        try:
            return self._items[name]
        except KeyError:
            raise UnknownChoiceError(self.what, name, self._items) from None

    def __iter__(self):
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the thing of this name, or `default`, as a dict does."""
        return self._items.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._items


@dataclass(frozen=True)
class MethodEntry:
    """One registered method: its card, the type of its options, and the class that applies it."""

    card: MethodCard
    config_type: type
    apply: Any

    @property
    def name(self) -> str:
        """The name on the card."""
        return self.card.name


_METHODS: dict[type, MethodEntry] = {}


def register_method(*, config: type, card: MethodCard) -> Callable[[T], T]:
    """Class decorator: register the decorated class as the method that `config` describes.

    Raises:
        ValueError: the config type or the card's name is registered already.
    """
    if not is_dataclass(config):
        raise ValueError(f"{config!r} is not a dataclass")

    def decorate(cls: T) -> T:
        taken = {entry.name for entry in _METHODS.values()}
        if config in _METHODS or card.name in taken:
            raise ValueError(f"method {card.name!r} ({config.__name__}) is registered twice")
        _METHODS[config] = MethodEntry(card=card, config_type=config, apply=cls)
        return cls

    return decorate


def _import_methods() -> None:
    package = importlib.import_module("bertwright.methods")
    for module in pkgutil.walk_packages(package.__path__, prefix="bertwright.methods."):
        importlib.import_module(module.name)


def list_methods() -> list[MethodEntry]:
    """Return every method of the package, ordered by kind and name."""
    _import_methods()
    return sorted(_METHODS.values(), key=lambda entry: (entry.card.kind, entry.name))


def find_method(key: str | type) -> MethodEntry:
    """Return the method of this name or config type.

    Raises:
        UnknownChoiceError: no method has this name.
    """
    entries = list_methods()
    for entry in entries:
        if key in (entry.name, entry.config_type):
            return entry
    name = key if isinstance(key, str) else key.__name__
    raise UnknownChoiceError("method", name, [entry.name for entry in entries])


def parse_method_spec(spec: str) -> Any:
    """Turn `name` or `name:key=value,key=value` into an instance of the method's config type.

    Raises:
        ConfigError: an option is unknown, or its value is not of its type.
    """
    name, options = split_spec(spec, "--method")
    return config_from_strings(find_method(name).config_type, options, source=f"--method {spec}")


def split_spec(spec: str, option: str) -> tuple[str, dict[str, str]]:
    """Return the name and the options of `name` or `name:key=value,key=value`.

    Args:
        spec: what was given.
        option: the option that it was given with, for messages.

    Raises:
        ConfigError: a part is not key=value.
    """
    name, _, rest = spec.partition(":")
    pairs: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in rest.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(
                f"{option} {spec}: {part!r} is not key=value", hint="write NAME:key=value,key=value"
            )
        pairs[key.strip()] = value.strip()
    return name.strip(), pairs
