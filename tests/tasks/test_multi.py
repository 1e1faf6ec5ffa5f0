"""Several tasks at once: losses, scores and what is tuned, by head; and how they train together."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch

from bertwright.data.batching import MODEL_INPUTS
from bertwright.data.load import load_rows
from bertwright.data.mixed import HEAD, MixedRows
from bertwright.data.tokenise import tokenise
from bertwright.models.build import build_task_model
from bertwright.models.multi import MultiModel
from bertwright.models.task_model import TaskModel
from bertwright.tasks import find_task
from bertwright.tasks.multi import MultiTask
from bertwright.training.config import TrainingConfig
from bertwright.training.evaluation import compute_logits, evaluate_model
from bertwright.training.loop import train
from bertwright.training.steps import StepPlan
from task_rows import row_of
from tiny import tiny_encoder, tiny_tokenizer

TASKS = {
    "topic": "classify",
    "rating": "regress",
    "many": "multilabel",
    "names": "tag",
    "near": "embed",
    "best": "rerank",
}
NOISE = 1e-5
"""Gradients below it move nothing: that of a key's bias is nothing but rounding."""
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def encode(name: str, count: int, seed: int = 0) -> Any:
    task = find_task(TASKS[name])
    rng = random.Random(f"{name} {seed}")
    rows = load_rows([row_of(TASKS[name], rng) for _ in range(count)], schema=task.schema)
    return tokenise(rows, tiny_tokenizer(), encoder=task.training_encoder, max_length=48)


def model_of(name: str, encoded: Any) -> TaskModel:
    encoder, tokenizer = tiny_encoder("bert", num_hidden_layers=2, **QUIET)
    task = find_task(TASKS[name])
    labels = list(encoded.labels.names) if encoded.labels is not None else []
    return build_task_model(
        encoder,
        task=task.name,
        labels=labels,
        tokenizer=tokenizer,
        max_length=48,
        outputs=task.outputs(labels),
    )


def setting(counts: dict[str, int], weights: dict[str, float] | None = None, **options: Any):
    """Return the parts' rows, all rows, a model of all and the task of all."""
    parts = {name: encode(name, count) for name, count in counts.items()}
    model = MultiModel({name: model_of(name, part) for name, part in parts.items()})
    task = MultiTask(
        tasks={name: find_task(TASKS[name]) for name in counts},
        weights=dict.fromkeys(counts, 1.0) | (weights or {}),
    )
    rows: Any = MixedRows(parts, **options)
    task.prepare(model, rows)  # type: ignore[arg-type]
    return parts, rows, model, task


def run(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    return model(**{name: batch[name] for name in MODEL_INPUTS if name in batch}).logits


def test_losses_are_the_tasks_own_times_the_weight():
    weights = {name: 0.5 + place for place, name in enumerate(TASKS)}
    parts, rows, model, task = setting(dict.fromkeys(TASKS, 9), weights)
    sizes = [len(part) for part in parts.values()]
    starts = dict(zip(parts, itertools.accumulate(sizes, initial=0), strict=False))
    seen = set()
    for positions in rows.plan(batch_tokens=300, batch_size=4):
        batch = rows.collate(positions)
        name = batch[HEAD]
        losses = task.per_example_loss(run(model, batch), batch, model)
        start = starts[name]
        own = parts[name].collate(positions - start)
        alone = model.parts[name]
        expected = find_task(TASKS[name]).per_example_loss(run(alone, own), own, alone)
        torch.testing.assert_close(losses, weights[name] * expected, rtol=1e-6, atol=0)
        assert losses.shape == (len(positions),) and losses.sum() > 0
        seen.add(name)
    assert seen == set(TASKS)


def test_a_row_drawn_often_has_the_loss_that_it_has_alone():
    """Of reranking: a copy of a row in its batch would make it twice as long a list."""
    parts, rows, model, task = setting({"topic": 120, "best": 3}, sampling="sqrt")
    start, alone = len(parts["topic"]), {}
    for row in np.unique(parts["best"].row_numbers):
        own = rows.collate(start + np.flatnonzero(parts["best"].row_numbers == row))
        alone[row] = task.per_example_loss(run(model, own), own, model)[0]
    found = 0
    for positions in rows.plan(batch_tokens=2048, batch_size=32):
        batch = rows.collate(positions)
        if batch[HEAD] == "best":
            losses = task.per_example_loss(run(model, batch), batch, model)
            expected = torch.stack([alone[row] for row in batch["rows"]])
            torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-6)
            found += len(set(batch["rows"].tolist()))
    assert found >= 15, "the rows were drawn several times"


