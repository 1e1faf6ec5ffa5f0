from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score
from torch import nn

from bertwright.data.batching import MODEL_INPUTS, collate
from bertwright.data.encode import Inputs
from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.errors import DataError, UsageError
from bertwright.methods.distil.soft_targets import SoftTargets, SoftTargetsConfig
from bertwright.models.build import build_task_model
from bertwright.tasks import find_task
from bertwright.tasks.rerank import list_losses
from bertwright.training.config import TrainingConfig
from bertwright.training.evaluation import compute_logits, evaluate_model
from bertwright.training.loop import train
from bertwright.training.steps import StepPlan
from task_rows import row_of
from tiny import tiny_encoder, tiny_tokenizer

NO_INPUTS: Any = None
NO_MODEL: Any = nn.Identity()
LIST, BINARY = find_task("rerank"), find_task("rerank:loss=binary")


def random_rows(rng, num_rows, most=6):
    """Return (scores, relevance) of each row; the relevance of some is 0 throughout."""
    rows = []
    for _ in range(num_rows):
        count = int(rng.integers(1, most + 1))
        relevance = rng.choice([0.0, 0.0, 1.0, 2.5, 0.25], size=count)
        rows.append((rng.normal(size=count) * rng.choice([0.1, 1, 20]), relevance))
    return rows


def loss_by_hand(scores, relevance):
    """The list loss of one row with loops and float64."""
    total = sum(relevance)
    if total == 0:
        return 0.0
    top = max(scores)
    log_sum = top + math.log(sum(math.exp(score - top) for score in scores))
    return sum(r / total * (log_sum - s) for s, r in zip(scores, relevance, strict=True))


def mixed_batch(rng, rows):
    """Return the features of all rows in random order, as (logits, batch, row of each)."""
    owners = np.repeat(np.arange(len(rows)), [len(scores) for scores, _ in rows])
    order = rng.permutation(len(owners))
    scores = np.concatenate([scores for scores, _ in rows])[order]
    relevance = np.concatenate([relevance for _, relevance in rows])[order]
    batch = {
        "labels": torch.from_numpy(relevance).float(),
        "rows": (100 + 7 * rng.permutation(len(rows)))[owners][order],
    }
    return torch.from_numpy(scores).float()[:, None], batch, owners[order]


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 100_000), st.integers(1, 8))
def test_the_list_loss_is_that_of_loops_over_rows_in_any_order(seed, num_rows):
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, num_rows)
    logits, batch, owners = mixed_batch(rng, rows)
    expected = np.array([loss_by_hand(*rows[owner]) for owner in owners])
    found = LIST.per_example_loss(logits, batch, NO_MODEL)
    assert found.dtype == torch.float32 and found.shape == (len(owners),)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_the_list_loss_by_hand_and_what_it_is_not():
    logits = torch.tensor([[0.0], [math.log(3)], [5.0], [-2.0]])
    batch = {"labels": torch.tensor([1.0, 3.0, 0.0, 2.0]), "rows": np.array([4, 4, 9, 9])}
    found = LIST.per_example_loss(logits, batch, NO_MODEL).tolist()
    # softmax (1/4, 3/4) of shares (1/4, 3/4); then -log softmax of the second of (5, -2)
    first = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    second = math.log1p(math.exp(7))
    assert found == pytest.approx([first, first, second, second], rel=1e-6)
    one_row = {**batch, "rows": np.array([4, 4, 4, 4])}
    assert LIST.per_example_loss(logits, one_row, NO_MODEL).tolist() != pytest.approx(found)
    scaled = {**batch, "labels": 10 * batch["labels"]}
    assert LIST.per_example_loss(logits, scaled, NO_MODEL).tolist() == pytest.approx(found)
    none = {**batch, "labels": torch.tensor([1.0, 3.0, 0.0, 0.0])}
    assert LIST.per_example_loss(logits, none, NO_MODEL).tolist()[2:] == [0.0, 0.0]


