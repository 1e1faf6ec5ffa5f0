"""Rows of `embed`: how they are judged, and what each form teaches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from bertwright.errors import ConfigError, DataError, UsageError
from bertwright.tasks import find_task
from bertwright.tasks.embed import contrastive_losses, label_losses
from bertwright.tasks.metrics.ranking import RANKING_METRICS
from embed_inputs import (
    ALONE,
    LABELLED,
    PAIRS,
    SCALE,
    SCORED,
    TASK,
    TRIPLETS,
    contrastive_by_hand,
    encode,
    tiny_model,
    unit,
)


@pytest.mark.parametrize(
    ("rows", "by", "primary"),
    [
        (SCORED, "similarity", "spearman"),
        (PAIRS, "ranking", "mrr"),
        (TRIPLETS, "ranking", "mrr"),
        (LABELLED, "ranking", "mrr"),
    ],
)
def test_the_rows_tell_how_it_is_judged(rows, by, primary):
    encoded = encode(rows)
    task = TASK.judging(encoded)
    assert (task.by, task.primary) == (by, primary)
    assert task.judging(encoded) == task and find_task(task.spec) == task
    vectors = unit(np.random.default_rng(0), len(encoded), 4)
    found = task.metrics(task.judge(vectors, encoded, {}))
    names = {"similarity": {"spearman", "pearson"}, "ranking": set(RANKING_METRICS)}[by]
    assert set(found) == names and names <= set(TASK.metric_names)
    assert all(math.isfinite(value) for value in found.values())
    assert len(task.judge(vectors, encoded, {})) == len(rows) == len(task.describe_truth(encoded))


def test_the_rows_have_to_allow_it():
    with pytest.raises(DataError, match="no scores, second texts or labels"):
        TASK.judging(encode(ALONE))
    with pytest.raises(DataError, match="no scores to judge by"):
        find_task("embed:by=similarity").judging(encode(PAIRS))
    with pytest.raises(DataError, match="no scores, second texts or labels"):
        find_task("embed:by=ranking").judging(encode(ALONE))
    ranked = find_task("embed:by=ranking").judging(encode(SCORED))
    assert ranked.primary == "mrr"
    for rows in (SCORED, PAIRS, LABELLED, ALONE):
        encoded = encode(rows)
        with pytest.raises(DataError, match="have no"):
            TASK.judge(np.zeros((len(encoded), 2)), encoded.without_targets(), {})


def test_options():
    assert TASK.spec == "embed" and find_task("embed:scale=30").spec == "embed:scale=30.0"
    both: Any = find_task("embed:scale=30.0,by=ranking")
    assert (both.scale, both.by, both.primary) == (30.0, "ranking", "mrr")
    assert find_task(both.spec) == both
    with pytest.raises(ConfigError, match=r"embed:scal=3.*scal"):
        find_task("embed:scal=3")
    for wrong in ("scale=0", "scale=-1", "scale=inf", "scale=nan", "scale=much", "by=label"):
        with pytest.raises(UsageError):
            find_task(f"embed:{wrong}")


def loss_of(rows, task=TASK, *, model: Any = None, twice=False, dtype=torch.float32):
    encoded = encode(rows, twice=twice)
    batch = encoded.collate(np.arange(len(encoded)))
    vectors = torch.tensor(unit(np.random.default_rng(3), len(encoded), 4)).to(dtype)
    return task.per_example_loss(vectors, batch, model), vectors, batch


def test_each_form_has_its_loss_on_every_text_of_the_row():
    for rows, width in ((PAIRS, 2), (TRIPLETS, 3)):
        found, vectors, batch = loss_of(rows, find_task("embed:scale=7"))
        losses = contrastive_losses(vectors, batch["places"], batch["text_ids"], 7.0)
        assert found.tolist() == losses.repeat_interleave(width).tolist() and losses.max() > 0.1
    found, vectors, batch = loss_of(LABELLED)
    assert found.tolist() == label_losses(vectors, torch.tensor([1, 0, 1]), 20.0).tolist()
    model = tiny_model()
    TASK.prepare(model, encode(SCORED))
    found, vectors, _ = loss_of(SCORED, model=model)
    cosines = (vectors[::2] * vectors[1::2]).sum(dim=1)
    expected = (cosines - torch.tensor([1, 0, 0.4])).square().repeat_interleave(2)
    torch.testing.assert_close(found, expected)
    for rows in (PAIRS, LABELLED, SCORED):
        found, *_ = loss_of(rows, model=model, dtype=torch.bfloat16)
        assert found.dtype == torch.float32 and bool(found.isfinite().all())


def test_a_text_alone_is_told_from_the_others_by_its_second_view():
    rows = [*ALONE, ALONE[0]]
    found, vectors, _ = loss_of(rows, twice=True)
    by_hand = contrastive_by_hand([(0, 0), (1, 1), (2, 2), (0, 0)], vectors.tolist(), SCALE)
    np.testing.assert_allclose(found[::2].numpy(), by_hand, rtol=1e-4, atol=1e-5)
    once, *_ = loss_of(ALONE)
    assert once.tolist() == [0.0] * len(ALONE), "a teacher's to give"


def test_the_range_of_the_scores_is_that_of_the_first_training_rows():
    model = tiny_model()
    assert torch.isnan(model.head.score_low)
    TASK.prepare(model, encode(PAIRS))
    assert torch.isnan(model.head.score_low)
    with pytest.raises(DataError, match="all pairs have the score 5"):
        TASK.prepare(model, encode([{**row, "score": 5} for row in PAIRS]))
    TASK.prepare(model, encode(SCORED))
    TASK.prepare(model, encode([{**row, "score": 100 + row["score"]} for row in SCORED]))
    assert (model.head.score_low.item(), model.head.score_high.item()) == (0, 5)


def test_without_a_range_the_loss_takes_that_of_the_batch():
    known, unknown = tiny_model(), tiny_model()
    TASK.prepare(known, encode(SCORED))
    found, *_ = loss_of(SCORED, model=unknown)
    torch.testing.assert_close(found, loss_of(SCORED, model=known)[0])
    found, *_ = loss_of(SCORED[:1], model=unknown)
    assert bool(found.isfinite().all())
