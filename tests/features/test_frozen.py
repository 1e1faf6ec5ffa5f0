"""Frozen encoders: what is trained on stored readings is what the whole model computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.features import frozen
from bertwright.features.frozen import freeze, with_reads
from bertwright.models.build import build_task_model
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.tasks import find_task
from bertwright.training.config import TrainingConfig
from bertwright.training.evaluation import compute_logits
from bertwright.training.loop import train
from pooling_states import SPECS
from tiny import tiny_encoder

WORDS = "good bad film movie book food dog cat house car red blue green fast slow".split()
TEXTS = [" ".join(WORDS[i % 7 : i % 7 + 1 + i % 9]) for i in range(24)]
ROWS = [{"text": text, "label": "yes" if "cat" in text else "no"} for text in TEXTS]


def model_with(pooling="mean", family="bert", **config):
    encoder, tokenizer = tiny_encoder(family, num_hidden_layers=6)
    return build_task_model(
        encoder,
        task="classify",
        labels=["no", "yes"],
        tokenizer=tokenizer,
        config=ModelConfig(pooling=pooling, **config),
        max_length=32,
    )


def encoded_for(model, rows=ROWS):
    task = find_task("classify")
    loaded = load_rows(rows, schema=task.schema)
    return tokenise(loaded, model.tokenizer, encoder=task.encoder, max_length=model.max_length)


def prepared(pooling="mean", **options):
    model = model_with(pooling, **options)
    encoded = encoded_for(model)
    find_task("classify").prepare(model, encoded)
    torch.manual_seed(0)
    for parameter in model.learned_parts.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model, encoded


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BERTWRIGHT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("pooling", SPECS)
def test_outputs_from_readings_are_the_models_own(pooling):
    model, encoded = prepared(pooling)
    expected = compute_logits(model, encoded, precision="fp32")
    (read,) = with_reads([model], encoded)
    model.encoder = None
    found = compute_logits(model, read, precision="fp32", batch_tokens=300)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.std(expected) > 1e-3
    chosen = read.select([7, 3])
    np.testing.assert_allclose(compute_logits(model, chosen), expected[[7, 3]], atol=2e-2)


@pytest.mark.parametrize("family", ["xlnet", "distilbert", "modernbert"])
def test_other_families_too(family):
    model, encoded = prepared("attention", family=family)
    expected = compute_logits(model, encoded, precision="fp32")
    (read,) = with_reads([model], encoded)
    np.testing.assert_allclose(compute_logits(model, read, precision="fp32"), expected, atol=2e-5)


def test_several_models_are_read_in_one_pass_and_only_once(monkeypatch):
    models, encoded = [], None
    for pooling in ("mean", "lstm:3", "conv1d:4"):
        model, encoded = prepared(pooling)
        models.append(model)
        model.encoder = models[0].encoder
    passes = []
    states = frozen._states
    monkeypatch.setattr(frozen, "_states", lambda *a, **k: passes.append(1) or states(*a, **k))
    first = with_reads(models, encoded)
    again = with_reads(models, encoded)
    assert len(passes) == 1
    for model, rows, same in zip(models, first, again, strict=True):
        expected = compute_logits(model, encoded, precision="fp32")
        for read in (rows, same):
            np.testing.assert_allclose(
                compute_logits(model, read, precision="fp32"), expected, atol=2e-5
            )


def test_readings_of_other_weights_texts_or_precision_are_others(tmp_path):
    model, encoded = prepared()
    with_reads([model], encoded)
    folder = tmp_path / "cache" / "reads"
    assert len(list(folder.iterdir())) == 1
    with_reads([model], encoded.select(range(5)))
    with_reads([model], encoded, precision="bf16")
    with torch.no_grad():
        next(model.encoder.parameters()).flatten()[0] += 1
    with_reads([model], encoded)
    assert len(list(folder.iterdir())) == 4
    with torch.no_grad():
        next(model.head.parameters()).flatten()[0] += 1
    with_reads([model], encoded)
    assert len(list(folder.iterdir())) == 4, "the head is not read"


def test_a_broken_off_pass_leaves_nothing(tmp_path, monkeypatch):
    model, encoded = prepared()

    def broken(*args, **kwargs):
        yield from list(states(*args, **kwargs))[:1]
        raise KeyboardInterrupt

    states = frozen._states
    monkeypatch.setattr(frozen, "_states", broken)
    with pytest.raises(KeyboardInterrupt):
        with_reads([model], encoded)
    assert list((tmp_path / "cache" / "reads").iterdir()) == []


@pytest.mark.parametrize("pooling", ["mean", "sif", "gru:4", "conv1d:4"])
def test_training_on_readings_is_training_with_a_frozen_encoder(pooling, tmp_path):
    """The same steps from the same start, with the encoder run and without it."""
    weights = []
    for reads in (False, True):
        model, encoded = prepared(pooling, head="linear", head_dropout=0.0)
        freeze(model)
        model.encoder.config.hidden_dropout_prob = 0.0
        for module in model.encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        rows = with_reads([model], encoded)[0] if reads else encoded
        before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
        config = TrainingConfig(
            **{"max_steps": 6, "lr": 1e-2, "precision": "fp32", "batch_size": 8},
            **{"evals_per_epoch": 1, "keep_best": False, "threads": 1},
        )
        run_dir = tmp_path / f"{pooling}-{reads}"
        train(model, rows, None, task=find_task("classify"), config=config, run_dir=run_dir)
        for name, value in model.encoder.state_dict().items():
            assert torch.equal(value, before[name])
        weights.append(model.learned_parts.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=2e-4, rtol=1e-3)


def test_a_reading_serves_the_same_encoder_from_elsewhere(tmp_path, monkeypatch):
    """A model that was saved and loaded has another name in its configuration, but no other."""
    model, encoded = prepared("tfidf")
    (first,) = with_reads([model], encoded)
    model.save(tmp_path / "m")
    loaded = TaskModel.load(tmp_path / "m")
    assert loaded.encoder.config._name_or_path != model.encoder.config._name_or_path

    def never(*args, **kwargs):
        raise AssertionError("the encoder was run again")

    monkeypatch.setattr(frozen, "_states", never)
    (again,) = with_reads([loaded], encoded)
    assert again.reads is not None and first.reads is not None
    rows = np.arange(5)
    assert torch.equal(encoded_reads(again, rows), encoded_reads(first, rows)), (
        "and it is the same reading"
    )
    with torch.no_grad():
        loaded.encoder.get_input_embeddings().weight[7] += 1
    with pytest.raises(AssertionError, match="run again"):
        with_reads([loaded], encoded)


def encoded_reads(encoded, rows):
    return encoded.collate(rows)["read"]
