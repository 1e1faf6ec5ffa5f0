"""Prices are measured in a process of their own, once, and grow with what a model has to do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bertwright.compress import pricing
from bertwright.compress.latency_table import LayerShape, MeasuredModel, table_models
from bertwright.compress.pricing import layers_of, make_price_list
from bertwright.compress.shape_worker import cut_model
from bertwright.errors import UsageError, WorkerError
from bertwright.models.build import copy_with_layers, copy_with_widths
from bertwright.models.task_model import TaskModel
from bertwright.models.widths import widths_of


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BERTWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def texts(count: int = 40) -> dict[str, list[str]]:
    words = "the film is good and the book was bad".split()
    return {"text": [" ".join(words[: 1 + i % 8]) for i in range(count)]}


WHOLE = LayerShape(4, 48)
"""Of the tiny teacher's layers."""
LENGTHS = np.array([3 + i % 8 for i in range(40)])


def test_parts_of_a_model_have_the_shapes_asked_for(teacher_dir):
    model = TaskModel.load(teacher_dir / "model")
    (whole,) = set(layers_of(model))
    small = cut_model(model, MeasuredModel(3, LayerShape(1, 32)))
    assert widths_of(small.encoder).heads == (1, 1, 1)
    assert widths_of(small.encoder).neurons == (32, 32, 32)
    same = cut_model(model, MeasuredModel(model.roles.num_layers, whole))
    assert layers_of(same) == layers_of(model)


@pytest.mark.parametrize(("spec", "streams"), [("torch:fp32", [1]), ("openvino:fp32", [1, 2])])
def test_more_layers_cost_more(spec, streams, teacher_dir, cache, monkeypatch):
    two = table_models(WHOLE, 4, heads=False, neurons=False)
    monkeypatch.setattr(pricing, "table_models", lambda *_, **__: two)
    asked, ask = [], pricing._ask

    def counted(request, rows):
        asked.append(request["streams"])
        return ask(request, rows)

    monkeypatch.setattr(pricing, "_ask", counted)
    prices = make_price_list(teacher_dir, spec, texts(), LENGTHS, threads=2, rounds=1)
    assert asked == [streams]
    one, forty = [WHOLE], [WHOLE] * 40
    assert prices.latency_p50_ms(forty) > prices.latency_p50_ms(one) > 0
    assert prices.throughput_texts_s(one) > prices.throughput_texts_s(forty) > 0
    assert prices.text_s > 0 and prices.text_one_s > 0


def test_nothing_is_measured_twice(teacher_dir, cache, monkeypatch):
    asked = []

    def counted(request, rows):
        asked.append(request["threads"])
        return fake(request)

    monkeypatch.setattr(pricing, "_ask", counted)
    for threads in (1, 1, 2):
        make_price_list(teacher_dir, "torch:fp32", texts(), LENGTHS, threads=threads)
    make_price_list(teacher_dir, "torch:fp32", texts(), 2 * LENGTHS, threads=2)
    make_price_list(teacher_dir, "onnxruntime:fp32", texts(), LENGTHS, threads=2)
    assert asked == [1, 2, 2, 2]


def test_a_damaged_cache_is_measured_anew(teacher_dir, cache, monkeypatch):
    monkeypatch.setattr(pricing, "_ask", lambda request, rows: fake(request))
    make_price_list(teacher_dir, "torch:fp32", texts(), LENGTHS, threads=1)
    (file,) = (cache / "latency").iterdir()
    file.write_text("{")
    make_price_list(teacher_dir, "torch:fp32", texts(), LENGTHS, threads=1)
    assert json.loads(file.read_text())["text_s"] == 1e-4


def fake(request) -> dict:
    """A batch takes 1 ms a layer and row."""
    times = [[1e-3 * n * rows for rows, _ in request["cells"]] for n, _, _ in request["models"]]
    return {"seconds": [times] * len(request["streams"]), "text_s": 1e-4, "text_one_s": 1e-3}


def test_a_price_is_the_batches_of_a_predictor_and_the_text(teacher_dir, cache, monkeypatch):
    monkeypatch.setattr(pricing, "_ask", lambda request, rows: fake(request))
    prices = make_price_list(teacher_dir, "torch:fp32", texts(), LENGTHS, threads=1)
    shape = layers_of(TaskModel.load(teacher_dir / "model"))[0]
    assert prices.throughput_texts_s([shape] * 2) == pytest.approx(1 / (2e-3 + 1e-4))
    assert prices.latency_p50_ms([shape] * 2) == pytest.approx(2 + 1)


def test_models_without_one_shape_or_one_layer_are_refused(teacher_dir, cache, tmp_path):
    model = TaskModel.load(teacher_dir / "model")
    uneven = copy_with_widths(model, neurons={0: range(32)})
    uneven.save(tmp_path / "uneven")
    copy_with_layers(model, [0]).save(tmp_path / "one")
    for folder, reason in (("uneven", "several shapes"), ("one", "one layer")):
        with pytest.raises(UsageError, match=reason):
            make_price_list(tmp_path / folder, "torch:fp32", texts(), LENGTHS, threads=1)


def test_a_process_that_dies_is_reported_with_its_last_words(teacher_dir, cache, monkeypatch):
    command = (pricing._WORKER[0], "-c", "import sys; sys.exit('out of luck')")
    monkeypatch.setattr(pricing, "_WORKER", command)
    with pytest.raises(WorkerError, match="out of luck"):
        make_price_list(teacher_dir, "torch:fp32", texts(), LENGTHS, threads=1)
    assert not (cache / "latency").exists()
