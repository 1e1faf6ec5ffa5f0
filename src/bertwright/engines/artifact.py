"""A compiled model as a folder that explains itself and notices when it is damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertwright.engines.base import EngineSpec
from bertwright.errors import ArtifactError, BertwrightError
from bertwright.files import read_json, write_json
from bertwright.models.encoder import encoder_home
from bertwright.models.exits import EXITS

__all__ = [
    "ARTIFACT_FILE",
    "ARTIFACT_VERSION",
    "MANIFEST_FILE",
    "Artifact",
    "describe_files",
    "hash_file",
    "hash_model",
]

ARTIFACT_FILE = "artifact.json"
MANIFEST_FILE = "bertwright.json"
ARTIFACT_VERSION = 1

_HINT = "compile it again: bertwright export"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What artifact.json says."""

    dir: Path
    spec: EngineSpec
    model_hash: str
    """Of the weights it was made from."""
    parity: dict[str, Any]
    """Differences from torch in fp32; see `Parity`."""
    score: dict[str, Any]
    """How the score was compared: on what, torch's, the engine's, points lost and allowed."""
    quantized: tuple[str, ...]
    """The graph nodes that compute with 8-bit weights."""
    kept_in_high_precision: tuple[str, ...]
    """The parts that int8 was not good enough for."""
    facts: dict[str, Any]
    """What the engine needs to open its files."""
    versions: dict[str, str]
    files: dict[str, dict[str, Any]]
    """Name -> {"bytes", "blake2b"}."""

    def save(self) -> None:
        """Write artifact.json, after all other files."""
        body = {
            "format_version": ARTIFACT_VERSION,
            "spec": str(self.spec),
            "model_hash": self.model_hash,
            "parity": self.parity,
            "score": self.score,
            "quantized": list(self.quantized),
            "kept_in_high_precision": list(self.kept_in_high_precision),
            "facts": self.facts,
            "versions": self.versions,
            "files": self.files,
        }
        write_json(self.dir / ARTIFACT_FILE, body)

    @classmethod
    def load(cls, path: str | Path) -> Artifact:
        """Read an artifact folder and check every file of it.

        Raises:
            ArtifactError: it is not one, incomplete, damaged, or of a newer version.
        """
        folder = Path(path)
        try:
            body = read_json(folder / ARTIFACT_FILE)
        except BertwrightError as error:
            raise ArtifactError(f"not an artifact: {error.message}", hint=_HINT) from error
        version = body.get("format_version") if isinstance(body, Mapping) else None
        if not isinstance(version, int):
            raise ArtifactError(f"{folder / ARTIFACT_FILE} has no format_version", hint=_HINT)
        if version > ARTIFACT_VERSION:
            raise ArtifactError(
                f"{folder} is of format {version}; this bertwright reads up to {ARTIFACT_VERSION}",
                hint="pip install --upgrade bertwright",
            )
        try:
            artifact = cls(
                dir=folder,
                spec=EngineSpec.parse(body["spec"]),
                model_hash=body["model_hash"],
                parity=dict(body["parity"]),
                score=dict(body["score"]),
                quantized=tuple(body["quantized"]),
                kept_in_high_precision=tuple(body["kept_in_high_precision"]),
                facts=dict(body["facts"]),
                versions=dict(body["versions"]),
                files={name: dict(facts) for name, facts in body["files"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, BertwrightError) as error:
            raise ArtifactError(
                f"{folder / ARTIFACT_FILE} is damaged: {type(error).__name__}: {error}", hint=_HINT
            ) from error
        artifact.check_files()
        return artifact

    def check_files(self) -> None:
        """Raise an ArtifactError that names the first file that is missing or changed."""
        for name, facts in self.files.items():
            file = self.dir / name
            if not file.is_file():
                raise ArtifactError(f"{file} is missing", hint=_HINT)
            if file.stat().st_size != facts.get("bytes") or hash_file(file) != facts.get("blake2b"):
                raise ArtifactError(f"{file} is damaged: not what was compiled", hint=_HINT)


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and hash of every file of an artifact whose change would change its answers.

    Left out are artifact.json and bertwright.json, in which scores may be noted later.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        file.relative_to(folder).as_posix(): {
            "bytes": file.stat().st_size,
            "blake2b": hash_file(file),
        }
        for file in files
        if file.name not in (ARTIFACT_FILE, MANIFEST_FILE)
    }


def hash_file(path: Path) -> str:
    """Return the BLAKE2b hash of a file's content, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def hash_model(model_dir: Path) -> str:
    """Return a hash of what a model directory computes (not of its lineage), as hex."""
    digest = hashlib.blake2b(digest_size=16)
    encoder = encoder_home(model_dir) / "encoder"
    weights = sorted(encoder.glob("*.safetensors"))
    learned = [model_dir / name for name in ("heads.safetensors", EXITS)]
    for file in [encoder / "config.json", *weights, *learned]:
        if file.is_file():
            digest.update(hash_file(file).encode())
    manifest = read_json(model_dir / MANIFEST_FILE)
    described = {key: value for key, value in manifest.items() if key != "lineage"}
    digest.update(json.dumps(described, sort_keys=True).encode())
    return digest.hexdigest()
