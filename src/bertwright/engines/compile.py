"""From a model directory to an artifact, checked against torch, and from there to a session.

Never silently wrong: fp32 must match torch's logits, bf16 and int8 must keep the score; int8 that
does not is repaired by sparing parts of the model, or refused.
"""

from __future__ import annotations

import dataclasses
import functools
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bertwright.data.batching import collate
from bertwright.data.gather import Gathered
from bertwright.data.tokenise import EncodedRows
from bertwright.engines.artifact import (
    ARTIFACT_FILE,
    MANIFEST_FILE,
    Artifact,
    describe_files,
    hash_model,
)
from bertwright.engines.base import (
    Batch,
    Compiler,
    EngineModule,
    EngineSpec,
    Session,
    load_engine,
)
from bertwright.engines.exact_sums import exact_weight_bits
from bertwright.engines.parity import (
    Parity,
    ParityBatches,
    as_arrays,
    encoded_batches,
    label_agreement,
    measure_parity,
    random_parity_batches,
    real_outputs,
    real_parity_batches,
)
from bertwright.engines.repair import Trial, repair
from bertwright.engines.torch_engine import TorchSession
from bertwright.errors import (
    ArtifactError,
    BertwrightError,
    ConfigError,
    ModelLoadError,
    ParityError,
    UsageError,
)
from bertwright.files import atomic_dir, cache_dir, read_json
from bertwright.models.encoder import find_model_dir, quiet_transformers
from bertwright.models.exits import refuse_exits
from bertwright.models.packed import pack_words
from bertwright.models.task_model import TaskModel
from bertwright.progress import console
from bertwright.tasks import Task, find_task

__all__ = ["Artifact", "compile_model", "find_folder", "find_spec", "open_session", "read_manifest"]

_NUM_CALIBRATION = 300
_FP32_TOLERANCE = 1e-3
_AGREEMENT_POINTS = 3.0
_SCORE_BATCH_TOKENS = 2048


def compile_model(
    model_dir: str | Path,
    spec: EngineSpec | str,
    out_dir: str | Path,
    *,
    calibration: EncodedRows | None = None,
    parity: EncodedRows | None = None,
    dev: EncodedRows | None = None,
    tolerance_points: float = 0.5,
    table_bits: Literal[8, 4] = 8,
    threads: int | None = None,
) -> Artifact:
    """Compile a saved TaskModel for an engine, check it against torch, and write the artifact.

    Parity is measured on padded batches, single rows and single tokens. In fp32 the largest
    difference of a logit may be 1e-3 (times the largest logit, if that is above 1). In bf16 and
    int8 the score on `dev` may drop by `tolerance_points`; without `dev`, torch's own labels of the
    parity rows take the place of true ones, and up to 3 points of them may change (a label that
    changes costs nothing on average when it was as often wrong as right).

    Args:
        model_dir: what `TaskModel.save` wrote, or a run directory.
        spec: engine and precision.
        out_dir: the artifact's folder; one that is there is replaced when all went well.
        calibration: training rows for OpenVINO's int8; 300 of them are drawn. Not needed for a
            model that was trained with rounding: it has its ranges.
        parity: real rows to compare logits on; without them, random token ids.
        dev: labelled rows to score bf16 and int8 on.
        tolerance_points: how much score may be lost, in points (100 = everything).
        table_bits: of the numbers of the word embeddings in int8; with 4 they have 8 all the same
            where 4 would lose more score than that.
        threads: processor threads for the checks; None: as the engines choose.

    Raises:
        ModelLoadError: there is no saved model.
        MissingDependencyError: the engine's library is not installed.
        UnsupportedRoleError: word embeddings in 4 bits are asked for, and the family has no plain
            table of them.
        UsageError: calibration rows are needed and missing, dev's labels are not the model's, or it
            has early exits.
        ParityError: the answers differ by more than allowed and no repair helped.
    """
    spec = EngineSpec.parse(spec) if isinstance(spec, str) else spec
    engine = load_engine(spec, compiling=True)
    source = find_model_dir(model_dir)
    if tolerance_points < 0:
        raise ConfigError(f"--tolerance-points {tolerance_points}: must be at least 0")
    model = TaskModel.load(model_dir)
    assert source is not None
    unseen = calibration is None or len(calibration) == 0
    if str(spec) == "openvino:int8" and unseen and model.ranges is None:
        raise UsageError(
            "OpenVINO's int8 is calibrated on real rows, and none were given",
            hint="give training data with --data",
        )
    if str(spec) != "torch:fp32":
        refuse_exits(model, f"{spec} would run all of its layers")
    reference = TorchSession(model, "fp32", threads)
    judge = _Judge.prepare(model, reference, parity, None if spec.precision == "fp32" else dev)
    with atomic_dir(out_dir) as folder:
        bench = _Bench(
            engine=engine,
            spec=spec,
            model=model,
            table_bits=table_bits if spec.precision == "int8" else None,
            folder=folder,
            judge=judge,
            calibration=_draw(calibration),
            threads=threads,
        )
        trial = bench.attempt(())
        allowed = judge.allowed_points(tolerance_points)
        if bench.table_bits == 4 and trial.drop_points > allowed:
            bench = dataclasses.replace(bench, table_bits=8)
            trial = bench.attempt(())
        if spec.precision == "fp32":
            _check_fp32(trial.extra.parity, spec)
        elif spec.precision == "int8":
            trial = repair(
                bench.attempt, bench.compiler.groups(), tolerance_points=allowed, first=trial
            )
        elif trial.drop_points > allowed:
            raise ParityError(
                f"{spec} loses {trial.drop_points:.2f} points of score, more than {allowed:g}",
                hint="use fp32 for this model",
            )
        if bench.written != trial.kept:
            trial = bench.attempt(trial.kept)
        shutil.copy(source / MANIFEST_FILE, folder / MANIFEST_FILE)
        if model.tokenizer is not None:
            with quiet_transformers():
                model.tokenizer.save_pretrained(folder)
        artifact = _describe(folder, spec, source, engine, trial, judge, allowed)
        artifact.save()
    return Artifact.load(out_dir)


