"""Every task through the commands: fine-tuned, compressed, evaluated, exported, predicted."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

import bertwright
from task_rows import row_of

ANSWERS = {
    "embed": "similarity",
    "multilabel": "labels",
    "powerset": "labels",
    "regress": "value",
    "span": "answer",
    "tag": "entities",
}
TRAINING = {"lr": 3e-3, "max_length": 48, "precision": "fp32", "evals_per_epoch": 1, "threads": 1}


# a road takes half a minute or more, nearly all of it in measuring processes that load
USUAL = ("span",)
ROADS = [
    pytest.param(task, marks=() if task in USUAL else pytest.mark.slow) for task in sorted(ANSWERS)
]


@pytest.mark.timeout(900)
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
        students=("distil",),
        engines=("openvino",),
        precisions=("int8",),
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
    assert {c["method"] for c in found["candidates"]} == {"teacher", "distil"}
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


PAIRS = (
    ("A man is playing a guitar.", "A man plays the guitar.", 4.9),
    ("A plane is taking off.", "An air plane takes off.", 4.8),
    ("A woman slices an onion.", "Someone is cutting a vegetable.", 3.2),
    ("A dog runs on the beach.", "A dog is sleeping in a basket.", 1.8),
    ("Two children play chess.", "Stocks fell sharply on Friday.", 0.0),
    ("The court rejected the appeal.", "A cat jumps on the table.", 0.1),
)


def test_minilm_embeds_as_it_comes(tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [dict(zip(("text", "text_b", "label"), row, strict=True)) for row in PAIRS]
    file.write_text("\n".join(map(json.dumps, rows)))
    found = bertwright.evaluate(
        model="minilm", data=str(file), repeats=1, latency_rows=2, speed_rows=6, threads=1
    )
    assert (found["task"], found["primary"], found["num_rows"]) == ("embed", "spearman", 6)
    assert set(found["metrics"]) == {"spearman", "pearson"}
    assert found["score"] > 0.8 and found["throughput_texts_s"] > 0
    texts = PAIRS[0][0], PAIRS[0][1], PAIRS[4][1]
    answers = bertwright.predict(model="minilm", text=texts).rows
    assert [answer["text"] for answer in answers] == list(texts)
    vectors = np.array([answer["vector"] for answer in answers])
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > 0.8 and far < 0.2
    pairs = bertwright.predict(model="minilm", input=str(file)).rows
    assert pairs[0]["similarity"] == pytest.approx(near, abs=1e-5) and "vector" not in pairs[0]
