from __future__ import annotations

import torch

from bertwright.training import precision
from bertwright.training.precision import (
    detect_bf16,
    make_accelerator,
    resolve_precision,
    using_threads,
)


def cpuinfo(path, flags: str):
    path.write_text(
        f"processor\t: 0\nmodel name\t: X\nflags\t\t: fpu {flags} sse\n\nprocessor: 1\n"
    )
    return path


def test_the_processor_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert detect_bf16(cpuinfo(tmp_path / "a", "avx512_bf16")) == "cpu: avx512_bf16"
    assert detect_bf16(cpuinfo(tmp_path / "b", "avx512_bf16 amx_bf16")) == (
        "cpu: amx_bf16, avx512_bf16"
    )
    assert detect_bf16(cpuinfo(tmp_path / "c", "avx512f avx2")) == ""
    assert detect_bf16(tmp_path / "missing") == ""


def test_auto_follows_the_processor_and_others_are_kept(monkeypatch):
    monkeypatch.setattr(precision, "detect_bf16", lambda: "cpu: amx_bf16")
    assert [resolve_precision(p) for p in ("auto", "fp32", "bf16")] == ["bf16", "fp32", "bf16"]
    monkeypatch.setattr(precision, "detect_bf16", lambda: "")
    assert [resolve_precision(p) for p in ("auto", "fp32", "bf16")] == ["fp32", "fp32", "bf16"]


def test_accelerators_of_one_process_may_differ():
    product = {}
    for wanted in ("bf16", "fp32", "bf16"):
        with make_accelerator(wanted).autocast():
            product[wanted] = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    assert product == {"bf16": torch.bfloat16, "fp32": torch.float32}


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with using_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with using_threads(None):
        assert torch.get_num_threads() == before
