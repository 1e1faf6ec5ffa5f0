"""One definition for the Python call, the YAML recipe and the command line: a frozen dataclass.

The command line itself is read in `bertwright.cli.parse`.

Fields may be bool, int, float, str, `Path`, a `Literal`, an optional of these, a tuple of these
(`tuple[str, ...]`), or another config dataclass. Ranges are checked in `__post_init__`, which
raises `ConfigError` naming the option. Unknown keys raise.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from bertwright.errors import ConfigError, closest_match

__all__ = [
    "RECIPE_VERSION",
    "config_from_dict",
    "config_from_kwargs",
    "config_from_strings",
    "config_to_dict",
    "dump_recipe",
    "flat_fields",
    "load_recipe",
    "option_name",
    "require",
]

RECIPE_VERSION = 1
C = TypeVar("C")


def option_name(field_name: str) -> str:
    """Return how a field is spelled on the command line: `max_steps` -> `--max-steps`."""
    return "--" + field_name.replace("_", "-")


def require(condition: bool, field_name: str, value: object, must: str) -> None:
    """Raise a ConfigError that names the option unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{option_name(field_name)} {value}: must be {must}")


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return the config as plain YAML/JSON values, defaults included, nested configs as dicts."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return value

    return plain(config)


def config_from_dict(cls: type[C], values: Mapping[str, Any], *, source: str = "config") -> C:
    """Build `cls` from plain values (as YAML or JSON gives them).

    Raises:
        ConfigError: a key is unknown (with the closest legal one), missing, or of the wrong type.
    """
    return _from_mapping(cls, values, source, strings=False)


def config_from_strings(cls: type[C], values: Mapping[str, str], *, source: str) -> C:
    """Like `config_from_dict`, for values that are all text (`--method name:key=value`)."""
    return _from_mapping(cls, values, source, strings=True)


def _from_mapping(cls: type[C], values: Mapping[str, Any], source: str, *, strings: bool) -> C:
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            guess = closest_match(str(key), names)
            hint = f"did you mean {guess!r}? " if guess else ""
            raise ConfigError(
                f"{source}: unknown key {key!r}", hint=f"{hint}Known: {', '.join(names)}"
            )
    built = {
        key: _coerce(hints[key], value, f"{source}: {key}", strings=strings)
        for key, value in values.items()
    }
    return _construct(cls, built, source)


