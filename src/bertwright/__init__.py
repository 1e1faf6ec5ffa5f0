"""bertwright: build, slim and ship encoders of the BERT family.

The verbs of the command line are functions here, with the options as keyword arguments:

    import bertwright
    bertwright.finetune(data="train.csv", out="runs/mine", epochs=2)

Everything is imported when first used, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from bertwright.models.task_model import TaskModel

    __version__: str
    benchmark: Callable[..., Any]
    compare: Callable[..., Any]
    compress: Callable[..., Any]
    cut: Callable[..., Any]
    demo: Callable[..., Any]
    distil: Callable[..., Any]
    doctor: Callable[..., Any]
    embed: Callable[..., Any]
    evaluate: Callable[..., Any]
    exits: Callable[..., Any]
    export: Callable[..., Any]
    finetune: Callable[..., Any]
    methods: Callable[..., Any]
    multitask: Callable[..., Any]
    predict: Callable[..., Any]
    run: Callable[..., Any]
    shorten: Callable[..., Any]
    trim: Callable[..., Any]

__all__ = [
    "__version__",
    "benchmark",
    "compare",
    "compress",
    "cut",
    "demo",
    "distil",
    "doctor",
    "embed",
    "evaluate",
    "exits",
    "export",
    "finetune",
    "load",
    "methods",
    "multitask",
    "predict",
    "run",
    "shorten",
    "trim",
]

_VERBS = tuple(name for name in __all__ if name not in ("__version__", "load"))
_VERB_PACKAGES = ("compare", "compress", "evaluate", "methods")


def load(path: str, head: str | None = None) -> TaskModel:
    """Load a model from a run directory or a model directory, in evaluation mode.

    `head` names one of several (see `multitask`).

    Raises:
        CheckpointError: it is incomplete, corrupt, or written by a newer version.
    """
    from bertwright.evaluate.measure import model_folder
    from bertwright.models.multi import head_folder
    from bertwright.models.task_model import TaskModel

    return TaskModel.load(model_folder(head_folder(path, head)))


def _call_verb(name: str, options: dict[str, Any]) -> Any:
    from bertwright.config import config_from_kwargs
    from bertwright.verbs import VERBS

    entry = VERBS[name]
    config = config_from_kwargs(entry.config_type, options, source=f"bertwright.{name}()")
    return entry.function(config)


def _make_verb(name: str) -> Callable[..., Any]:
    def verb(**options: Any) -> Any:
        return _call_verb(name, options)

    verb.__name__ = verb.__qualname__ = name
    verb.__doc__ = f"Do what `bertwright {name}` does; its --help lists the options."
    return verb


class _VerbPackage(ModuleType):
    """A subpackage that is also the verb of its name: `evaluate`, `compress`, `methods`."""

    def __call__(self, **options: Any) -> Any:
        return _call_verb(self.__name__.rpartition(".")[2], options)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # importing `bertwright.evaluate.measure` binds the name `evaluate` here to the subpackage
        if name in _VERBS and isinstance(value, ModuleType):
            value.__class__ = _VerbPackage
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("bertwright")
    if name in _VERB_PACKAGES:
        return importlib.import_module(f"bertwright.{name}")
    if name in _VERBS:
        verb = globals()[name] = _make_verb(name)
        return verb
    raise AttributeError(f"module 'bertwright' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package
