"""Vectors of several poolings and layers from one pass, against the model's own forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.errors import ConfigError
from bertwright.features import extract
from bertwright.features.extract import Extractor, Wanted
from bertwright.models.build import build_task_model, copy_with_layers
from bertwright.models.outputs import Outputs
from bertwright.models.pooling import build_pooling
from bertwright.models.task_model import ModelConfig
from bertwright.tasks import find_task
from tiny import tiny_encoder

WORDS = "good bad film movie book food dog cat house car red blue green fast slow".split()
TEXTS = [" ".join(WORDS[i % 7 : i % 7 + 1 + i % 9]) for i in range(40)]


def model_with(pooling="mean", family="bert", **config):
    encoder, tokenizer = tiny_encoder(family)
    return build_task_model(
        encoder,
        task="embed",
        labels=[],
        tokenizer=tokenizer,
        config=ModelConfig(pooling=pooling, **config),
        max_length=32,
        outputs=Outputs(0, kind="vectors"),
    )


def encoded_for(model, texts=TEXTS):
    task = find_task("classify")
    rows = load_rows([{"text": text} for text in texts], schema=task.schema, need_label=False)
    return tokenise(rows, model.tokenizer, encoder=task.encoder, max_length=model.max_length)


def pooled_by(model, encoded):
    """Return the model's own pooled vectors, one text at a time."""
    found = []
    with torch.no_grad():
        for position in range(len(encoded)):
            batch = encoded.collate(np.array([position]))
            types = batch.get("token_type_ids")
            found.append(model(batch["input_ids"], batch["attention_mask"], types).pooled[0])
    return torch.stack(found).numpy()


@pytest.mark.parametrize("family", ["bert", "xlnet", "distilbert"])
def test_each_vector_is_that_of_a_model_with_this_pooling_and_depth(family):
    model = model_with(family=family)
    wanted = [Wanted(pooling=p) for p in ("mean", "cls", "max", "wk", "weighted-layers:2")]
    if family == "bert":
        wanted += [Wanted(pooling=p, layer=2) for p in ("mean", "cls", "concat-last:2")]
    extractor, encoded = Extractor(model, wanted), encoded_for(model)
    found = extractor.vectors(encoded)
    assert list(found) == [one.name for one in wanted]
    for one in wanted:
        other = model_with(one.pooling, family)
        other.encoder.load_state_dict(model.encoder.state_dict())
        if one.layer is not None:
            other = copy_with_layers(other, range(one.layer))
            assert other.pooling.spec == one.pooling or one.pooling == "concat-last:2"
        expected = pooled_by(other.eval(), encoded)
        np.testing.assert_allclose(found[one.name], expected, atol=1e-5)
        assert extractor.widths[one.name] == expected.shape[1]


def test_chunks_are_the_whole_in_order(monkeypatch):
    monkeypatch.setattr(extract, "CHUNK_ROWS", 7)
    model = model_with()
    extractor, encoded = Extractor(model, [Wanted(pooling="mean")]), encoded_for(model)
    parts = [chunk["mean"] for chunk in extractor.chunks(encoded)]
    assert [len(part) for part in parts] == [7] * 5 + [5]
    np.testing.assert_allclose(np.concatenate(parts), extractor.vectors(encoded)["mean"], atol=1e-6)


def test_length_one_where_it_is_asked():
    model = model_with()
    encoded = encoded_for(model)
    plain, unit = (
        Extractor(model, [Wanted(pooling="mean")], normalize=normalize).vectors(encoded)["mean"]
        for normalize in (False, True)
    )
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    assert lengths.std() > 1e-4
    np.testing.assert_allclose(unit, plain / lengths, atol=1e-6)


def test_a_models_own_pooling_is_used_as_it_was_trained_with_the_layer_above():
    model = model_with("mean", head="linear", head_hidden=5)
    encoded = encoded_for(model)
    extractor = Extractor(model, [Wanted(pooling="mean"), Wanted(pooling="cls")], normalize=True)
    assert extractor.widths == {"mean": 5, "cls": 32}
    with torch.no_grad():
        batch = encoded.collate(np.arange(3))
        expected = model(batch["input_ids"], batch["attention_mask"]).logits.numpy()
    np.testing.assert_allclose(extractor.vectors(encoded)["mean"][:3], expected, atol=1e-5)
    trained = model_with("dense:6")
    assert Extractor(trained, [Wanted(pooling="dense:6")]).poolings["dense:6"] is trained.pooling


def test_weights_of_words_are_fitted_to_the_texts():
    model = model_with()
    encoded = encoded_for(model)
    extractor = Extractor(model, [Wanted(pooling="tfidf"), Wanted(pooling="sif", layer=2)])
    assert extractor.fits_texts and not Extractor(model, [Wanted(pooling="cls")]).fits_texts
    unfitted = extractor.vectors(encoded)["tfidf"]
    extractor.fit(encoded)
    fitted = extractor.vectors(encoded)
    assert np.abs(fitted["tfidf"] - unfitted).max() > 1e-3
    weights = extractor.poolings["tfidf"].weights.numpy()
    assert weights[model.tokenizer.cls_token_id] == 0
    assert weights[model.tokenizer.unk_token_id] > 0
    direction = extractor.poolings["sif@2"].direction.numpy()
    assert np.linalg.norm(direction) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(fitted["sif@2"] @ direction, 0, atol=1e-5)


def test_a_pooling_that_says_nothing_yet_is_refused():
    model = model_with()
    for spec in ("dense", "conv1d", "lstm", "gru", "attention", "parallel", "hierarchical"):
        assert build_pooling(spec, model.encoder_shape).random_at_first
        with pytest.raises(ConfigError, match=f"--pooling {spec} is random until"):
            Extractor(model, [Wanted(pooling=spec)])
    with pytest.raises(ConfigError, match="--pooling pooler is random"):
        Extractor(model, [Wanted(pooling="pooler")])
    tensors = {"pooler.dense.weight": torch.eye(32), "pooler.dense.bias": torch.zeros(32)}
    with_pooler = Extractor(model, [Wanted(pooling="pooler")], read=lambda names: tensors)
    assert torch.equal(with_pooler.poolings["pooler"].dense.weight, torch.eye(32))


def test_what_cannot_be_is_refused():
    model = model_with()
    with pytest.raises(ConfigError, match="layers 1 to 4"):
        Extractor(model, [Wanted(pooling="mean", layer=5)])
    with pytest.raises(ConfigError, match="twice"):
        Extractor(model, [Wanted(pooling="mean"), Wanted(pooling="mean")])
