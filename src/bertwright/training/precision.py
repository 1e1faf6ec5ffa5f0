"""Which number format to compute in: the processor is asked, not guessed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

__all__ = ["detect_bf16", "make_accelerator", "resolve_precision", "using_threads"]

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = ("amx_bf16", "avx512_bf16")


def _cpu_flags(cpuinfo: Path) -> set[str]:
    """Return the feature flags of the first processor that `cpuinfo` lists."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return set(value.split())
    return set()


def detect_bf16(cpuinfo: Path = CPUINFO) -> str:
    """Return what makes bfloat16 fast here ("cpu: avx512_bf16"), or "" when nothing does."""
    if torch.cuda.is_available():
        return "cuda" if torch.cuda.is_bf16_supported(including_emulation=False) else ""
    flags = _cpu_flags(cpuinfo)
    found = [flag for flag in BF16_FLAGS if flag in flags]
    return f"cpu: {', '.join(found)}" if found else ""


def resolve_precision(precision: Literal["auto", "fp32", "bf16"]) -> Literal["fp32", "bf16"]:
    """Return the precision that `auto` stands for on this machine; others unchanged."""
    if precision == "auto":
        return "bf16" if detect_bf16() else "fp32"
    return precision


def make_accelerator(precision: Literal["auto", "fp32", "bf16"]) -> Accelerator:
    """Return a new Accelerator, whatever precision an earlier one of this process had."""
    AcceleratorState._reset_state()
    wanted = resolve_precision(precision)
    return Accelerator(mixed_precision="bf16" if wanted == "bf16" else "no")


@contextlib.contextmanager
def using_threads(threads: int | None) -> Iterator[None]:
    """Let torch use this many processor threads inside the block; None changes nothing."""
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        if threads is not None:
            torch.set_num_threads(before)