def test_the_gradient_reaches_the_encoder_and_the_batchs_head_alone():
    _, rows, model, task = setting(dict.fromkeys(TASKS, 6))
    seen = set()
    for positions in rows.plan(batch_tokens=300, batch_size=3):
        batch = rows.collate(positions)
        model.zero_grad(set_to_none=True)
        task.per_example_loss(run(model, batch), batch, model).sum().backward()
        first = model.roles.layers[0]
        assert all(p.grad is not None and p.grad.any() for p in [*first.parameters()][:1])
        for name, part in model.parts.items():
            grads = [parameter.grad for parameter in part.head.parameters()]
            if name != batch[HEAD]:
                assert not any(grad is not None for grad in grads)
            elif grads:  # that of embeddings has none of its own
                assert any(grad is not None and bool(grad.any()) for grad in grads)
                seen.add(name)
    assert len(seen) >= len(TASKS) - 1


def test_scores_are_those_of_each_task_and_their_mean():
    parts, rows, model, task = setting(dict.fromkeys(TASKS, 24))
    outputs = compute_logits(model, rows, precision="fp32")  # type: ignore[arg-type]
    assert list(outputs) == list(TASKS)
    judging = task.judging(rows)
    decoding = judging.tune(model, outputs, rows)
    statistics = judging.judge(outputs, rows, decoding)
    metrics = judging.metrics(statistics)
    primaries = []
    for name, part in parts.items():
        alone: Any = find_task(TASKS[name]).judging(part)
        single = compute_logits(model.parts[name], part, precision="fp32")
        tuned = alone.tune(model.parts[name], single, part)
        assert decoding[name] == tuned
        expected = alone.metrics(alone.judge(single, part, tuned))
        assert {k: metrics[f"{name}/{k}"] for k in expected} == pytest.approx(expected, abs=1e-5)
        primaries.append(expected[alone.primary])
    assert metrics["mean"] == pytest.approx(sum(primaries) / len(primaries), abs=1e-5)
    assert task.primary == judging.primary == "mean" and next(iter(metrics)) == "mean"
    assert len(set(np.round(primaries, 3))) > 3, "the tasks' scores differ"
    assert "near/spearman" in metrics and "near/mrr" not in metrics, "embeddings judged by scores"


def test_the_mean_by_hand():
    """Two of four labels right, and numbers in perfect order: (0.5 + 1) / 2."""
    parts, rows, model, task = setting({"topic": 4, "rating": 4})
    labels = parts["topic"].label_ids
    right = np.array([True, True, False, False])
    numbers = np.asarray(parts["rating"].field("labels", np.arange(4)), dtype=np.float64)
    assert len(set(numbers.tolist())) > 1
    outputs = {
        "topic": np.eye(2)[np.where(right, labels, 1 - labels)],
        "rating": 3 * numbers[:, None] - 1,
    }
    metrics = task.metrics(task.judge(outputs, rows, task.tune(model, outputs, rows)))
    assert metrics["topic/accuracy"] == 0.5 and metrics["rating/pearson"] == pytest.approx(1.0)
    assert metrics["mean"] == pytest.approx(0.75)
    outputs["rating"] = -outputs["rating"]
    assert task.metrics(task.judge(outputs, rows, {}))["mean"] == pytest.approx(-0.25)


def test_evaluating_tunes_for_the_scores_and_leaves_the_model_as_it_was():
    _, rows, model, task = setting({"many": 30, "rating": 8})
    metrics, outputs = evaluate_model(model, rows, task)  # type: ignore[arg-type]
    assert model.decoding == {"many": {}, "rating": {}}
    tuned = task.tune(model, outputs, rows)
    assert list(tuned["many"]) == ["thresholds"] and tuned["rating"] == {}
    untuned = task.metrics(task.judge(outputs, rows, {"many": {}, "rating": {}}))
    assert metrics["many/micro_f1"] >= untuned["many/micro_f1"]
    assert metrics["mean"] > untuned["mean"], "thresholds were tuned"
    assert task.tune(model, None, None) == {"many": {}, "rating": {}}