def test_large_logits_and_large_relevance_stay_finite():
    logits = torch.tensor([[1e4], [-1e4], [1e4], [3.0]], dtype=torch.bfloat16, requires_grad=True)
    batch = {"labels": torch.tensor([0.0, 1e30, 1e30, 1e-30]), "rows": np.array([0, 0, 1, 1])}
    for task in (LIST, BINARY):
        found = task.per_example_loss(logits, batch, NO_MODEL)
        assert found.dtype == torch.float32 and bool(found.isfinite().all())
        (gradient,) = torch.autograd.grad(found.sum(), logits)
        assert bool(gradient.isfinite().all()) and gradient.abs().sum() > 0


def test_the_gradient_is_softmax_minus_shares_and_that_of_finite_differences():
    rng = np.random.default_rng(0)
    rows = [(rng.normal(size=n), rng.integers(0, 3, size=n).astype(float)) for n in (2, 5, 3, 1)]
    logits, batch, owners = mixed_batch(rng, rows)
    logits.requires_grad_()
    LIST.per_example_loss(logits, batch, NO_MODEL).sum().backward()
    assert logits.grad is not None
    scores, relevance = logits.detach().numpy()[:, 0].astype(float), batch["labels"].numpy()
    expected, differences = np.zeros(len(owners)), np.zeros(len(owners))
    for owner in range(len(rows)):
        (places,) = np.nonzero(owners == owner)
        if not relevance[places].any():
            continue
        powers = np.exp(scores[places])
        shares = relevance[places] / relevance[places].sum()
        # the row's loss stands on each of its features
        expected[places] = len(places) * (powers / powers.sum() - shares)
        for place in places:
            moved = [np.where(places == place, step, 0) for step in (1e-5, -1e-5)]
            up, down = (loss_by_hand(scores[places] + m, relevance[places]) for m in moved)
            differences[place] = len(places) * (up - down) / 2e-5
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits.grad.numpy()[:, 0], expected, atol=1e-5)
    np.testing.assert_allclose(expected, differences, atol=1e-6)


def test_the_gradient_holds_in_double_precision_too(monkeypatch):
    scores = torch.randn(6, dtype=torch.float64, requires_grad=True)
    relevance = torch.tensor([1.0, 0, 2, 1, 0, 0], dtype=torch.float64)
    rows = torch.tensor([0, 1, 0, 1, 0, 1])
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *a, **k: zeros(*a, dtype=torch.float64, **k))
    assert torch.autograd.gradcheck(lambda s: list_losses(s, relevance, rows), scores)


def test_the_binary_loss_by_hand():
    rng = np.random.default_rng(1)
    logits, batch, _ = mixed_batch(rng, random_rows(rng, 5))
    found = BINARY.per_example_loss(logits, batch, NO_MODEL).numpy()
    odds = logits.numpy()[:, 0].astype(float)
    wanted = batch["labels"].numpy() > 0
    assert wanted.any() and not wanted.all()
    np.testing.assert_allclose(
        found, np.where(wanted, np.logaddexp(0, -odds), np.logaddexp(0, odds)), rtol=1e-4, atol=1e-6
    )
    del batch["rows"]
    assert BINARY.per_example_loss(logits, batch, NO_MODEL).tolist() == found.tolist()


def test_the_loss_is_an_option_of_the_task():
    assert (LIST.spec, BINARY.spec) == ("rerank", "rerank:loss=binary")
    with pytest.raises(UsageError):
        find_task("rerank:loss=pairs")


def source_rows(rng, num_rows):
    words = "good bad film dog house food time place value array code old new".split()
    rows = []
    for _ in range(num_rows):
        count = int(rng.integers(2, 14))
        relevance = rng.choice([0.0, 1.0, 2.0, 0.5], size=count)
        relevance[rng.integers(count)] = 3.0
        relevance[0] = 0.0 if relevance[1:].any() else 3.0
        texts = [" ".join(rng.choice(words, size=rng.integers(1, 40))) for _ in range(count)]
        query = " ".join(rng.choice(words, size=rng.integers(1, 6)))
        rows.append({"query": query, "candidates": texts, "relevance": relevance.tolist()})
    return rows


