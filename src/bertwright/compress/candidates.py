"""Which students to train: sizes x methods x seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bertwright.config import config_from_strings, require
from bertwright.errors import BertwrightError, ConfigError
from bertwright.methods.distil.small_student import SmallStudentConfig
from bertwright.models.quantized import refuse_quantized
from bertwright.models.task_model import TaskModel
from bertwright.models.widths import refuse_fixed
from bertwright.registry import split_spec

__all__ = [
    "SENSIBLE_NARROW",
    "STUDENT_METHODS",
    "Narrow",
    "StudentMethod",
    "StudentPlan",
    "narrow_of",
    "plan_students",
    "sensible_depths",
    "small_of",
    "why_not_narrow",
]

StudentMethod = Literal["theseus", "distil", "control", "fitted", "elastic"]
STUDENT_METHODS: tuple[StudentMethod, ...] = ("control", "distil", "fitted", "theseus")
"""Those that are tried unless others are asked for."""
SHALLOWER_ONLY = ("theseus",)
"""It replaces whole layers."""
SENSIBLE_NARROW = ("heads=0.5,neurons=0.25",)
"""Tried where no sizes are asked for: a third of a layer's weights, in all layers. Narrow beats
shallow at the same weights (docs/students.md)."""
_ATTENTION_SHARE = 1 / 3
"""Of a layer's weights those of attention: 4 D² of 12 D², where the FFN is four times as wide."""


@dataclass(frozen=True, order=True)
class StudentPlan:
    """One student to train."""

    layers: int
    method: str
    seed: int
    heads: float = 1.0
    """Share of the attention heads that it keeps."""
    neurons: float = 1.0
    """Share of the neurons of the feed-forward networks that it keeps."""
    small: str = ""
    """A student without attention, as `distil --student` takes it; its layers are its own."""

    @property
    def shape(self) -> str:
        """`3L`, `6L-h50-f25` (percent of heads and neurons), `static-ngrams-2`."""
        if self.small:
            return re.sub(r"[^a-z0-9]+", "-", self.small.lower())
        narrow = ((mark, round(100 * share)) for mark, share in self._shares if share < 1)
        return "-".join([f"{self.layers}L", *(f"{mark}{percent}" for mark, percent in narrow)])

    @property
    def name(self) -> str:
        """`distil-3L`, or `distil-3L-s1` for another seed than the first."""
        return f"{self.method}-{self.shape}" + (f"-s{self.seed}" if self.seed else "")

    @property
    def is_narrow(self) -> bool:
        """Whether it has fewer heads or neurons in a layer than its teacher."""
        return min(self.heads, self.neurons) < 1

    @property
    def cost(self) -> float:
        """How dear it is, in layers of the teacher; 0 without attention."""
        if self.small:
            return 0.0
        kept = _ATTENTION_SHARE * self.heads + (1 - _ATTENTION_SHARE) * self.neurons
        return self.layers * kept

    @property
    def _shares(self) -> tuple[tuple[str, float], ...]:
        return (("h", self.heads), ("f", self.neurons))


@dataclass(frozen=True, kw_only=True)
class Narrow:
    """A narrower size: `--narrow heads=0.5,neurons=0.25`."""

    layers: int | None = None
    """Without it all of the teacher's."""
    heads: float = 1.0
    """Share of the attention heads that is kept."""
    neurons: float = 1.0
    """Share of the neurons that is kept."""

    def __post_init__(self) -> None:
        for name in ("heads", "neurons"):
            share = getattr(self, name)
            require(0 < share <= 1, name, share, "above 0, at most 1")
        if self.heads == self.neurons == 1:
            raise ConfigError(
                "--narrow keeps everything", hint="give heads= or neurons=, a share below 1"
            )


def narrow_of(spec: str) -> Narrow:
    """Return what `--narrow` says.

    Raises:
        ConfigError: an option is unknown or out of range.
    """
    _, options = split_spec(f":{spec}", "--narrow")
    return config_from_strings(Narrow, options, source=f"--narrow {spec}")


def why_not_narrow(model: TaskModel) -> str | None:
    """Say why heads and neurons cannot leave a model; None: they can."""
    try:
        refuse_quantized(model, "it cannot be pruned")
        for part in ("heads", "neurons"):
            refuse_fixed(model.roles, part)
    except BertwrightError as error:
        return error.message
    return None


def small_of(spec: str) -> SmallStudentConfig:
    """Return what `static`, or `cnn:width=128`, says.

    Raises:
        ConfigError: an option is unknown or out of range.
    """
    kind, options = split_spec(spec, "--student")
    source = f"--student {spec}"
    return config_from_strings(SmallStudentConfig, {"kind": kind, **options}, source=source)


def sensible_depths(num_layers: int) -> tuple[int, ...]:
    """Return the divisors of the teacher's depth below it, deepest first (12 -> 6, 4, 3, 2, 1).

    Divisors let every method divide the teacher into equal groups of layers.
    """
    return tuple(d for d in range(num_layers - 1, 0, -1) if num_layers % d == 0)


def plan_students(
    num_layers: int,
    *,
    depths: Sequence[int] = (),
    narrow: Sequence[str] = (),
    small: Sequence[str] = (),
    methods: Sequence[str] = STUDENT_METHODS,
    seed: int = 0,
) -> list[StudentPlan]:
    """Return the students to train, cheap ones first.

    Theseus makes shallower students only: it works with whole layers. A head is fitted on vectors
    or layers that are the teacher's, so convolutions and LSTMs, which are new, have none.

    Args:
        num_layers: the teacher's.
        depths: those of shallower students; none: `sensible_depths`.
        narrow: sizes as `narrow_of` reads them.
        small: students without attention, as `small_of` reads them.
        methods: of `STUDENT_METHODS`.
        seed: of them all.

    Raises:
        ConfigError: a size does not fit the teacher, or Theseus cannot divide by it.
    """
    plans = []
    for depth in depths or sensible_depths(num_layers):
        _check_depth(depth, num_layers, below=True)
        if "theseus" in methods and num_layers % depth:
            raise ConfigError(
                f"--depths {depth}: BERT-of-Theseus replaces equal groups of layers, and "
                f"{num_layers} layers do not divide by {depth}",
                hint=f"choose from {', '.join(map(str, sensible_depths(num_layers)))}, or leave "
                "theseus out of --students",
            )
        plans += [StudentPlan(depth, method, seed) for method in methods]
    narrowing = [method for method in methods if method not in SHALLOWER_ONLY]
    for size in map(narrow_of, narrow):
        depth = size.layers or num_layers
        _check_depth(depth, num_layers, below=False)
        plans += [StudentPlan(depth, one, seed, size.heads, size.neurons) for one in narrowing]
    for spec in small:
        kind = small_of(spec)
        own = 0 if kind.kind == "static" else kind.layers
        plans += [
            StudentPlan(own, method, seed, small=spec)
            for method in narrowing
            if method != "fitted" or kind.kind == "static"
        ]
    return sorted(set(plans), key=lambda plan: (plan.cost, plan))


def _check_depth(depth: int, num_layers: int, *, below: bool) -> None:
    most = num_layers - 1 if below else num_layers
    if not 1 <= depth <= most:
        option = "--depths" if below else "--narrow layers="
        raise ConfigError(
            f"{option} {depth}: the teacher has {num_layers} layers",
            hint=f"choose from 1 to {most}",
        )