def training(**options: Any) -> TrainingConfig:
    values = {
        **{"epochs": 3, "lr": 2e-3, "batch_size": 8, "precision": "fp32", "evals_per_epoch": 1},
        **{"schedule": "constant", "warmup": 0.0, "weight_decay": 0.0, "clip_norm": 0.0},
        "adam_eps": NOISE,
    }
    return TrainingConfig(**(values | options))


def test_after_training_each_head_has_what_was_tuned_for_it(tmp_path):
    _, rows, model, task = setting({"many": 40, "topic": 30})
    held = MixedRows({name: encode(name, 20, seed=1) for name in ("many", "topic")})
    options: Any = {"task": task, "config": training(), "run_dir": tmp_path}
    result = train(model, rows, held, **options)  # type: ignore[arg-type]
    assert list(model.parts["many"].decoding) == ["thresholds"]
    assert model.parts["topic"].decoding == {}
    assert result.primary == "mean"
    both = result.metrics["many/micro_f1"] + result.metrics["topic/accuracy"]
    assert result.best_score == pytest.approx(both / 2) and result.best_score > 0.6


def train_plainly(model: MultiModel, rows: MixedRows, config: TrainingConfig, silent: str) -> None:
    """What the loop should do where the losses of one task count nothing, in a few lines.

    Its steps are taken with a gradient of 0 for the encoder, and none for any head.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.0, eps=NOISE)
    for step in StepPlan(rows, config).steps_after(0):
        optimizer.zero_grad()
        for positions in step.batches:
            batch = rows.collate(positions)
            name = batch[HEAD]
            if name == silent:
                for parameter in model.encoder.parameters():
                    parameter.grad = torch.zeros_like(parameter)
                continue
            del batch[HEAD]
            part = model.parts[name]
            losses = find_task(TASKS[name]).per_example_loss(run(part, batch), batch, part)
            (losses.sum() / step.rows_per_step).backward()
        optimizer.step()


def distance(one: torch.nn.Module, other: torch.nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize("sampling", ["proportional", "sqrt"])
def test_a_task_of_a_tiny_weight_changes_nothing(sampling, tmp_path):
    counts, options = {"topic": 40, "rating": 12}, {"sampling": sampling, "num_epochs": 3}
    config = training()
    _, rows, plain, _ = setting(counts, **options)
    train_plainly(plain, rows, config, silent="rating")
    trained, before = {}, setting(counts, **options)[2]
    for weight in (1e-15, 1.0):
        _, rows, model, task = setting(counts, {"rating": weight}, **options)
        run_dir = tmp_path / str(weight)
        train(model, rows, None, task=task, config=config, run_dir=run_dir)  # type: ignore[arg-type]
        trained[weight] = model
    tiny, full = trained[1e-15], trained[1.0]
    assert distance(tiny.encoder, plain.encoder) < 1e-5
    assert distance(tiny.parts["topic"].head, plain.parts["topic"].head) < 1e-5
    assert distance(tiny.parts["rating"].head, before.parts["rating"].head) < 1e-5
    assert distance(tiny.encoder, before.encoder) > 1e-3, "it was trained"
    assert distance(full.encoder, plain.encoder) > 1e-3, "a weight of 1 makes a difference"
    assert distance(full.parts["rating"].head, before.parts["rating"].head) > 1e-3


def test_a_weight_is_a_factor_of_the_gradient():
    grads = {}
    for weight in (1.0, 3.0):
        _, rows, model, task = setting({"topic": 8, "rating": 8}, {"rating": weight})
        for start in (0, 8):
            batch = rows.collate(np.arange(start, start + 8))
            model.zero_grad()
            task.per_example_loss(run(model, batch), batch, model).sum().backward()
            parameter = next(model.roles.layers[0].parameters())
            grads[weight, batch[HEAD]] = parameter.grad.clone()
    torch.testing.assert_close(grads[3.0, "rating"], 3 * grads[1.0, "rating"])
    torch.testing.assert_close(grads[3.0, "topic"], grads[1.0, "topic"])
    assert grads[1.0, "rating"].abs().max() > 0
