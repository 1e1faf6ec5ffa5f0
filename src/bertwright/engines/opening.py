"""From a folder to a session: an artifact is checked and opened, a model compiled first."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertwright.engines.artifact import ARTIFACT_FILE, MANIFEST_FILE, Artifact, hash_model
from bertwright.engines.base import EngineSpec, Session, load_engine
from bertwright.engines.compile import compile_model
from bertwright.engines.exact_sums import exact_weight_bits
from bertwright.engines.stages import open_written
from bertwright.engines.torch_engine import TorchSession
from bertwright.errors import ArtifactError, BertwrightError, ModelLoadError, UsageError
from bertwright.files import cache_dir, read_json
from bertwright.models.task_model import TaskModel
from bertwright.progress import console

__all__ = ["find_folder", "find_spec", "open_session", "read_manifest"]


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
        streams: how many batches `run_many` works on at once (not torch); None: 1.

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
        return open_written(engine, artifact.dir, artifact.facts, threads=threads, streams=streams)
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
