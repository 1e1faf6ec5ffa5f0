from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.errors import DataError, MissingColumnError
from bertwright.models.build import build_task_model
from bertwright.models.export import export_transformers
from bertwright.models.outputs import OutputScale
from bertwright.models.task_model import TaskModel
from bertwright.tasks import find_task
from bertwright.tasks.regress import read_number
from methods.cases import inputs_of, some_batch
from tiny import tiny_encoder

NO_INPUTS: Any = None
TASK = find_task("regress")
SOURCE = [{"text": "good " * (1 + i % 5), "label": 100.0 + 10 * (i % 5)} for i in range(20)]


def rows_and_model():
    rows = load_rows(SOURCE, schema=TASK.schema)
    encoder, tokenizer = tiny_encoder("bert")
    model = build_task_model(
        encoder, task="regress", labels=[], tokenizer=tokenizer, outputs=TASK.outputs([])
    )
    return tokenise(rows, tokenizer, encoder=TASK.encoder), model


def test_rows_have_numbers_and_no_labels():
    encoded, _ = rows_and_model()
    assert encoded.labels is None
    assert encoded.field("labels", range(3)).tolist() == [100.0, 110.0, 120.0]
    assert some_batch(encoded)["labels"].dtype == torch.float32


@pytest.mark.parametrize(
    ("value", "number"), [(1, 1.0), (2.5, 2.5), ("3", 3.0), (" -0.25 ", -0.25), ("1e3", 1000.0)]
)
def test_numbers_are_read(value, number):
    assert read_number(value, "label") == number


@pytest.mark.parametrize("value", [None, "", "high", "1,5", True, [1.0], "nan", float("inf")])
def test_what_is_no_number_is_named_with_file_and_line(write_jsonl, value):
    path = write_jsonl([SOURCE[0], {"text": "x", "label": value}])
    with pytest.raises(DataError, match="is not a (finite )?number") as caught:
        load_rows(path, schema=TASK.schema)
    assert str(caught.value).startswith(f"{path}:2: ")
    with pytest.raises(MissingColumnError, match="no label column"):
        load_rows([{"text": "x"}], schema=TASK.schema)


def test_the_loss_is_the_squared_error_in_deviations_by_hand():
    model = nn.Module()
    model.scale = OutputScale(1)
    model.scale.fit(torch.tensor([7.0]), torch.tensor([2.0]))
    logits = torch.tensor([[10.0], [4.0]], dtype=torch.bfloat16, requires_grad=True)
    loss = TASK.per_example_loss(logits, {"labels": torch.tensor([8.0, 5.0])}, model)
    assert loss.tolist() == [1.0, 0.25] and loss.dtype == torch.float32
    assert model.scale(torch.tensor([[0.5]])).tolist() == [[8.0]]


def test_a_new_model_answers_in_the_units_of_the_targets_and_a_prepared_one_stays():
    encoded, model = rows_and_model()
    TASK.prepare(model, encoded)
    assert model.scale.centre.item() == pytest.approx(120.0)
    assert model.scale.spread.item() == pytest.approx(200**0.5)
    with torch.no_grad():
        answers = model(**inputs_of(some_batch(encoded))).logits
    assert ((answers - 120).abs() < 30).all() and answers.std() > 0
    TASK.prepare(model, encoded.select([0]))
    assert model.scale.centre.item() == pytest.approx(120.0)


def test_targets_that_are_all_alike_do_not_divide_by_zero():
    encoded, model = rows_and_model()
    TASK.prepare(model, encoded.select([0, 5, 10]))
    assert (model.scale.centre.item(), model.scale.spread.item()) == (100.0, 1.0)


def test_the_scale_is_saved_and_exported(tmp_path):
    encoded, model = rows_and_model()
    TASK.prepare(model, encoded)
    model.save(tmp_path / "model")
    loaded = TaskModel.load(tmp_path / "model")
    batch = inputs_of(some_batch(encoded))
    with torch.no_grad():
        expected = model(**batch).logits
        assert torch.equal(loaded(**batch).logits, expected)
        export_transformers(model, tmp_path / "stock")
        stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "stock").eval()
        torch.testing.assert_close(stock(**batch).logits, expected, atol=1e-4, rtol=0)
    assert stock.config.problem_type == "regression" and stock.config.num_labels == 1


def test_answers_and_metrics():
    encoded, _ = rows_and_model()
    outputs = encoded.field("labels", range(20))[:, None] + 1.0
    found = TASK.metrics(TASK.judge(outputs, encoded, {}))
    assert set(found) == set(TASK.metric_names) and TASK.primary in found
    assert found["rmse"] == pytest.approx(1.0) and found["pearson"] == pytest.approx(1.0)
    (answer,) = TASK.decode(outputs[:1], NO_INPUTS, [], {})
    assert answer == {"value": 101.0}
    assert TASK.describe(answer) == ("101", None)
    assert TASK.describe_truth(encoded.select([1])) == ["110"]
    with pytest.raises(DataError, match="no numbers"):
        TASK.judge(outputs, encoded.without_targets(), {})