def encoded_rows(source, max_length=32):
    rows = load_rows(source, schema=LIST.schema)
    return tokenise(rows, tiny_tokenizer(), encoder=LIST.encoder, max_length=max_length)


def test_judge_is_scikit_learns_ndcg_and_the_rank_of_the_first():
    rng = np.random.default_rng(2)
    source = source_rows(rng, 30)
    encoded = encoded_rows(source)
    logits = rng.permutation(len(encoded)).astype(np.float32)[:, None] / 100
    statistics = LIST.judge(logits, encoded, {})
    assert statistics.shape == (30, 8) and statistics.dtype == np.float64
    start = 0
    for row, found in zip(source, statistics, strict=True):
        relevance = np.array(row["relevance"])
        scores = logits[start : start + len(relevance), 0]
        start += len(relevance)
        first = int(np.flatnonzero(relevance[np.argsort(-scores)])[0])
        assert found[0] == pytest.approx(1 / (first + 1))
        assert found[1] == pytest.approx(ndcg_score([relevance], [scores], k=10))
    assert start == len(encoded)
    metrics = LIST.metrics(statistics)
    assert set(metrics) == set(LIST.metric_names) and LIST.metric_names[:2] == ("mrr", "ndcg_at_10")
    assert LIST.primary == "mrr" and 0 < metrics["mrr"] < 1
    scores = LIST.row_scores(statistics)
    assert scores is not None and scores.mean() == pytest.approx(metrics["mrr"])
    perfect = encoded.field("labels", np.arange(len(encoded)))[:, None]
    assert LIST.metrics(LIST.judge(perfect, encoded, {}))["mrr"] == 1.0
    assert LIST.metrics(LIST.judge(-perfect, encoded, {}))["mrr"] < metrics["mrr"]
    with pytest.raises(DataError, match="no relevance"):
        LIST.judge(logits, encoded.without_targets(), {})


def test_some_rows_of_another_order_are_judged_as_they_are():
    encoded = encoded_rows(source_rows(np.random.default_rng(3), 6))
    logits = np.random.default_rng(4).normal(size=(len(encoded), 1)).astype(np.float32)
    places = [np.flatnonzero(encoded.row_numbers == row) for row in (4, 1)]
    chosen = np.concatenate(places)
    part = LIST.judge(logits[chosen], encoded.select(chosen), {})
    assert part.tolist() == LIST.judge(logits, encoded, {})[[4, 1]].tolist()


def test_answers():
    rows = {"query": ["q", "r"], "candidates": [["a", "b", "c"], ["d", "e"]]}
    features = LIST.encoder.encode(tiny_tokenizer(), rows, max_length=20, token_types=False)
    logits = np.array([[-1.0], [0.0], [-1.0], [2.0], [40.0]], dtype=np.float32)
    answers = LIST.decode(logits, Inputs.of(rows, features), [], {})
    assert json.loads(json.dumps(answers)) == answers
    assert [answer["best"] for answer in answers] == ["b", "e"]
    assert [one["text"] for one in answers[0]["ranking"]] == ["b", "a", "c"]
    assert [one["index"] for one in answers[0]["ranking"]] == [1, 0, 2]
    low = 1 / (1 + math.e)
    assert [one["score"] for one in answers[0]["ranking"]] == pytest.approx([0.5, low, low])
    assert [one["score"] for one in answers[1]["ranking"]] == pytest.approx([1, 0.880797], abs=1e-6)
    assert LIST.describe(answers[0]) == ("b", 0.5)


def test_the_truth_is_the_most_relevant_candidate():
    source = [
        {"query": "q", "candidates": ["a", "b", "c"], "relevance": [0, 1, 1]},
        {"query": "r", "candidates": ["d", "e"], "relevance": [1, 1.5]},
    ]
    encoded = encoded_rows(source)
    assert LIST.describe_truth(encoded) == ["b", "e"]
    assert LIST.describe_truth(encoded.select([3, 4])) == ["e"]


