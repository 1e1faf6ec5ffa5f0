"""The machine's facts are plain JSON and agree with what the system says elsewhere."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import torch

from bertwright.evaluate.machine import machine, read_processor, usable_cores, versions


def test_machine_is_plain_json() -> None:
    facts = machine()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["processor"]
    assert 1 <= facts["cores"] <= (os.cpu_count() or 1)
    assert facts["cores"] == usable_cores()
    assert facts["memory_gb"] > 0.1
    assert facts["architecture"] == platform.machine()


def test_features_are_read_and_not_guessed(tmp_path: Path) -> None:
    x86 = tmp_path / "x86"
    x86.write_text("model name\t: Fast CPU\nflags\t\t: fpu avx2 avx512_vnni\n", encoding="utf-8")
    assert read_processor(x86) == ("Fast CPU", frozenset({"fpu", "avx2", "avx512_vnni"}))
    arm = tmp_path / "arm"
    arm.write_text("Features\t: asimd bf16 i8mm\n", encoding="utf-8")
    assert read_processor(arm)[1] == frozenset({"asimd", "bf16", "i8mm"})
    name, flags = read_processor(tmp_path / "missing")
    assert name and not flags


def test_versions_are_those_that_run() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert all(isinstance(value, str) and value for value in found.values())
