"""From a model directory to an artifact, checked against torch.

Never silently wrong: fp32 must match torch's logits, bf16 and int8 must keep the score; int8 that
does not is repaired by sparing parts of the model, or refused.
"""

from __future__ import annotations

import dataclasses
import functools
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bertwright.data.batching import collate
from bertwright.data.tokenise import EncodedRows
from bertwright.engines.artifact import (
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
from bertwright.engines.judge import Judge, Score
from bertwright.engines.parity import (
    Parity,
    as_arrays,
    measure_parity,
)
from bertwright.engines.repair import Trial, repair
from bertwright.engines.stages import EarlySession, StagesCompiler, open_written
from bertwright.engines.torch_engine import TorchSession
from bertwright.errors import (
    ConfigError,
    ParityError,
    UsageError,
)
from bertwright.files import atomic_dir
from bertwright.models.encoder import find_model_dir, quiet_transformers
from bertwright.models.exits import find_threshold, refuse_exits
from bertwright.models.packed import pack_words
from bertwright.models.task_model import TaskModel

__all__ = ["Artifact", "compile_model"]

_NUM_CALIBRATION = 300
_FP32_TOLERANCE = 1e-3


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

    A model with early exits promises so much agreement with the whole model. That was measured in
    fp32; in other precisions the threshold is found anew, on `dev`, by the engine's own answers.

    Args:
        model_dir: what `TaskModel.save` wrote, or a run directory.
        spec: engine and precision.
        out_dir: the artifact's folder; one that is there is replaced when all went well.
        calibration: training rows for OpenVINO's int8; 300 of them are drawn. Not needed for a
            model that was trained with rounding: it has its ranges.
        parity: real rows to compare logits on; without them, random token ids.
        dev: labelled rows to score bf16 and int8 on; early exits must not have learned from them.
        tolerance_points: how much score may be lost, in points (100 = everything).
        table_bits: of the numbers of the word embeddings in int8; with 4 they have 8 all the same
            where 4 would lose more score than that.
        threads: processor threads for the checks; None: as the engines choose.

    Raises:
        ModelLoadError: there is no saved model.
        MissingDependencyError: the engine's library is not installed.
        UnsupportedRoleError: word embeddings in 4 bits are asked for, and the family has no plain
            table of them.
        UsageError: calibration rows are needed and missing, dev's labels are not the model's, or
            the model has early exits, the precision is not fp32, and there is no `dev`, or the
            engine is torch.
        ParityError: the answers differ by more than allowed and no repair helped; or early exits
            cannot keep in this precision what they promise.
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
    if model.exits is not None and spec.precision != "fp32":
        _check_exits(model, spec, dev)
    reference = TorchSession(model, "fp32", threads)
    judge = Judge.prepare(model, reference, parity, None if spec.precision == "fp32" else dev)
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


@dataclass(frozen=True)
class _Outcome:
    """What a trial carries along."""

    parity: Parity
    facts: dict[str, Any]
    score: Score


@dataclass
class _Bench:
    """Compiles with some parts spared and measures what came out."""

    engine: EngineModule
    spec: EngineSpec
    model: TaskModel
    table_bits: int | None
    """Of the word embeddings; None: not in int8."""
    folder: Path
    judge: Judge
    calibration: Sequence[Batch]
    threads: int | None
    written: tuple[str, ...] | None = None
    """Which parts the files now in the folder spare."""

    @functools.cached_property
    def compiler(self) -> Compiler:
        """What writes the engine's files."""
        model = pack_words(self.model) if self.table_bits == 4 else self.model
        if model.exits is not None and self.spec.engine != "torch":
            return StagesCompiler(self.engine, model, self.spec.precision)
        return self.engine.make_compiler(model, self.spec.precision)

    def attempt(self, kept: tuple[str, ...]) -> Trial:
        """Write the engine's files, open them, and compare with torch."""
        facts = self.compiler.write(self.folder, calibration=self.calibration, kept=kept)
        facts["precision"] = self.spec.precision
        if self.table_bits is not None:
            facts["table_bits"] = self.table_bits
        self.written = kept
        session = open_written(self.engine, self.folder, facts, threads=self.threads, streams=1)
        try:
            if isinstance(session, EarlySession) and self.spec.precision != "fp32":
                facts["exits"] |= self._keep_promise(session)
            parity = self._parity(session)
            score = self.judge.score(session)
        finally:
            session.close()
        return Trial(
            kept=kept,
            drop_points=self.judge.score_t - score.points,
            error=parity.mean_abs,
            extra=_Outcome(parity, facts, score),
        )

    def _keep_promise(self, session: EarlySession) -> dict[str, Any]:
        """Give a session the threshold that its own answers to dev ask for; return it, and why."""
        exits = self.model.exits
        assert exits is not None, "the model has no exits"
        if exits.threshold is None:
            return {}
        answers = (session.at_all_exits(**batch) for batch in self.judge.score_batches)
        by_exit = (
            torch.from_numpy(one).view(len(exits.layers) + 1, -1, one.shape[-1]) for one in answers
        )
        found = find_threshold(exits, by_exit, self.model.roles.num_layers)
        if found.threshold is None:
            raise ParityError(
                f"{self.spec}: no threshold of the early exits is sure to leave "
                f"{exits.agreement:g} of the answers as the whole model gives them, by "
                f"{found.num_rows:,} rows",
                hint="give more rows (--eval-data), or take the model that `bertwright exits` was "
                "given",
            )
        session.threshold = found.threshold
        return {"threshold": found.threshold, "calibrated": vars(found)}

    def _parity(self, session: Session) -> Parity:
        """Compare with torch: of graphs between exits every exit, as a row may leave at any."""
        reference, batches = self.judge.reference, self.judge.batches
        if isinstance(session, EarlySession):
            return measure_parity(reference.at_all_exits, session.at_all_exits, batches)
        return measure_parity(reference, session, batches)


def _check_exits(model: TaskModel, spec: EngineSpec, dev: EncodedRows | None) -> None:
    """Raise unless the threshold of early exits can be found in a precision other than fp32."""
    if spec.engine == "torch":
        refuse_exits(model, f"torch runs them in fp32, and in {spec.precision} the whole model")
    if dev is None or len(dev) == 0:
        raise UsageError(
            f"the model has early exits, and in {spec.precision} their threshold has to be found "
            "anew, on rows that the heads have not learned from",
            hint="give labelled rows with --eval-data",
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
    judge: Judge,
    allowed: float,
) -> Artifact:
    outcome: _Outcome = trial.extra
    facts = dict(outcome.facts)
    lost = judge.lost(outcome.score)
    return Artifact(
        dir=folder,
        spec=spec,
        model_hash=hash_model(source),
        parity=outcome.parity.to_json(),
        score={
            "rows": judge.rows,
            "num_rows": judge.num_rows,
            "metric": judge.task.primary,
            "torch": judge.score_t / 100,
            "engine": outcome.score.points / 100,
            "drop_points": trial.drop_points,
            **({} if lost is None else {"drop_low": lost.low, "drop_high": lost.high}),
            "allowed_points": allowed,
        },
        quantized=tuple(facts.pop("quantized")),
        kept_in_high_precision=trial.kept,
        facts=facts,
        versions={spec.engine: engine.version(), "python": platform.python_version()},
        files=describe_files(folder),
    )
