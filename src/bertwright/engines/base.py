"""What an engine is, which there are, and which work on this machine.

Shapes: B batch, L length, C classes.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np

from bertwright.engines.telemetry import decline_telemetry
from bertwright.errors import MissingDependencyError, UnknownChoiceError
from bertwright.models.task_model import TaskModel
from bertwright.registry import Choices

__all__ = [
    "ENGINES",
    "Batch",
    "Compiler",
    "Engine",
    "EngineSpec",
    "Precision",
    "Session",
    "available_engines",
    "check_right_padded",
    "load_engine",
]

Precision = Literal["fp32", "bf16", "int8"]

Batch = Mapping[str, np.ndarray]
"""`input_ids`, `attention_mask`, sometimes `token_type_ids`: int64 [B, L], right-padded."""


@dataclass(frozen=True)
class Engine:
    """One engine: where its code is and what it needs."""

    name: str
    module: str
    precisions: tuple[Precision, ...]
    extra: str = ""
    """The extra of this package that installs it; empty for what is always there."""
    libraries: tuple[str, ...] = ()
    int8_libraries: tuple[str, ...] = ()
    """What compiling to int8 needs on top; running int8 does not."""


ENGINES: Choices[Engine] = Choices(
    "engine",
    {
        engine.name: engine
        for engine in (
            Engine(
                name="torch",
                module="bertwright.engines.torch_engine",
                precisions=("fp32", "bf16"),
            ),
            Engine(
                name="onnxruntime",
                module="bertwright.engines.onnx_engine",
                precisions=("fp32", "int8"),
                extra="onnx",
                libraries=("onnx", "onnxruntime"),
            ),
            Engine(
                name="openvino",
                module="bertwright.engines.openvino_engine",
                precisions=("fp32", "bf16", "int8"),
                extra="openvino",
                libraries=("openvino",),
                int8_libraries=("nncf",),
            ),
        )
    },
)


@dataclass(frozen=True)
class EngineSpec:
    """An engine and the number format it computes in, written `openvino:int8`."""

    engine: str = "torch"
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        """Check that the engine has the precision.

        Raises:
            UnknownChoiceError: no such engine, or it does not have this precision.
        """
        legal = ENGINES[self.engine].precisions
        if self.precision not in legal:
            raise UnknownChoiceError(f"precision of {self.engine}", self.precision, legal)

    @classmethod
    def parse(cls, text: str) -> EngineSpec:
        """Read `engine:precision`; without a precision, fp32.

        Raises:
            UnknownChoiceError: no such engine or precision.
        """
        engine, _, precision = text.strip().partition(":")
        return cls(engine, cast(Precision, precision or "fp32"))

    def __str__(self) -> str:
        return f"{self.engine}:{self.precision}"


class Session(Protocol):
    """A model ready to run. Rows are padded on the right."""

    precision: str
    """What it really computes in, which may be more than was asked for."""

    def __call__(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        token_type_ids: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return logits, float32 [B, C], from int64 [B, L]."""
        ...

    def run_many(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        """Yield the logits of each batch in order, several at work at once where that pays."""
        ...

    def close(self) -> None:
        """Free the memory; the session cannot be used afterwards."""
        ...


class Compiler(Protocol):
    """A model on its way to an artifact; `write` may be called again with other choices."""

    def groups(self) -> Sequence[str]:
        """Return the parts that can be left in higher precision, one by one."""
        ...

    def write(
        self, folder: Path, *, calibration: Sequence[Batch], kept: Sequence[str]
    ) -> dict[str, Any]:
        """Write the engine's files to `folder`, `kept` parts in higher precision; return facts."""
        ...


class EngineModule(Protocol):
    """What the module of an engine offers."""

    def make_compiler(self, model: TaskModel, precision: Precision) -> Compiler:
        """Convert the model once; what is left is quantization and writing."""
        ...

    def open_artifact(
        self, folder: Path, facts: Mapping[str, Any], *, threads: int | None, streams: int
    ) -> Session:
        """Load what a `Compiler` of this engine wrote."""
        ...

    def missing_feature(self, precision: Precision) -> str | None:
        """Say why this machine cannot really compute in `precision`; None: it can."""
        ...

    def version(self) -> str:
        """Return the version of the library."""
        ...


def _missing_libraries(engine: Engine, precision: Precision) -> list[str]:
    needed = engine.libraries + (engine.int8_libraries if precision == "int8" else ())
    return [name for name in needed if importlib.util.find_spec(name) is None]


def load_engine(spec: EngineSpec, *, compiling: bool = False) -> EngineModule:
    """Import the module of an engine.

    Raises:
        MissingDependencyError: its library (or, to compile int8, the quantizer) is not installed.
    """
    engine = ENGINES[spec.engine]
    if _missing_libraries(engine, spec.precision if compiling else "fp32"):
        raise MissingDependencyError(f"the engine {spec}", engine.extra)
    decline_telemetry()
    return cast(EngineModule, importlib.import_module(engine.module))


@functools.cache
def _reason_against(spec: EngineSpec) -> str | None:
    engine = ENGINES[spec.engine]
    missing = _missing_libraries(engine, spec.precision)
    if missing:
        return f"{' and '.join(missing)} not installed: pip install 'bertwright[{engine.extra}]'"
    return load_engine(spec).missing_feature(spec.precision)


def available_engines() -> dict[str, str | None]:
    """Return every engine and precision -> None when it works here, else the reason why not."""
    specs = [EngineSpec(e.name, p) for e in ENGINES.values() for p in e.precisions]
    return {str(spec): _reason_against(spec) for spec in specs}


def check_right_padded(attention_mask: np.ndarray) -> None:
    """Raise unless every row has a token at its start, which compiled graphs rely on.

    Raises:
        ValueError: a row is empty or padded on the left.
    """
    if attention_mask.size and not attention_mask[:, 0].all():
        raise ValueError("engines take rows padded on the right, with at least one token each")
