"""What stands beside the weights of a saved model: its manifest, read and checked.

The manifest says the task, the labels, the outputs, the pooling, the head, the surgery and the
lineage of a model; see `TaskModel.save`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bertwright.config import config_from_dict
from bertwright.errors import CheckpointError
from bertwright.models.outputs import Outputs

__all__ = ["FORMAT_VERSION", "HEADS", "MANIFEST", "check_file", "read_manifest", "read_outputs"]

FORMAT_VERSION = 1
MANIFEST = "bertwright.json"
HEADS = "heads.safetensors"


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest.

    Raises:
        CheckpointError: it is missing, damaged, or of a newer version.
    """
    check_file(path)
    manifest = json.loads(path.read_text(encoding="utf-8"))
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int):
        raise CheckpointError(f"{path} has no format_version: it is not bertwright's")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} is of format {version}; this bertwright reads up to {FORMAT_VERSION}",
            hint="pip install --upgrade bertwright",
        )
    return manifest


def check_file(path: Path) -> None:
    """Raise a CheckpointError that names `path` unless it is there and whole."""
    hint = "the directory was copied in part or damaged; save or copy it again"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing", hint=hint)
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        else:
            with safe_open(path, framework="pt"):
                pass
    except (ValueError, SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", hint=hint) from error


def read_outputs(manifest: dict[str, Any], source: str) -> Outputs | None:
    """Return what the manifest says; those of the first release say nothing: one a label."""
    values = manifest.get("outputs")
    return None if values is None else config_from_dict(Outputs, values, source=source)
