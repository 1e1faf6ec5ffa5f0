"""Exported models are loaded by `transformers` alone, and compared on logits and gradients."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from bertwright.errors import ParityError, UnsupportedRoleError
from bertwright.models import export
from bertwright.models.build import build_task_model, copy_with_layers
from bertwright.models.export import export_transformers, to_stock_classifier
from bertwright.models.task_model import ModelConfig
from tiny import FAMILY_NAMES, tiny_batch, tiny_encoder

LABELS = ["bad", "good", "so-so"]
EXPORTED = [family for family in FAMILY_NAMES if family != "bart"]
OWN_HEADS = {
    ("bert", "tanh"): True,
    ("bert", "relu"): False,
    ("electra", "gelu"): True,
    ("distilbert", "relu"): True,
    ("deberta-v2", "relu"): True,
    ("roberta", "tanh"): True,
    ("modernbert", "gelu"): False,
}


def random_model(family, config=None, **overrides):
    """Return a model in which every parameter matters."""
    encoder, tokenizer = tiny_encoder(family, **overrides)
    model = build_task_model(
        encoder,
        task="classify",
        labels=LABELS,
        config=config,
        tokenizer=tokenizer,
        max_length=32,
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def compare(model, stock):
    """Compare logits on padded, unpadded and length-1 input."""
    side = "left" if model.roles.cls_at_end else "right"
    batch = tiny_batch(model.tokenizer, padding_side=side)
    unpadded = {k: v[:1] for k, v in batch.items()}
    single = {k: (v[:1, -1:] if side == "left" else v[:1, :1]) for k, v in batch.items()}
    for inputs in (batch, unpadded, single):
        if model.uses_token_types:
            inputs = {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])}
        with torch.no_grad():
            ours, theirs = model(**inputs).logits, stock(**inputs).logits
        assert torch.isfinite(theirs).all() and theirs.abs().max() > 0.01
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", EXPORTED)
def test_stock_classifier_gives_the_same_logits(family, tmp_path):
    model = copy_with_layers(random_model(family), [0, 1, 3])
    assert export_transformers(model, tmp_path / "stock") == tmp_path / "stock"
    stock, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "stock", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert stock.config.id2label == dict(enumerate(LABELS))
    assert type(stock).__name__.endswith("ForSequenceClassification")
    compare(model, stock.eval())
    with torch.no_grad():
        stock.get_submodule(export.get_stock_form(stock.config).dense_key).weight.add_(0.1)
    with pytest.raises(AssertionError):
        compare(model, stock)


@pytest.mark.parametrize("family", EXPORTED)
def test_it_trains_exactly_as_the_stock_classifier(family):
    own = {"mlp_dropout": 0.1, "classifier_dropout": 0.2} if family == "modernbert" else {}
    model = random_model(family, **own)
    stock = to_stock_classifier(model)
    side = "left" if model.roles.cls_at_end else "right"
    batch = tiny_batch(model.tokenizer, padding_side=side)
    if model.uses_token_types:
        batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    labels = torch.tensor([0, 1, 2, 0])
    losses = []
    for each in (model.train(), stock.train()):
        torch.manual_seed(5)
        loss = torch.nn.functional.cross_entropy(each(**batch).logits, labels)
        loss.backward()
        losses.append(loss)
    torch.testing.assert_close(*losses)
    base = getattr(stock, stock.base_model_prefix)
    theirs = dict(base.named_parameters())
    compared = 0
    for name, parameter in model.encoder.named_parameters():
        if parameter.grad is not None and parameter.grad.abs().max() > 0:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=1e-4)
            compared += 1
    assert compared > 15
    with torch.no_grad():
        assert not torch.equal(model(**batch).logits, model(**batch).logits), "dropout is off"


def test_the_pipeline_of_transformers_reads_it(tmp_path):
    model = random_model("bert")
    model.save(tmp_path / "m")
    export_transformers(tmp_path / "m", tmp_path / "stock")
    texts = ["the film was really good", "no"]
    answers = pipeline("text-classification", model=str(tmp_path / "stock"), top_k=None)(texts)
    batch = AutoTokenizer.from_pretrained(tmp_path / "stock")(
        texts, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        scores = model(**batch).logits.softmax(-1)
    for row, answer in zip(scores, answers, strict=True):
        got = {each["label"]: each["score"] for each in answer}
        assert got == pytest.approx(dict(zip(LABELS, row.tolist(), strict=True)), abs=1e-5)


def test_xlnet_by_its_own_tokenizer(tmp_path):
    model = random_model("xlnet")
    export_transformers(model, tmp_path / "stock")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "stock").eval()
    texts = ["the film was really good", "no"]
    batch = AutoTokenizer.from_pretrained(tmp_path / "stock")(
        texts, padding=True, return_tensors="pt"
    )
    assert batch["attention_mask"][1, 0] == 0, "xlnet pads on the left"
    with torch.no_grad():
        found = stock(**batch)
        theirs = found.logits
        ours = model(batch["input_ids"], batch["attention_mask"]).logits
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    assert "mems" not in found, "they would break transformers' own pipeline with batches"
    folder = str(tmp_path / "stock")
    answers = pipeline("text-classification", model=folder, batch_size=2, top_k=None)(texts)
    for row, answer in zip(theirs.softmax(-1), answers, strict=True):
        got = {each["label"]: each["score"] for each in answer}
        assert got == pytest.approx(dict(zip(LABELS, row.tolist(), strict=True)), abs=1e-5)


def test_bart_says_why_not(tmp_path):
    with pytest.raises(UnsupportedRoleError, match="decoder"):
        export_transformers(random_model("bart"), tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


@pytest.mark.parametrize("family", EXPORTED)
def test_mean_pooling_is_exported_where_the_family_can(family):
    model = random_model(family, ModelConfig(pooling="mean"))
    if family == "modernbert":
        compare(model, to_stock_classifier(model))
    else:
        with pytest.raises(UnsupportedRoleError, match="--pooling cls"):
            to_stock_classifier(model)


@pytest.mark.parametrize("family", EXPORTED)
def test_a_linear_head_is_exported_where_the_family_can(family):
    model = random_model(family, ModelConfig(head="linear"))
    if family in ("mobilebert", "xlnet"):
        compare(model, to_stock_classifier(model))
    else:
        with pytest.raises(UnsupportedRoleError, match="--head stock"):
            to_stock_classifier(model)


@pytest.mark.parametrize(("family", "activation"), OWN_HEADS)
def test_an_mlp_of_the_stock_form_is_exported(family, activation):
    options = {"head": "mlp", "head_layers": 1, "head_activation": activation}
    model = random_model(family, ModelConfig(head_hidden=32, **options))
    if OWN_HEADS[family, activation]:
        compare(model, to_stock_classifier(model))
    else:
        with pytest.raises(UnsupportedRoleError):
            to_stock_classifier(model)
    narrow = random_model(family, ModelConfig(head_hidden=16, **options))
    with pytest.raises(UnsupportedRoleError, match="no place"):
        to_stock_classifier(narrow)


def test_a_mobilebert_without_a_pooler_layer():
    model = random_model("mobilebert", classifier_activation=False)
    compare(model, to_stock_classifier(model))


def test_head_dropout_goes_along():
    model = random_model("bert", ModelConfig(head_dropout=0.3))
    assert to_stock_classifier(model).dropout.p == 0.3


def test_a_wrong_export_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    model = random_model("bert")
    right = to_stock_classifier(model)
    with torch.no_grad():
        right.classifier.bias.add_(0.001)
    monkeypatch.setattr(export, "to_stock_classifier", lambda model: right)
    with pytest.raises(ParityError, match=r"1\.00e-03"):
        export_transformers(model, tmp_path / "stock")
    assert list(tmp_path.iterdir()) == []
