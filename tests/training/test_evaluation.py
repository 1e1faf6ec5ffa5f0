from __future__ import annotations

import numpy as np
import pytest
import torch

from bertwright.data.batching import collate
from bertwright.errors import DataError
from bertwright.models.modes import eval_mode
from bertwright.tasks import find_task
from bertwright.training.evaluation import compute_logits, evaluate_model

TASK = find_task("classify")


def test_logits_come_in_the_order_of_the_rows_and_padding_does_not_matter(make_rows, make_model):
    rows, model = make_rows(40), make_model()
    logits = compute_logits(model, rows, batch_tokens=100, precision="fp32")
    singles = np.concatenate(
        [compute_logits(model, rows.select([i]), precision="fp32") for i in range(40)]
    )
    assert logits.shape == (40, 3) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, singles, atol=1e-5)
    assert not np.allclose(logits[::-1], singles, atol=1e-3)


def test_metrics_are_the_tasks_and_the_mean_loss(make_rows, make_model):
    rows, model = make_rows(40), make_model(dropout=0.5)
    metrics, logits = evaluate_model(model, rows, TASK, precision="fp32")
    model.eval()
    with torch.no_grad():
        batch = collate(rows, np.arange(40))
        output = model(batch["input_ids"], batch["attention_mask"])
        loss = torch.nn.functional.cross_entropy(output.logits, batch["labels"])
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["accuracy"] == (logits.argmax(-1) == rows.label_ids).mean()
    assert set(metrics) == {*TASK.metric_names, "loss"}


def test_bf16_is_near_fp32_but_not_the_same(make_rows, make_model):
    rows, model = make_rows(20), make_model()
    exact = compute_logits(model, rows, precision="fp32")
    rough = compute_logits(model, rows, precision="bf16")
    assert rough.dtype == np.float32
    assert 0 < np.abs(exact - rough).max() < 0.05


def test_each_module_gets_its_own_mode_back(make_model):
    model = make_model().train()
    model.encoder.eval()
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert model.training and model.head.training and not model.encoder.training


def test_no_rows_and_no_labels_are_errors(make_rows, make_model):
    rows = make_rows(20)
    with pytest.raises(DataError, match="no rows"):
        evaluate_model(make_model(), rows.select([]), TASK)
    rows = make_rows(20)
    rows = rows.without_targets()
    with pytest.raises(DataError, match="no labels"):
        evaluate_model(make_model(), rows, TASK)
