"""A model with early exits as the graphs between them, and the session that runs these in turn.

No graph can leave off in the middle. So each part of the encoder from one exit to the next is a
graph of its own: rows that are sure leave between two of them, the others are packed and go on.

Shapes: B batch, L length, D model width, C classes, E exits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from bertwright.engines.base import (
    Batch,
    EngineModule,
    Precision,
    Session,
    check_right_padded,
)
from bertwright.engines.streams import run_on_streams
from bertwright.engines.trace import TracedModel, inputs_of, layer_paths, with_inputs
from bertwright.errors import UsageError
from bertwright.models.exits import Exits, Measure, leaves, read_for_exit
from bertwright.models.in_parts import check_runs_in_parts, embed, mask_for_layers
from bertwright.models.pooling import States
from bertwright.models.task_model import TaskModel

__all__ = ["EarlySession", "StagesCompiler", "open_written", "stages_of"]


class _Stage(TracedModel):
    """The layers of a model from one exit to the next, and the head that stands there."""

    def __init__(self, model: TaskModel, start: int, stop: int) -> None:
        """Take the layers from the one after `start` up to `stop`, both counted from 1."""
        super().__init__(model)
        self.start, self.stop = start, stop

    @property
    def is_last(self) -> bool:
        """Whether it ends with the model's own head."""
        return self.stop == self.roles.num_layers

    @property
    def output_axes(self) -> dict[str, dict[int, str]]:
        """The logits, and what enters the next stage."""
        axes = {0: "batch", 1: "length"}
        return {"logits": {0: "batch"}, **({} if self.is_last else {"next_hidden": axes})}

    def scope_of(self, path: str) -> str:
        """Return the path from the module that is called: layers are, and not their encoder."""
        for called in layer_paths(self).values():
            if f"{path}.".startswith(f"{called}."):
                names = called.split(".")
                return ".".join(names[-2 if names[-1].isdigit() else -1 :]) + path[len(called) :]
        return path

    def run_layers(
        self, hidden: Tensor, attention_mask: Tensor, input_ids: Tensor | None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits [B, C] and, but for the last, the states that go on, [B, L, D]."""
        roles = self.roles
        mask = mask_for_layers(roles, hidden, attention_mask)
        for layer in roles.layers[self.start : self.stop]:
            hidden = roles.hidden_of(roles.run_layers([layer], (hidden, mask), {}))
        if self.is_last:
            ids = attention_mask if input_ids is None else input_ids
            states = States((hidden,), attention_mask.bool(), ids, self.rows_begin_at_0)
            return self.answer(states).logits
        assert self.exits is not None
        return self.exits.logits(self.stop, read_for_exit(hidden, attention_mask)), hidden


class _FirstStage(_Stage):
    """From token ids to the first exit."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits [B, C] and the states that go on, [B, L, D], from int64 [B, L]."""
        hidden = embed(self.roles, input_ids, token_type_ids)
        return self.run_layers(hidden, attention_mask, input_ids)


class _LaterStage(_Stage):
    """From one exit to the next, or to the end."""

    @property
    def input_names(self) -> list[str]:
        """The states that come and their mask; the ids only where the pooling asks for them."""
        asks = self.is_last and self.pooling is not None and self.pooling.reads_ids
        return ["hidden", "attention_mask", *(["input_ids"] if asks else [])]

    def forward(
        self, hidden: Tensor, attention_mask: Tensor, input_ids: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return as `_FirstStage`, from states [B, L, D] and int64 [B, L]."""
        return self.run_layers(hidden, attention_mask, input_ids)


def stages_of(model: TaskModel) -> list[_Stage]:
    """Return what is traced of a model with exits, E + 1 views of it in the order they run.

    Raises:
        UsageError: its pooling reads states of inner layers, which rows do not carry along.
        UnsupportedFamilyError: the encoder cannot be stopped between its layers.
    """
    exits, roles = model.exits, model.roles
    assert exits is not None, "the model has no exits"
    check_runs_in_parts(roles, "early exits")
    if model.pooling is not None and model.pooling.reads_layers:
        raise UsageError(
            f"the pooling {model.config.pooling} reads states of inner layers, which rows that "
            "stop early do not carry from graph to graph",
            hint="run it in torch:fp32, or take the model that `bertwright exits` was given",
        )
    bounds = [0, *exits.layers, roles.num_layers]
    kinds = [_FirstStage, *[_LaterStage] * len(exits.layers)]
    pairs = zip(kinds, itertools.pairwise(bounds), strict=True)
    return [kind(model, *pair).eval() for kind, pair in pairs]


class StagesCompiler:
    """A compiler of an engine for each stage, and a folder for what it writes."""

    def __init__(self, engine: EngineModule, model: TaskModel, precision: Precision) -> None:
        assert model.exits is not None, "the model has no exits"
        self._exits: Exits = model.exits
        self._precision = precision
        self._stages = stages_of(model)
        self._compilers = [engine.make_compiler(stage, precision) for stage in self._stages]

    def groups(self) -> Sequence[str]:
        """Return the parts that can be left in higher precision: those of the whole model."""
        return self._compilers[0].groups()

    def write(
        self, folder: Path, *, calibration: Sequence[Batch], kept: Sequence[str]
    ) -> dict[str, Any]:
        """Write `stage-1`, `stage-2`, ...; return what `open_written` needs."""
        facts: list[dict[str, Any]] = []
        quantized: list[str] = []
        carried: Sequence[Batch] = calibration if self._precision == "int8" else ()
        for number, compiler in enumerate(self._compilers, start=1):
            place = folder / f"stage-{number}"
            place.mkdir(exist_ok=True)
            written = compiler.write(place, calibration=carried, kept=kept)
            quantized += [f"{place.name}: {name}" for name in written.pop("quantized")]
            facts.append({"folder": place.name, **written, "precision": self._precision})
            carried = self._after(number, carried)
        found = {"stages": facts, "exits": self._exits.to_json(), "quantized": quantized}
        if "weight_bits" in facts[0]:
            found["weight_bits"] = facts[0]["weight_bits"]
        return found

    def _after(self, number: int, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Return calibration batches with the states that torch carries out of a stage."""
        stage = self._stages[number - 1]
        if stage.is_last:
            return batches
        names, at_end = stage.input_names, stage.roles.cls_at_end
        carried = []
        with torch.inference_mode():
            for batch in batches:
                inputs = inputs_of(names, at_end, batch)
                _, hidden = stage(**{name: torch.from_numpy(one) for name, one in inputs.items()})
                carried.append({**batch, "hidden": hidden.numpy()})
        return carried


class _GraphSession(Session, Protocol):
    """One that several threads may run at the same time."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the graph's outputs, in order."""
        ...


@dataclass(frozen=True)
class _Opened:
    """A stage, ready to run."""

    session: _GraphSession
    names: Sequence[str]
    """Of its inputs."""
    cls_at_end: bool


class EarlySession:
    """The stages in turn: rows that are sure leave, the others are packed and go on."""

    def __init__(
        self,
        stages: Sequence[_Opened],
        *,
        measure: Measure,
        threshold: float | None,
        streams: int,
    ) -> None:
        self._stages = stages
        self._measure: Measure = measure
        self.threshold = threshold
        """A row leaves where it is so sure or more; None: nowhere."""
        self._streams = streams
        self.precision = stages[0].session.precision

    def __call__(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        token_type_ids: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return logits, float32 [B, C], each row's from where it left."""
        going = self._start(input_ids, attention_mask, token_type_ids)
        places = np.arange(len(input_ids))
        left: list[tuple[np.ndarray, np.ndarray]] = []
        for number in range(len(self._stages)):
            logits = self._run(number, going)
            stay = self._stay(number, logits)
            left.append((places[~stay], logits[~stay]))
            if not stay.any():
                break
            if not stay.all():
                places = places[stay]
                going = {name: array[stay] for name, array in going.items()}
        where, answers = (np.concatenate(parts) for parts in zip(*left, strict=True))
        return answers[np.argsort(where)]

    def _stay(self, number: int, logits: np.ndarray) -> np.ndarray:
        """Return which rows go on after a stage with these logits [B, C], bool [B]."""
        if number + 1 == len(self._stages):
            return np.zeros(len(logits), dtype=bool)
        return ~leaves(torch.from_numpy(logits), self._measure, self.threshold).numpy()

    def at_all_exits(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        token_type_ids: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return what each exit and, last, the whole model answer, [(E + 1) B, C]."""
        going = self._start(input_ids, attention_mask, token_type_ids)
        return np.concatenate([self._run(number, going) for number in range(len(self._stages))])

    def _start(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, token_type_ids: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Return the arrays that rows carry along, by name."""
        check_right_padded(attention_mask)
        first = self._stages[0]
        made = with_inputs(
            list(first.names), first.cls_at_end, input_ids, attention_mask, token_type_ids
        )
        return {"input_ids": input_ids, "attention_mask": attention_mask, **made}

    def _run(self, number: int, going: dict[str, np.ndarray]) -> np.ndarray:
        """Run a stage; return its logits, and keep in `going` the states for the next."""
        stage = self._stages[number]
        logits, *hidden = stage.session.run({name: going[name] for name in stage.names})
        if hidden:
            going["hidden"] = hidden[0]
        return logits

    def run_many(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        """Yield logits in order; every stream works on a batch of its own."""
        return run_on_streams(self, batches, self._streams)

    def close(self) -> None:
        """Drop all graphs."""
        for stage in self._stages:
            stage.session.close()


def open_written(
    engine: EngineModule,
    folder: Path,
    facts: Mapping[str, Any],
    *,
    threads: int | None,
    streams: int,
) -> Session:
    """Load what a compiler of the engine, or a `StagesCompiler` of several, wrote."""
    if "stages" not in facts:
        return engine.open_artifact(folder, facts, threads=threads, streams=streams)
    stages = [
        _Opened(
            session=cast(
                _GraphSession,
                engine.open_artifact(folder / one["folder"], one, threads=threads, streams=streams),
            ),
            names=one["inputs"],
            cls_at_end=bool(one["cls_at_end"]),
        )
        for one in facts["stages"]
    ]
    exits = facts["exits"]
    return EarlySession(
        stages, measure=exits["measure"], threshold=exits["threshold"], streams=streams
    )
