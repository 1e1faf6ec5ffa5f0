"""Each model in each engine and precision: compiled, scored on the dev rows, or refused."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bertwright.data.rows import Rows
from bertwright.data.tokenise import EncodedRows
from bertwright.engines.artifact import ARTIFACT_FILE, Artifact, hash_model
from bertwright.engines.base import EngineSpec, available_engines
from bertwright.engines.compile import compile_model
from bertwright.errors import ArtifactError, ParityError, UsageError
from bertwright.evaluate.evaluate import Scores, make_scores, score_model_dir
from bertwright.progress import console
from bertwright.tasks import find_task
from bertwright.tasks.judged import Judged

__all__ = ["CompiledModel", "ModelToCompile", "compile_all", "score_artifact", "wanted_specs"]

PARITY_ROWS = 128
"""Dev rows on which logits are compared one by one; scores are compared on all of them."""


@dataclass(frozen=True)
class CompiledModel:
    """One model in one engine and precision."""

    model_name: str
    """The student's name, or `teacher`."""
    method: str
    shape: str
    """How large it is: `3L`, `6L-h50`, `static`."""
    layers: int
    seed: int
    parameters: int
    spec: EngineSpec
    artifact_dir: Path
    scores: Scores
    whole: str = ""
    """The name of the model that this one is with exits; empty: it has none."""

    @property
    def name(self) -> str:
        """`distil-3L@openvino:int8`."""
        return f"{self.model_name}@{self.spec}"


@dataclass(frozen=True)
class ModelToCompile:
    """A trained model that is to be tried in engines."""

    name: str
    method: str
    shape: str
    """How large it is: `3L`, `6L-h50`, `static`."""
    layers: int
    seed: int
    parameters: int
    model_dir: Path
    whole: str = ""
    """The name of the model that this one is with exits; empty: it has none."""


def wanted_specs(engines: Sequence[str], precisions: Sequence[str]) -> list[EngineSpec]:
    """Return the engines and precisions to try: those asked for that this machine has.

    Raises:
        UsageError: none of them is here.
    """
    asked = {
        EngineSpec.parse(name): reason
        for name, reason in available_engines().items()
        if (not engines or EngineSpec.parse(name).engine in engines)
        and EngineSpec.parse(name).precision in precisions
    }
    specs = [spec for spec, reason in asked.items() if reason is None]
    if not specs:
        raise UsageError(
            f"nothing to try: {', '.join(engines) or 'no engine'} in {' or '.join(precisions)}",
            hint="; ".join(f"{spec}: {reason}" for spec, reason in asked.items())
            or "`bertwright doctor` says what is installed",
        )
    return specs


def compile_all(
    models: Sequence[ModelToCompile],
    specs: Sequence[EngineSpec],
    folder: Path,
    *,
    train_rows: EncodedRows,
    dev_rows: EncodedRows,
    dev: Rows,
    tolerance_points: float,
    threads: int | None,
    deadline: float,
) -> tuple[list[CompiledModel], dict[str, str]]:
    """Compile and score every model under every spec, up to a deadline.

    Artifacts of an earlier, broken-off search are used again.

    Returns:
        What was compiled, and what was refused or came too late: name -> reason.
    """
    done: list[CompiledModel] = []
    refused: dict[str, str] = {}
    for model in models:
        for spec in specs:
            name = f"{model.name}@{spec}"
            place = folder / model.name / str(spec).replace(":", "-")
            if time.monotonic() >= deadline:
                refused[name] = "no time was left to compile it"
                continue
            try:
                _compile_once(
                    model.model_dir,
                    spec,
                    place,
                    train_rows=train_rows,
                    dev_rows=dev_rows,
                    tolerance_points=tolerance_points,
                    threads=threads,
                )
            except (ParityError, UsageError) as error:
                refused[name] = error.message
                console.print(f"[yellow]{name} refused:[/] {error.message}")
                continue
            scores = score_artifact(place, dev, spec, place.with_suffix(".dev.npz"), threads)
            console.print(f"{name}: {scores.primary} {scores.score:.4f}")
            done.append(
                CompiledModel(
                    model_name=model.name,
                    method=model.method,
                    shape=model.shape,
                    layers=model.layers,
                    seed=model.seed,
                    parameters=model.parameters,
                    spec=spec,
                    artifact_dir=place,
                    scores=scores,
                    whole=model.whole,
                )
            )
    return done, refused


def _compile_once(
    model_dir: Path,
    spec: EngineSpec,
    place: Path,
    *,
    train_rows: EncodedRows,
    dev_rows: EncodedRows,
    tolerance_points: float,
    threads: int | None,
) -> None:
    if place.exists():
        try:
            if Artifact.load(place).model_hash == hash_model(model_dir):
                return
        except ArtifactError as error:
            console.print(f"[yellow]making {place} again:[/] {error.message}")
    compile_model(
        model_dir,
        spec,
        place,
        calibration=train_rows,
        parity=dev_rows.select(np.arange(min(PARITY_ROWS, len(dev_rows)))),
        dev=dev_rows,
        tolerance_points=tolerance_points,
        threads=threads,
    )


def score_artifact(
    artifact_dir: Path, rows: Rows, spec: EngineSpec, record: Path, threads: int | None
) -> Scores:
    """Score an artifact or model folder; its answers are kept in `record`."""
    key = f"{_model_hash(artifact_dir)} {spec} {rows.fingerprint}"
    scores = _read_scores(record, key)
    if scores is None:
        scores = score_model_dir(artifact_dir, rows, spec, threads=threads)
        record.parent.mkdir(parents=True, exist_ok=True)
        temporary = record.with_name(f".{record.name}")
        np.savez(
            temporary,
            key=key,
            task=scores.judged.task.spec,
            statistics=scores.judged.statistics,
            answers=scores.answers,
            truths=scores.truths,
            sureness=np.array(scores.sureness, dtype=float),
            names=scores.label_names,
        )
        temporary.replace(record)
    return scores


def _read_scores(record: Path, key: str) -> Scores | None:
    """Return the scores in `record` if they are of this model, engine and rows."""
    if not record.exists():
        return None
    with np.load(record) as kept:
        if str(kept["key"]) != key:
            return None
        sureness = kept["sureness"].tolist()
        return make_scores(
            Judged(find_task(str(kept["task"])), kept["statistics"]),
            answers=kept["answers"].tolist(),
            truths=kept["truths"].tolist(),
            sureness=[None if math.isnan(sure) else sure for sure in sureness],
            label_names=kept["names"].tolist(),
        )


def _model_hash(folder: Path) -> str:
    """Return the hash of a model, or of the one that an artifact was made from."""
    if (folder / ARTIFACT_FILE).exists():
        return Artifact.load(folder).model_hash
    return hash_model(folder)
