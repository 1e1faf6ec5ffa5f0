"""The verbs: what a person asks bertwright to do, the same in Python and on the command line.

One file a verb: a frozen config dataclass and a function of it. This table knows them by name
without importing them, so that help and start-up stay quick.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from bertwright.registry import Choices

__all__ = ["GROUPS", "VERBS", "VerbEntry"]

GROUPS = ("Start here", "Make a model", "Judge it", "Use it", "Look things up")


@dataclass(frozen=True, kw_only=True)
class VerbEntry:
    """Where a verb lives and how it is introduced."""

    name: str
    config_name: str
    help: str
    """One line, for the list of verbs."""
    group: str
    """One of `GROUPS`."""
    offers_json: bool = False
    """The command line takes `--json`: one JSON object on stdout instead of a table."""

    @property
    def module(self) -> ModuleType:
        """The verb's module, imported now. It holds the config, the function and `EXAMPLES`."""
        return importlib.import_module(f"bertwright.verbs.{self.name}")

    @property
    def config_type(self) -> type:
        """The dataclass that holds the verb's options."""
        return getattr(self.module, self.config_name)

    @property
    def function(self) -> Callable[[Any], Any]:
        """The function that does the work, from a config to a result."""
        return getattr(self.module, self.name)


_ENTRIES = (
    VerbEntry(
        name="demo",
        config_name="DemoConfig",
        help="see the whole road on built-in text, ending with a report",
        group="Start here",
    ),
    VerbEntry(
        name="doctor",
        config_name="DoctorConfig",
        help="what is here, what this machine can do, what to install",
        group="Start here",
        offers_json=True,
    ),
    VerbEntry(
        name="finetune",
        config_name="FinetuneConfig",
        help="train an encoder on labelled text",
        group="Make a model",
    ),
    VerbEntry(
        name="multitask",
        config_name="MultitaskConfig",
        help="train one encoder on several tasks, a head each",
        group="Make a model",
    ),
    VerbEntry(
        name="distil",
        config_name="DistilConfig",
        help="train a smaller student of a finetuned model",
        group="Make a model",
    ),
    VerbEntry(
        name="compress",
        config_name="CompressConfig",
        help="try students and engines, measure all, choose by budget",
        group="Make a model",
    ),
    VerbEntry(
        name="cut",
        config_name="CutConfig",
        help="take whole layers out of a model, without training",
        group="Make a model",
    ),
    VerbEntry(
        name="exits",
        config_name="ExitsConfig",
        help="let a classifier stop early on easy texts, with a promise",
        group="Make a model",
    ),
    VerbEntry(
        name="shorten",
        config_name="ShortenConfig",
        help="let a model leave tokens out in its upper layers, with a promise",
        group="Make a model",
    ),
    VerbEntry(
        name="trim",
        config_name="TrimConfig",
        help="drop the pieces of the vocabulary that your texts do not use",
        group="Make a model",
    ),
    VerbEntry(
        name="evaluate",
        config_name="EvaluateConfig",
        help="score, speed, size and memory of a model",
        group="Judge it",
        offers_json=True,
    ),
    VerbEntry(
        name="benchmark",
        config_name="BenchmarkConfig",
        help="speed, size and memory of several, side by side",
        group="Judge it",
        offers_json=True,
    ),
    VerbEntry(
        name="compare",
        config_name="CompareConfig",
        help="score and speed of simple ways, a frozen and a tuned encoder",
        group="Judge it",
        offers_json=True,
    ),
    VerbEntry(
        name="predict",
        config_name="PredictConfig",
        help="label texts with a model",
        group="Use it",
    ),
    VerbEntry(
        name="embed",
        config_name="EmbedConfig",
        help="write vectors of texts: any pooling, after any layer",
        group="Use it",
    ),
    VerbEntry(
        name="export",
        config_name="ExportConfig",
        help="write it for transformers, ONNX Runtime or OpenVINO",
        group="Use it",
    ),
    VerbEntry(
        name="methods",
        config_name="MethodsConfig",
        help="list the methods, or show all about one",
        group="Look things up",
        offers_json=True,
    ),
    VerbEntry(
        name="run",
        config_name="RunConfig",
        help="repeat a run from its recipe.yaml",
        group="Look things up",
    ),
)

VERBS: Choices[VerbEntry] = Choices("command", {entry.name: entry for entry in _ENTRIES})
