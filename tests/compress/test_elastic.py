"""Elastic students in a search: which sizes there are, which are chosen, and that they end well."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bertwright.compress import measuring, pricing
from bertwright.compress.budget import Budget
from bertwright.compress.candidates import StudentPlan
from bertwright.compress.config import SearchConfig
from bertwright.compress.elastic import ElasticSize, cut_size, promising, size_plans
from bertwright.compress.pipeline import search
from bertwright.errors import ConfigError, UsageError
from bertwright.models.build import build_task_model, copy_with_layers
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.models.widths import LayerWidths, widths_of
from compress.conftest import SEARCH, TRAINING
from compress.fakes import measured_alike


def size(layers: int, kept: float, speed: float, latency: float = 1.0) -> ElasticSize:
    return ElasticSize(StudentPlan(layers, "elastic", 0), kept, speed, latency)


def layers_of(plans) -> list[int]:
    return [plan.layers for plan in plans]


SIZES = [
    size(1, 0.90, 900, 0.5),
    size(2, 0.97, 700, 1.0),
    size(3, 0.96, 600, 1.2),
    size(4, 0.985, 500, 2.0),
    size(5, 0.999, 300, 3.0),
    size(6, 1.001, 100, 6.0),
]
"""The third is beaten by the second in everything."""


def test_the_fastest_that_nearly_keep_enough_are_trained_on():
    wanted = {"budget": Budget(keep=0.99), "prefer": "speed"}
    assert layers_of(promising(SIZES, count=3, **wanted)) == [2, 4, 5]
    assert layers_of(promising(SIZES, count=9, **wanted)) == [2, 4, 5, 6, 1]
    assert layers_of(promising(SIZES[:1], count=3, **wanted)) == [1], "there is always one"


def test_what_is_preferred_and_asked_matters():
    assert layers_of(promising(SIZES, budget=Budget(keep=0.99), prefer="score", count=2)) == [6, 5]
    low = Budget(keep=0.9)
    assert layers_of(promising(SIZES, budget=low, prefer="latency", count=2)) == [1, 2]
    quick = Budget(keep=0.99, max_latency_ms=0.95)
    assert layers_of(promising(SIZES, budget=quick, prefer="speed", count=3)) == [2, 1]
    impossible = Budget(keep=0.99, max_latency_ms=0.01)
    assert layers_of(promising(SIZES, budget=impossible, prefer="speed", count=1)) == [2]


def test_sizes_of_a_model_and_what_is_cut(teacher_dir):
    model = TaskModel.load(teacher_dir)
    plans = size_plans(model, seed=3)
    heads, neurons = widths_of(model.encoder).heads[0], widths_of(model.encoder).neurons[0]
    assert len(plans) == len(set(plans)) and all(plan.method == "elastic" for plan in plans)
    assert {plan.layers for plan in plans} == {1, 2, 3, 4}
    assert StudentPlan(4, "elastic", 3) not in plans and StudentPlan(3, "elastic", 3) in plans
    for plan in plans:
        assert widths_of(cut_size(model, plan).encoder) == LayerWidths(
            heads=(round(plan.heads * heads),) * plan.layers,
            neurons=(round(plan.neurons * neurons),) * plan.layers,
        )
    small = min(plans, key=lambda plan: plan.cost)
    cut, layer = cut_size(model, small), copy_with_layers(model, [0])
    count = widths_of(cut.encoder).neurons[0]
    assert torch.equal(
        cut.roles.part(0, "ffn_in").weight, layer.roles.part(0, "ffn_in").weight[:count]
    )


def priced_by_heads(request, _) -> dict:
    """A batch takes 1 ms a layer, head and row."""
    times = [
        [1e-3 * layers * heads * rows for rows, _ in request["cells"]]
        for layers, heads, _ in request["models"]
    ]
    return {"seconds": [times] * len(request["streams"]), "text_s": 1e-6, "text_one_s": 1e-6}


def test_a_search_with_elastic_students(teacher_dir, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(pricing, "_ask", priced_by_heads)
    monkeypatch.setattr(measuring, "measure_targets", measured_alike)
    monkeypatch.setenv("BERTWRIGHT_CACHE", str(tmp_path / "cache"))
    config = replace(SEARCH, students=("control", "elastic"), elastic_sizes=2)
    options = {"budget": Budget(keep=0.5), "training": TRAINING, "out": tmp_path / "out"}
    result = search(teacher_dir, rows, config=config, **options)
    found = {c["name"]: c for c in result.frontier["candidates"] if c["method"] == "elastic"}
    assert len(found) == 2 and result.choice.met
    supernet = tmp_path / "out" / "students" / "elastic-supernet"
    manifest = supernet / "model" / "bertwright.json"
    whole, stamp = TaskModel.load(supernet), manifest.stat().st_mtime_ns
    for name, facts in found.items():
        student = TaskModel.load(tmp_path / "out" / "students" / name.partition("@")[0])
        assert student.roles.num_layers == facts["layers"] <= 4
        assert facts["parameters"] < whole.num_parameters
    again = search(teacher_dir, rows, config=config, **options)
    assert manifest.stat().st_mtime_ns == stamp, "nothing is trained twice"
    names = {c["name"] for c in result.frontier["candidates"]}
    assert {c["name"] for c in again.frontier["candidates"]} == names


def test_what_has_no_sizes_is_refused_before_anything_is_trained(teacher_dir, rows, tmp_path):
    with pytest.raises(ConfigError, match="elastic-sizes"):
        SearchConfig(elastic_sizes=0)
    model = TaskModel.load(teacher_dir)
    several = build_task_model(
        model.lineage["base_model"],
        task="classify",
        labels=model.labels,
        config=ModelConfig(pooling="weighted-layers"),
        max_length=16,
    )
    several.save(tmp_path / "several")
    with pytest.raises(UsageError, match="several layers"):
        search(
            tmp_path / "several",
            rows,
            config=replace(SEARCH, students=("elastic",)),
            budget=Budget(keep=0.5),
            training=TRAINING,
            out=tmp_path / "out",
        )
    assert not (tmp_path / "out" / "students").exists()