def tiny_model():
    encoder, tokenizer = tiny_encoder("bert")
    return build_task_model(
        encoder,
        task="rerank",
        labels=[],
        tokenizer=tokenizer,
        max_length=32,
        outputs=LIST.outputs([]),
    )


def test_training_batches_have_whole_rows():
    encoded = encoded_rows(source_rows(np.random.default_rng(5), 60))
    sizes = np.bincount(encoded.row_numbers)
    config = TrainingConfig(batch_tokens=600, batch_size=4, epochs=2)
    plan = StepPlan(encoded, config)
    seen, mixed = [], 0
    for step in plan.steps_after(0):
        for batch in step.batches:
            rows, counts = np.unique(encoded.row_numbers[batch], return_counts=True)
            assert counts.tolist() == sizes[rows].tolist() and len(rows) <= 4
            mixed += len(rows) > 1
            seen += rows.tolist()
    assert sorted(seen) == sorted([*range(60), *range(60)]) and mixed > 10


def test_the_evaluation_loss_does_not_depend_on_the_batches():
    encoded = encoded_rows(source_rows(np.random.default_rng(6), 20))
    model = tiny_model()
    losses, outputs = [], []
    for batch_tokens in (1, 400, 100_000):
        metrics, logits = evaluate_model(model, encoded, LIST, batch_tokens, "fp32")
        losses.append(metrics["loss"])
        outputs.append(logits)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0] == pytest.approx(losses[2], abs=1e-5)
    np.testing.assert_allclose(outputs[0], outputs[2], atol=1e-5)
    by_hand = []
    for row in range(20):
        places = np.flatnonzero(encoded.row_numbers == row)
        relevance = encoded.field("labels", places)
        by_hand += [loss_by_hand(outputs[0][places, 0].tolist(), relevance)] * len(places)
    assert losses[0] == pytest.approx(np.mean(by_hand), abs=1e-5) and losses[0] > 0


class _State:
    """What `SoftTargets.on_loss` asks of a run."""

    def __init__(self, model, batch):
        self.model, self.batch, self.step, self.total_steps, self.losses = model, batch, 0, 1, {}
        self.output = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
        self.per_example_loss = LIST.per_example_loss(self.output.logits, batch, model)


def test_soft_targets_are_the_teachers_logits():
    encoded = encoded_rows(source_rows(np.random.default_rng(7), 3))
    model, teacher = tiny_model(), tiny_model()
    with torch.no_grad():
        for parameter in teacher.head.parameters():
            parameter.mul_(-3).add_(0.1)
    batch = collate(encoded, np.arange(len(encoded)))
    hook = SoftTargets(SoftTargetsConfig(alpha=1.0), teacher)
    state: Any = _State(model, batch)
    hook.on_loss(state)
    logits_t = compute_logits(teacher, encoded, precision="fp32")
    expected = (state.output.logits.detach().numpy() - logits_t)[:, 0] ** 2
    np.testing.assert_allclose(state.per_example_loss.detach().numpy(), expected, atol=1e-5)
    assert expected.min() > 0
    state = _State(teacher, batch)
    hook.on_loss(state)
    assert state.per_example_loss.abs().max().item() < 1e-8


@pytest.mark.parametrize("task", [LIST, BINARY])
def test_both_losses_learn_to_rank(task, tmp_path):
    rng = random.Random(0)
    encoded = encoded_rows([row_of("rerank", rng) for _ in range(80)])
    model = tiny_model()
    before = task.metrics(task.judge(compute_logits(model, encoded), encoded, {}))
    config = TrainingConfig(epochs=6, lr=3e-3, batch_size=8, precision="fp32", evals_per_epoch=1)
    result = train(model, encoded, encoded, task=task, config=config, run_dir=tmp_path)
    assert result.metrics["mrr"] > max(0.9, before["mrr"] + 0.1)
