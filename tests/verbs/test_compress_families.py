"""A search through every family: tuned, made smaller, beside its stock pipeline, reported."""

from __future__ import annotations

import pytest
import torch

import bertwright
from bertwright.models.encoder import save_encoder
from tiny import FAMILY_NAMES, tiny_encoder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_search_ends_with_a_model_and_a_report(family, data, tmp_path):
    torch.manual_seed(0)
    encoder, tokenizer = tiny_encoder(family)
    save_encoder(encoder, tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    options = {"data": data["train"], "eval_data": data["dev"], "max_length": 16, "threads": 1}
    options |= {"max_steps": 2, "precision": "fp32"}
    bertwright.finetune(model=str(tmp_path / "encoder"), out=str(tmp_path / "t"), **options)
    found = bertwright.compress(
        **options,
        **{"model": str(tmp_path / "t"), "out": str(tmp_path / "s"), "depths": (2,)},
        **{"students": ("control", "distil", "fitted"), "engines": ("torch",)},
        **{"precisions": ("fp32",), "keep": 0.1, "repeats": 1, "latency_rows": 4},
    )
    names = {one["name"].partition("@")[0] for one in found.frontier["candidates"]}
    assert {"teacher", "control-2L"} <= names and found.frontier["baseline"]
    assert (tmp_path / "s/report.html").stat().st_size > 0
    assert (found.model_dir / "bertwright.json").exists()
