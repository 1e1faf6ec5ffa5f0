"""The options of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bertwright.compress.budget import Prefer
from bertwright.compress.candidates import (
    SENSIBLE_NARROW,
    STUDENT_METHODS,
    StudentMethod,
    narrow_of,
    small_of,
)
from bertwright.config import require

__all__ = ["SearchConfig"]

DISTIL_WITH = ("soft_targets",)
PRECISIONS = ("fp32", "int8")
EXITS = (0.99, 0.97)


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What is tried, and how it is measured."""

    depths: tuple[int, ...] = ()
    """Layers of the students; may be given several times. Without it: every divisor of the
    teacher's depth below it, and a narrow size of all layers (see --narrow)."""
    narrow: tuple[str, ...] = ()
    """A narrower size to try too, heads=0.5,neurons=0.25 (shares that are kept; layers=4 as well);
    may be given several times. Without it and without --depths: that one, where the family can."""
    small: tuple[str, ...] = ()
    """A student without attention to try too: static, cnn or lstm, with options static:ngrams=2
    (`bertwright methods small_student`); may be given several times."""
    start: tuple[str, ...] = ()
    """A shallow encoder that students of its depth start from, controls too, in place of the
    teacher's layers: best a student of the encoder itself, distilled from raw text
    (docs/students.md). May be given several times, a depth each."""
    small_lr: float | None = None
    """Peak learning rate of those. Without it: 20 times --lr."""
    students: tuple[StudentMethod, ...] = ()
    """How students are made; may be given several times. control: the same size, fine-tuned
    without the teacher. fitted: the teacher's first layers, a head fitted to its answers
    (`bertwright methods fitted_head`), and all of it trained on; the better of both is kept;
    for classes. elastic: all depths and many widths in one training, of which the most
    promising are trained on (`bertwright methods elastic`); only where asked for.
    Without it: all others that fit the task."""
    distil_with: tuple[str, ...] = ()
    """Method of the distilled students, NAME or NAME:key=value,key=value; may be given several
    times. Without it: soft_targets."""
    exits: tuple[float, ...] = ()
    """Let the teacher, and the best student of two layers or more, stop early where so large a
    share of answers stays the same (`bertwright methods early_exit`); may be given several times.
    For classes. Without it 0.99 and 0.97, where the family can; 0: none."""
    elastic_sizes: int = 3
    """How many sizes of an elastic training are trained on and measured."""
    theseus_lr: float | None = None
    """Peak learning rate of Theseus. Without it: --lr."""
    engines: tuple[Literal["torch", "onnxruntime", "openvino"], ...] = ()
    """Engine to try; may be given several times. Without it: all that are installed."""
    precisions: tuple[Literal["fp32", "bf16", "int8"], ...] = ()
    """Number format to try, where an engine and the processor have it; may be given several
    times. Without it: fp32 and int8."""
    prefer: Prefer = "speed"
    """What to have most of among those that meet the budget."""
    jobs: int = 1
    """Students trained at the same time, each in a process of its own with its share of the
    threads; what they share is in trials.sqlite."""
    halving: bool = True
    """Train all students by half first, and drop those that are clearly beaten then."""
    slice_rows: int = 500
    """Dev rows on which half-trained students are compared."""
    seeds: int = 1
    """Seeds for each kind of student at the chosen depth (the best student's, where the teacher is
    chosen); more show what is chance."""
    tolerance_points: float = 0.5
    """Most points (hundredths) of the score that int8 may cost a model; beyond, it is repaired or
    refused."""
    repeats: int = 5
    """Rounds of the speed measurement; the median counts."""
    measure_rows: int = 1000
    """Dev rows used for throughput, in their real mix of lengths."""
    latency_rows: int = 200
    """Dev rows answered one by one for latency."""

    def __post_init__(self) -> None:
        for name in ("theseus_lr", "small_lr"):
            rate = getattr(self, name)
            require(rate is None or rate > 0, name, rate, "above 0")
        for spec in self.narrow:
            narrow_of(spec)
        for spec in self.small:
            small_of(spec)
        for share in self.exits:
            require(share == 0 or 0.5 <= share < 1, "exits", share, "0, or 0.5 to below 1")
        require(self.tolerance_points >= 0, "tolerance_points", self.tolerance_points, "at least 0")
        for name in (
            "jobs",
            "elastic_sizes",
            "slice_rows",
            "seeds",
            "repeats",
            "measure_rows",
            "latency_rows",
        ):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")

    @property
    def student_methods(self) -> tuple[StudentMethod, ...]:
        """The kinds of students to train."""
        return self.students or STUDENT_METHODS

    @property
    def tried_narrow(self) -> tuple[str, ...]:
        """The narrower sizes to try."""
        return self.narrow or (() if self.depths else SENSIBLE_NARROW)

    @property
    def distil_specs(self) -> tuple[str, ...]:
        """The methods of the distilled students."""
        return self.distil_with or DISTIL_WITH

    @property
    def tried_exits(self) -> tuple[float, ...]:
        """The shares of answers that stay the same where models stop early."""
        return tuple(share for share in self.exits or EXITS if share)

    @property
    def tried_precisions(self) -> tuple[str, ...]:
        """The number formats to try."""
        return self.precisions or PRECISIONS
