"""Models with every pooling: saved, cut to fewer layers, on every family, trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.models.build import build_task_model, copy_with_layers
from bertwright.models.pooling import POOLINGS
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.tasks import find_task
from bertwright.training.config import TrainingConfig
from bertwright.training.loop import train
from pooling_states import SPECS
from tiny import FAMILY_NAMES, tiny_batch, tiny_encoder

LAYERED = ("weighted-layers", "wk", "parallel:2", "concat-last:2", "attention", "cls-layer:3")


def model_with(pooling, family="bert", **options):
    encoder, tokenizer = tiny_encoder(family)
    return build_task_model(
        encoder,
        task="classify",
        labels=["a", "b", "c"],
        tokenizer=tokenizer,
        config=ModelConfig(pooling=pooling, **options),
        max_length=48,
    )


def logits_of(model, batch):
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("spec", [s for s in SPECS if s not in ("parallel", "wk:2")])
def test_a_saved_model_is_the_same_and_a_smaller_one_runs(spec, tmp_path):
    model = model_with(spec)
    for name, buffer in model.pooling.named_buffers():
        assert name in ("weights", "direction")
        buffer.copy_(torch.rand(buffer.shape))
    batch = tiny_batch(model.tokenizer)
    expected = logits_of(model, batch)
    model.save(tmp_path / "model")
    loaded = TaskModel.load(tmp_path / "model")
    assert loaded.config == model.config and loaded.pooling.spec == spec
    assert torch.equal(logits_of(loaded, batch), expected)
    smaller = copy_with_layers(model, [0, 3])
    assert torch.isfinite(logits_of(smaller, batch)).all()
    smaller.save(tmp_path / "smaller")
    again = TaskModel.load(tmp_path / "smaller")
    assert torch.equal(logits_of(again, batch), logits_of(smaller, batch))
    same_width = smaller.pooling.width == model.pooling.width
    assert torch.equal(smaller.head.out.weight, model.head.out.weight) or not same_width


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("spec", ["max", *LAYERED])
def test_every_family_has_the_same_vector_alone_and_padded(spec, family):
    model = model_with(spec, family)
    batch = tiny_batch(model.tokenizer, padding_side=model.tokenizer.padding_side)
    with torch.no_grad():
        output = model(**batch)
        assert output.pooled.shape == (4, model.pooling.width)
        assert output.pooled.std(dim=0).max() > 1e-3
        for row, mask in enumerate(batch["attention_mask"].bool()):
            alone = {name: values[row, mask][None] for name, values in batch.items()}
            found = model(**alone).pooled[0]
            torch.testing.assert_close(found, output.pooled[row], atol=1e-5, rtol=1e-4)


def test_states_that_were_not_asked_for_are_not_given():
    model = model_with("weighted-layers")
    batch = tiny_batch(model.tokenizer)
    assert model(**batch).hidden_states is None
    states = model(**batch, output_hidden_states=True).hidden_states
    assert len(states) == 5


ROWS = [
    {"text": text, "label": label}
    for text, label in [
        *([("good film", "a"), ("bad film", "b"), ("old car", "c")] * 4),
        *([("good book and a fast car", "a"), ("bad food", "b"), ("old house", "c")] * 4),
    ]
]


@pytest.mark.parametrize("spec", ["tfidf", "sif", "weighted-layers", "dense:5", "gru:6", "wk"])
def test_a_training_fits_and_moves_what_it_should(spec, tmp_path):
    model, task = model_with(spec, head="linear"), find_task("classify")
    rows = load_rows(ROWS, schema=task.schema)
    encoded = tokenise(rows, model.tokenizer, encoder=task.training_encoder, max_length=48)
    before = {name: value.clone() for name, value in model.pooling.state_dict().items()}
    config = TrainingConfig(epochs=8, lr=3e-3, batch_size=8, precision="fp32", evals_per_epoch=1)
    result = train(model, encoded, encoded, task=task, config=config, run_dir=tmp_path)
    assert result.best_score > 0.6
    after = model.pooling.state_dict()
    assert set(after) == set(before)
    for name, value in after.items():
        assert not torch.equal(value, before[name]), f"{name} did not move"
    if spec in ("tfidf", "sif"):
        tokenizer = model.tokenizer
        ids = {word: tokenizer.convert_tokens_to_ids(word) for word in ("film", "book", "zebra")}
        weights = model.pooling.weights
        assert weights[tokenizer.cls_token_id] == weights[tokenizer.pad_token_id] == 0
        assert weights[ids["film"]] < weights[ids["book"]] < weights[tokenizer.mask_token_id + 1]
    if spec == "sif":
        assert float(model.pooling.direction.norm()) == pytest.approx(1, abs=1e-4)


def test_the_fitted_direction_is_that_of_the_weighted_means(tmp_path):
    model, task = model_with("sif"), find_task("classify")
    rows = load_rows(ROWS, schema=task.schema)
    encoded = tokenise(rows, model.tokenizer, encoder=task.encoder, max_length=48)
    model.train()
    task.prepare(model, encoded)
    assert model.training
    model.eval()
    direction = model.pooling.direction.clone()
    model.pooling.direction.zero_()
    batch = encoded.collate(np.arange(len(encoded)))
    with torch.no_grad():
        pooled = model(batch["input_ids"], batch["attention_mask"]).pooled.numpy()
    expected = np.linalg.svd(pooled, full_matrices=False)[2][0]
    assert abs(float(expected @ direction.numpy())) == pytest.approx(1, abs=1e-4)


def test_each_name_is_an_option():
    for name in POOLINGS:
        assert ModelConfig(pooling=name).pooling == name