def config_from_kwargs(cls: type[C], kwargs: Mapping[str, Any], *, source: str) -> C:
    """Build `cls` from the keyword arguments of a Python verb.

    A key of a nested config may be given flat (`lr=1e-4` for `training.lr`), as on the command
    line; a nested config or dict may also be given whole.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    nested = {name: hints[name] for name in fields if dataclasses.is_dataclass(hints[name])}
    values: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    legal = [*fields]
    for key, value in kwargs.items():
        if key in fields:
            values[key] = value
            continue
        owners = [
            name
            for name, kind in nested.items()
            if key in {f.name for f in dataclasses.fields(kind)}
        ]
        if not owners:
            for kind in nested.values():
                legal += [f.name for f in dataclasses.fields(kind)]
            guess = closest_match(key, legal)
            hint = f"did you mean {guess!r}? " if guess else ""
            raise ConfigError(
                f"{source}: unknown argument {key!r}", hint=f"{hint}Known: {', '.join(legal)}"
            )
        inner.setdefault(owners[0], {})[key] = value
    for name, given in inner.items():
        whole = values.get(name, {})
        base = config_to_dict(whole) if dataclasses.is_dataclass(whole) else dict(whole)
        values[name] = {**base, **given}
    coerced = {
        key: value
        if dataclasses.is_dataclass(value)
        else _coerce(hints[key], value, f"{source}: {key}", strings=False)
        for key, value in values.items()
    }
    return _construct(cls, coerced, source)


def _construct(cls: type[C], values: dict[str, Any], source: str) -> C:
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        needed = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if needed and f.name not in values:
            raise ConfigError(
                f"{source}: {f.name!r} is missing", hint=f"give {option_name(f.name)}"
            )
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error.message}", hint=error.hint) from None


def _coerce(hint: Any, value: Any, where: str, *, strings: bool) -> Any:
    """Return `value` as the type `hint`, or raise a ConfigError naming `where`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _coerce(args[0], value, where, strings=strings)
    if origin in (Union, types.UnionType):
        if value is None or (strings and value.lower() == "none" and type(None) in args):
            if type(None) in args:
                return None
            raise ConfigError(f"{where}: may not be empty")
        options = [arg for arg in args if arg is not type(None)]
        error: ConfigError | None = None
        for option in options:
            try:
                return _coerce(option, value, where, strings=strings)
            except ConfigError as caught:
                error = error or caught
        assert error is not None
        raise error
    if origin is Literal:
        for arg in args:
            if value == arg or (strings and value == str(arg)):
                return arg
        guess = closest_match(str(value), [str(arg) for arg in args])
        raise ConfigError(
            f"{where}: {value!r} is not a choice",
            hint=(f"did you mean {guess!r}? " if guess else "")
            + f"Choose from: {', '.join(map(str, args))}",
        )
    if origin in (tuple, list):
        items = value.split("+") if strings else value
        if isinstance(items, str) or not isinstance(items, Sequence):
            raise ConfigError(f"{where}: needs a list, got {value!r}")
        item_hint = args[0] if args else str
        coerced = [_coerce(item_hint, item, where, strings=strings) for item in items]
        return tuple(coerced) if origin is tuple else coerced
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: needs keys and values, got {value!r}")
        return dict(value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: needs keys and values, got {value!r}")
        return config_from_dict(hint, value, source=where)
    return _coerce_plain(hint, value, where, strings=strings)


def _coerce_plain(hint: Any, value: Any, where: str, *, strings: bool) -> Any:
    if hint is Any:
        return value
    if hint is bool:
        if isinstance(value, bool):
            return value
        if strings and value.lower() in ("true", "yes", "1", "false", "no", "0"):
            return value.lower() in ("true", "yes", "1")
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if strings or (isinstance(value, float) and value.is_integer()):
            try:
                return int(value)
            except ValueError:
                pass
    elif hint is float:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                return float(value)  # YAML reads 1e-4 as text
            except ValueError:
                pass
    elif hint is str:
        if isinstance(value, (str, Path)):
            return str(value)
    elif hint is Path:
        if isinstance(value, (str, Path)):
            return Path(value)
    else:
        raise TypeError(f"{where}: config fields of type {hint!r} are not supported")
    raise ConfigError(f"{where}: {value!r} is not a valid {hint.__name__}")


def dump_recipe(verb: str, config: Any) -> str:
    """Return the recipe as YAML text: version, verb, then every value, defaults included."""
    body = {"version": RECIPE_VERSION, "verb": verb, **config_to_dict(config)}
    return yaml.safe_dump(body, sort_keys=False, allow_unicode=True)


def load_recipe(path: str | Path) -> tuple[str, dict[str, Any]]:
    """Read a recipe file and return (verb, values), still plain.

    Raises:
        ConfigError: no such file, not YAML, no verb, or a version newer than this program.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("verb"), str):
        raise ConfigError(
            f"{path}: a recipe needs a 'verb' key", hint="for example: verb: finetune"
        )
    version = values.pop("version", RECIPE_VERSION)
    if version != RECIPE_VERSION:
        raise ConfigError(
            f"{path}: recipe version {version!r}, this program reads {RECIPE_VERSION}",
            hint="a newer bertwright wrote it; upgrade to read it",
        )
    return values.pop("verb"), values


def flat_fields(cls: type) -> list[tuple[str, Any]]:
    """Return (name, type) of every field, those of nested configs in their place."""
    hints = typing.get_type_hints(cls)
    pairs: list[tuple[str, Any]] = []
    for f in dataclasses.fields(cls):
        kind = hints[f.name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            pairs += flat_fields(kind)
        else:
            pairs.append((f.name, kind))
    return pairs
