"""Facts about the machine and the installed versions: every measurement is signed with them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["PROCESSOR_FEATURES", "machine", "read_processor", "usable_cores", "versions"]

PROCESSOR_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "bf16",
    "i8mm",
    "sve",
)
"""The flags of /proc/cpuinfo that decide how fast an encoder runs."""

_LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "datasets",
    "numpy",
    "scikit-learn",
    "onnxruntime",
    "onnx",
    "openvino",
    "nncf",
)


def machine() -> dict[str, Any]:
    """Return what this machine is, as plain JSON values.

    Keys: `processor` (model name), `features` (those of `PROCESSOR_FEATURES` that it has), `cores`
    (this process may use), `memory_gb` (10^9 bytes), `system`, `architecture`.
    """
    name, flags = read_processor()
    return {
        "processor": name,
        "features": [feature for feature in PROCESSOR_FEATURES if feature in flags],
        "cores": usable_cores(),
        "memory_gb": round(_memory_bytes() / 1e9, 1),
        "system": _system_name(),
        "architecture": platform.machine(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and the installed libraries that matter."""
    found = {"python": platform.python_version()}
    for library in ("bertwright", *_LIBRARIES):
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read_processor(path: str | Path = "/proc/cpuinfo") -> tuple[str, frozenset[str]]:
    """Return the processor's name and feature flags; no flags where the system does not tell."""
    name, flags = platform.processor() or platform.machine() or "unknown", frozenset[str]()
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return name, flags
    for line in text.splitlines():
        key, _, value = line.partition(":")
        key = key.strip().lower()
        if key == "model name" and value.strip():
            name = value.strip()
        elif key in ("flags", "features"):
            flags = frozenset(value.split())
    return name, flags


def usable_cores() -> int:
    """Return the number of cores that this process may run on (its affinity, where it has one)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _system_name() -> str:
    try:
        pretty = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        pretty = ""
    kernel = f"{platform.system()} {platform.release()}"
    return f"{pretty} ({kernel})" if pretty else kernel
