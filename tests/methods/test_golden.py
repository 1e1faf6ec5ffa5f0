"""Loss curves of 20 steps, kept as a file: a change that claims no numeric effect matches them.

A change that means to have one writes them anew (and says so in its message):

    PYTHONPATH=tests python -m methods.test_golden
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from methods.test_settings import TRAINED, losses_of, run_method

CURVES = Path(__file__).with_name("golden_losses.json")
STEPS = 20
CLOSE = 1e-3
"""Relative; processors round differently, and 20 steps make that larger."""


def run_curve(name: str, folder: Path, *, other: bool = False) -> list[float]:
    options = {"epochs": 4, "max_steps": STEPS, "evals_per_epoch": 6}
    run_method(name, folder / "run", other=other, **options)
    phases = sorted((folder / "run").rglob("metrics.jsonl"), key=lambda file: -len(file.parts))
    return [loss for file in phases for loss in losses_of(file.parent)]


@pytest.mark.parametrize("name", TRAINED)
def test_the_loss_curve_is_the_golden_one(name, tmp_path):
    golden = json.loads(CURVES.read_text())[name]
    assert len(golden) >= STEPS and min(golden) > 0
    assert run_curve(name, tmp_path) == pytest.approx(golden, rel=CLOSE)


def test_the_golden_curve_rejects_other_options(tmp_path):
    golden = json.loads(CURVES.read_text())["hidden_matching"]
    assert run_curve("hidden_matching", tmp_path, other=True) != pytest.approx(golden, rel=CLOSE)


def write_golden() -> None:
    curves = {}
    for name in TRAINED:
        with tempfile.TemporaryDirectory() as folder:
            curves[name] = run_curve(name, Path(folder))
    CURVES.write_text(json.dumps(curves, indent=1) + "\n")


if __name__ == "__main__":
    write_golden()
