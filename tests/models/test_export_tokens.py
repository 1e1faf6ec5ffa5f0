"""Models for tags and answers are loaded by `transformers` alone, and give the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

from bertwright.data.load import load_rows
from bertwright.engines.predictor import Predictor
from bertwright.errors import UnsupportedRoleError
from bertwright.evaluate.worker import PipelineRunner
from bertwright.models.build import build_task_model
from bertwright.models.export import export_transformers
from bertwright.models.task_model import ModelConfig
from bertwright.tasks import find_task
from tiny import FAMILY_NAMES, tiny_batch, tiny_encoder

TAGS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
EXPORTED = [family for family in FAMILY_NAMES if family not in ("bart", "modernbert")]
TEXTS = ["the dog was in a house", "a good film", "no"]


def model_for(task, family="bert", **config):
    encoder, tokenizer = tiny_encoder(family)
    labels = TAGS if task == "tag" else []
    model = build_task_model(
        encoder,
        task=task,
        labels=labels,
        tokenizer=tokenizer,
        max_length=32,
        config=ModelConfig(**config),
        outputs=find_task(task).outputs(labels),
    )
    torch.manual_seed(0)
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("family", EXPORTED)
def test_tags_have_the_same_logits(family, tmp_path):
    model = model_for("tag", family)
    export_transformers(model, tmp_path / "stock")
    stock, info = AutoModelForTokenClassification.from_pretrained(
        tmp_path / "stock", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert list(stock.config.id2label.values()) == TAGS
    batch = tiny_batch(model.tokenizer, padding_side=model.tokenizer.padding_side)
    with torch.no_grad():
        ours, theirs = model(**batch).logits, stock.eval()(**batch).logits
    real = batch["attention_mask"].bool()
    if family != "xlnet":  # its segment of the last token is made by us, and not given here
        torch.testing.assert_close(theirs[real], ours[real], atol=1e-5, rtol=0)
    assert ours[real].std(dim=0).min() > 0.1


@pytest.mark.parametrize("family", EXPORTED)
def test_answers_have_the_same_logits(family, tmp_path):
    model = model_for("span", family)
    export_transformers(model, tmp_path / "stock")
    stock = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "stock").eval()
    batch = tiny_batch(model.tokenizer)
    types = torch.zeros_like(batch["input_ids"])
    given = {**batch, "token_type_ids": types} if model.uses_token_types else batch
    with torch.no_grad():
        ours, output = model(**given).logits, stock(**given)
    theirs = torch.stack([output.start_logits, output.end_logits], dim=-1)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(theirs[real], ours[real], atol=1e-5, rtol=0)


def test_their_pipeline_finds_our_entities(tmp_path):
    model = model_for("tag")
    model.save(tmp_path / "model")
    export_transformers(tmp_path / "model", tmp_path / "stock")
    theirs = pipeline(
        "token-classification",
        model=AutoModelForTokenClassification.from_pretrained(tmp_path / "stock"),
        tokenizer=AutoTokenizer.from_pretrained(tmp_path / "stock"),
        aggregation_strategy="first",
    )
    task = find_task("tag")
    rows = load_rows([{"text": t} for t in TEXTS], schema=task.schema, need_label=False)
    ours = Predictor(tmp_path / "model").predict_rows(rows.columns(task.inputs))
    found = 0
    for text, answer in zip(TEXTS, ours, strict=True):
        expected = [(e["entity_group"], e["start"], e["end"]) for e in theirs(text)]
        entities = [(e["type"], e["start"], e["end"]) for e in answer["entities"]]
        assert entities == [e for e in expected if e[0] != "O"]
        found += len(entities)
    assert found > 2


def test_it_is_the_baseline_of_tags(tmp_path):
    export_transformers(model_for("tag"), tmp_path / "stock")
    request = {"path": str(tmp_path / "stock"), "threads": 1, "max_length": 6, "batch_size": 2}
    runner = PipelineRunner(request)
    answers = runner.run({"text": [*TEXTS, " ".join(["dog"] * 90)]})
    assert len(answers) == 4 and all(isinstance(answer, list) for answer in answers)
    assert runner.count_tokens({"text": ["dog " * 90]}) == 6
    ends = np.array([entity["end"] for entity in answers[3]] or [0])
    assert ends.max() <= 4 * 4, "it is cut as it is said to be"


@pytest.mark.parametrize(
    ("family", "config", "match"),
    [
        ("bert", {"head_crf": True}, "CRF"),
        ("bert", {"head_lstm": 4}, "LSTM"),
        ("bert", {"head": "mlp", "head_layers": 1}, "hidden layers"),
        ("modernbert", {}, "a layer of their own"),
        ("bart", {}, "decoder"),
    ],
)
def test_what_has_no_stock_form_says_why(family, config, match, tmp_path):
    with pytest.raises(UnsupportedRoleError, match=match):
        export_transformers(model_for("tag", family, **config), tmp_path / "out")
    assert not (tmp_path / "out").exists()