@dataclass(frozen=True, eq=False)
class _Judge:
    """What answers are compared with: torch's logits, and labels."""

    batches: ParityBatches
    reference: TorchSession
    task: Task
    decoding: Mapping[str, Any]
    score_batches: Sequence[Batch]
    order: Sequence[np.ndarray]
    """Which features each batch holds."""
    dev: EncodedRows | None
    outputs_t: Sequence[np.ndarray]
    """Torch's outputs of each batch."""

    @classmethod
    def prepare(
        cls,
        model: TaskModel,
        reference: TorchSession,
        parity: EncodedRows | None,
        dev: EncodedRows | None,
    ) -> _Judge:
        """Run torch over everything once."""
        real = parity is not None and len(parity) > 0
        batches = real_parity_batches(parity) if real else random_parity_batches(model)  # type: ignore[arg-type]
        if dev is not None and len(dev) > 0:
            _check_labels(dev, model)
            plan = list(
                encoded_batches(
                    dev, batch_tokens=_SCORE_BATCH_TOKENS, batch_size=32, pad_multiple=8
                )
            )
            order = [positions for positions, _ in plan]
            score_batches: Sequence[Batch] = [batch for _, batch in plan]
        else:
            dev, order, score_batches = None, [], batches.padded
        task = find_task(model.task)
        if dev is not None:
            task = task.judging(dev)
        return cls(
            batches=batches,
            reference=reference,
            task=task,
            decoding=model.decoding,
            score_batches=score_batches,
            order=order,
            dev=dev,
            outputs_t=[reference(**batch) for batch in score_batches],
        )

    @property
    def rows(self) -> str:
        """Is "dev", or "parity" where agreement with torch stands in for a score."""
        return "parity" if self.dev is None else "dev"

    @functools.cached_property
    def score_t(self) -> float:
        """Torch's score in points."""
        return self._score_of(self.outputs_t)

    def allowed_points(self, tolerance_points: float) -> float:
        """Return how many points may be lost."""
        if self.rows == "dev":
            return tolerance_points
        return max(tolerance_points, _AGREEMENT_POINTS)

    def score(self, session: Session) -> float:
        """Return the session's score in points."""
        return self._score_of(list(session.run_many(self.score_batches)))

    def _score_of(self, outputs: Sequence[np.ndarray]) -> float:
        found = self._real(outputs)
        if not np.isfinite(found).all():
            return float("-inf")
        if self.dev is None:
            return 100.0 * label_agreement(self._real(self.outputs_t), found)
        gathered = Gathered(len(self.dev))
        for positions, logits, batch in zip(self.order, outputs, self.score_batches, strict=True):
            gathered.add(positions, logits, batch["attention_mask"])
        task, in_order = self.task, gathered.in_order()
        return 100.0 * task.metrics(task.judge(in_order, self.dev, self.decoding))[task.primary]

    def _real(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        pairs = zip(outputs, self.score_batches, strict=True)
        return np.concatenate([real_outputs(logits, batch) for logits, batch in pairs])


def _check_labels(dev: EncodedRows, model: TaskModel) -> None:
    if not dev.targets:
        raise UsageError("the rows to score int8 on have no labels", hint="give labelled --data")
    names = () if dev.labels is None else dev.labels.names
    known = names[: len(model.labels)] if dev.rows.open_labels else names
    if known != tuple(model.labels) and find_task(model.task).names_outputs:
        raise UsageError(
            "the rows to score int8 on have other labels than the model",
            hint="read them with the model's own label list",
        )


@dataclass(frozen=True)
class _Outcome:
    """What a trial carries along."""

    parity: Parity
    facts: dict[str, Any]
    score: float


@dataclass
class _Bench:
    """Compiles with some parts spared and measures what came out."""

    engine: EngineModule
    spec: EngineSpec
    model: TaskModel
    table_bits: int | None
    """Of the word embeddings; None: not in int8."""
    folder: Path
    judge: _Judge
    calibration: Sequence[Batch]
    threads: int | None
    written: tuple[str, ...] | None = None
    """Which parts the files now in the folder spare."""

    @functools.cached_property
    def compiler(self) -> Compiler:
        """What writes the engine's files."""
        model = pack_words(self.model) if self.table_bits == 4 else self.model
        return self.engine.make_compiler(model, self.spec.precision)

    def attempt(self, kept: tuple[str, ...]) -> Trial:
        """Write the engine's files, open them, and compare with torch."""
        facts = self.compiler.write(self.folder, calibration=self.calibration, kept=kept)
        facts["precision"] = self.spec.precision
        if self.table_bits is not None:
            facts["table_bits"] = self.table_bits
        self.written = kept
        session = self.engine.open_artifact(self.folder, facts, threads=self.threads, streams=1)
        try:
            parity = measure_parity(self.judge.reference, session, self.judge.batches)
            score = self.judge.score(session)
        finally:
            session.close()
        return Trial(
            kept=kept,
            drop_points=self.judge.score_t - score,
            error=parity.mean_abs,
            extra=_Outcome(parity, facts, score),
        )


def _draw(calibration: EncodedRows | None) -> list[Batch]:
    """Return single rows without padding, drawn at random with a fixed seed."""
    if calibration is None or len(calibration) == 0:
        return []
    count = min(_NUM_CALIBRATION, len(calibration))
    drawn = np.random.default_rng(0).choice(len(calibration), size=count, replace=False)
    return [as_arrays(collate(calibration, [row], pad_multiple=1)) for row in drawn]


def _check_fp32(parity: Parity, spec: EngineSpec) -> None:
    allowed = _FP32_TOLERANCE * max(1.0, parity.max_logit)
    if not parity.max_abs <= allowed:
        raise ParityError(
            f"{spec}: logits differ from torch's by up to {parity.max_abs:.2g} (padded rows "
            f"{parity.max_abs_padded:.2g}, single rows {parity.max_abs_unpadded:.2g}, single "
            f"tokens {parity.max_abs_length_1:.2g}); allowed is {allowed:.2g}",
            hint="use another engine for this model; please report it",
        )


def _describe(
    folder: Path,
    spec: EngineSpec,
    source: Path,
    engine: EngineModule,
    trial: Trial,
    judge: _Judge,
    allowed: float,
) -> Artifact:
    outcome: _Outcome = trial.extra
    facts = dict(outcome.facts)
    return Artifact(
        dir=folder,
        spec=spec,
        model_hash=hash_model(source),
        parity=outcome.parity.to_json(),
        score={
            "rows": judge.rows,
            "num_rows": sum(len(batch["input_ids"]) for batch in judge.score_batches),
            "metric": judge.task.primary,
            "torch": judge.score_t / 100,
            "engine": outcome.score / 100,
            "drop_points": trial.drop_points,
            "allowed_points": allowed,
        },
        quantized=tuple(facts.pop("quantized")),
        kept_in_high_precision=trial.kept,
        facts=facts,
        versions={spec.engine: engine.version(), "python": platform.python_version()},
        files=describe_files(folder),
    )


def find_spec(path: str | Path) -> EngineSpec:
    """Return what a folder is compiled for; torch:fp32 for a model directory.

    Raises:
        ModelLoadError: it is neither.
        ArtifactError: it is a damaged artifact.
    """
    folder = find_folder(path)
    return Artifact.load(folder).spec if (folder / ARTIFACT_FILE).exists() else EngineSpec()


def open_session(
    path: str | Path,
    spec: EngineSpec | str | None = None,
    *,
    threads: int | None = None,
    streams: int | None = None,
) -> Session:
    """Open an artifact, or a model directory under any engine but int8.

    For an engine other than torch a model directory is compiled first, without real rows to check
    on; the artifact is kept in the cache.

    Args:
        path: artifact, model or run directory.
        spec: None: what the artifact is for, or torch:fp32.
        threads: processor threads; None: as the engine chooses.
        streams: how many batches `run_many` works on at once (OpenVINO); None: 1.

    Raises:
        ModelLoadError: there is no model.
        ArtifactError: the artifact is damaged.
        UsageError: the artifact is for another spec, or int8 is asked of a model directory.
    """
    folder = find_folder(path)
    spec = EngineSpec.parse(spec) if isinstance(spec, str) else spec
    if (folder / ARTIFACT_FILE).exists():
        artifact = Artifact.load(folder)
        if spec is not None and spec != artifact.spec:
            raise UsageError(
                f"{path} is compiled for {artifact.spec}, not for {spec}",
                hint="give the model directory it was made from, or leave the engine out",
            )
    else:
        spec = spec or EngineSpec()
        if spec.engine == "torch":
            return TorchSession(TaskModel.load(folder), spec.precision, threads)
        artifact = _compile_in_cache(folder, spec, threads)
    return _open_artifact(artifact, threads, streams or 1)


def _open_artifact(artifact: Artifact, threads: int | None, streams: int) -> Session:
    engine = load_engine(artifact.spec)
    if artifact.spec.precision == "int8" and _may_saturate(artifact):
        console.print(
            f"warning: {artifact.dir} was compiled for a processor with VNNI, and this one has "
            "none: sums of its int8 products may saturate, and nothing has measured what that "
            "costs. Compile it again here: bertwright export",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
    try:
        return engine.open_artifact(artifact.dir, artifact.facts, threads=threads, streams=streams)
    except BertwrightError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ArtifactError(
            f"{artifact.dir}: {artifact.spec.engine} cannot open it: {reason}",
            hint="compile it again: bertwright export",
        ) from error


def _may_saturate(artifact: Artifact) -> bool:
    """Whether weights have more bits than int8 kernels here add exactly."""
    return artifact.facts.get("weight_bits", 8) > exact_weight_bits()


def _compile_in_cache(folder: Path, spec: EngineSpec, threads: int | None) -> Artifact:
    if spec.precision == "int8":
        raise UsageError(
            f"{folder} is not compiled, and {spec} has to be calibrated and checked on real rows",
            hint="bertwright export --format openvino (or onnx) --precision int8 --data ...",
        )
    key = "-".join([spec.engine, spec.precision, load_engine(spec).version(), hash_model(folder)])
    place = cache_dir() / "engines" / key
    if place.exists():
        try:
            return Artifact.load(place)
        except ArtifactError:
            shutil.rmtree(place, ignore_errors=True)
    return compile_model(folder, spec, place, threads=threads)


def find_folder(path: str | Path) -> Path:
    """Return the folder of an artifact or saved model at `path` or in a run directory there.

    Raises:
        ModelLoadError: there is none.
    """
    for folder in (Path(path), Path(path) / "model"):
        if (folder / ARTIFACT_FILE).is_file() or (folder / MANIFEST_FILE).is_file():
            return folder
    raise ModelLoadError(
        f"{path} is neither a saved model nor a compiled one",
        hint="give the --out folder of finetune, distil, compress or export",
    )


def read_manifest(path: str | Path) -> Mapping[str, Any]:
    """Return what bertwright.json of a model or artifact folder says.

    Raises:
        ModelLoadError: there is no such folder.
        ArtifactError: the file is missing or damaged.
    """
    file = find_folder(path) / MANIFEST_FILE
    try:
        facts = read_json(file)
        known = {key: facts[key] for key in ("task", "labels", "max_length")}
        return {**known, "decoding": facts.get("decoding", {})}
    except (BertwrightError, KeyError, TypeError) as error:
        raise ArtifactError(f"{file} is missing or damaged: {error}") from error
