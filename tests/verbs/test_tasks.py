"""Every task through the commands: fine-tuned, compressed, evaluated, exported, predicted."""

from __future__ import annotations

import json
import random

import pytest

import bertwright
from task_rows import row_of

ANSWERS = {
    "multilabel": "labels",
    "powerset": "labels",
    "regress": "value",
    "span": "answer",
    "tag": "entities",
}
TRAINING = {"lr": 3e-3, "max_length": 48, "precision": "fp32", "evals_per_epoch": 1, "threads": 1}


# a road takes half a minute or more, nearly all of it in measuring processes that load
USUAL = ("span", "tag")
ROADS = [
    pytest.param(task, marks=() if task in USUAL else pytest.mark.slow) for task in sorted(ANSWERS)
]


@pytest.mark.parametrize("task", ROADS)
def test_a_task_goes_the_whole_road(task, encoder_dir, tmp_path):
    files = {}
    for seed, (name, count) in enumerate((("train", 96), ("dev", 32), ("test", 24))):
        rng = random.Random(seed)
        lines = [json.dumps(row_of(task, rng)) for _ in range(count)]
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("\n".join(lines))
    data = {"data": str(files["train"]), "eval_data": str(files["dev"])}
    teacher = bertwright.finetune(
        model=str(encoder_dir),
        task=task,
        out=str(tmp_path / "teacher"),
        epochs=40,
        **data,
        **TRAINING,
    )
    assert teacher.score is not None and teacher.score > 0
    small = bertwright.compress(
        model=str(tmp_path / "teacher"),
        test_data=str(files["test"]),
        keep=0.3,
        depths=(2,),
        students=("control", "distil"),
        engines=("openvino",),
        tolerance_points=20,
        repeats=1,
        latency_rows=4,
        epochs=3,
        out=str(tmp_path / "small"),
        **data,
        **TRAINING,
    )
    found = small.frontier
    assert found["teacher"]["primary"] == teacher.primary
    assert {c["method"] for c in found["candidates"]} == {"teacher", "control", "distil"}
    assert 0 < small.chosen["kept_low"] <= small.chosen["kept"] and "test_kept" in small.chosen
    assert small.report.read_text(encoding="utf-8").count("<svg") >= 1
    scored = bertwright.evaluate(
        model=str(tmp_path / "small"), data=str(files["test"]), repeats=1, latency_rows=2, threads=1
    )
    assert scored["score"] == pytest.approx(small.chosen["test_score"], abs=1e-6)
    answers = bertwright.predict(model=str(tmp_path / "small"), input=str(files["test"])).rows
    assert len(answers) == 24 and all(ANSWERS[task] in answer for answer in answers)
    exported = bertwright.export(
        model=str(tmp_path / "teacher"),
        format="onnx",
        data=str(files["train"]),
        out=str(tmp_path / "onnx"),
    )
    again = bertwright.predict(model=str(exported.out), input=str(files["test"])).rows
    assert len(again) == 24
