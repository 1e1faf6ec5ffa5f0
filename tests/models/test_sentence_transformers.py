"""Folders of sentence-transformers: the other library gives the same vectors, both ways."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bertwright.engines.predictor import Predictor
from bertwright.errors import CheckpointError, ModelLoadError, UnsupportedRoleError
from bertwright.evaluate.measure import model_folder
from bertwright.models.build import build_task_model
from bertwright.models.encoder import resolve_source
from bertwright.models.outputs import Outputs
from bertwright.models.sentence_transformers import (
    export_sentence_transformers,
    load_sentence_transformers,
)
from bertwright.models.task_model import ModelConfig
from tiny import tiny_encoder

TEXTS = ["the food", "a very long film is not always a good film, is it?", "", "dog 🐕 Ｆｕｌｌ"]
FAMILIES = ("bert", "roberta", "distilbert", "mpnet", "deberta-v2", "modernbert", "albert")


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("sentence_transformers", reason="sentence-transformers is absent")


def embedder(family="bert", **config):
    encoder, tokenizer = tiny_encoder(family)
    return build_task_model(
        encoder,
        task="embed",
        labels=[],
        config=ModelConfig(**config),
        tokenizer=tokenizer,
        max_length=32,
        outputs=Outputs(0, kind="vectors"),
    )


def vectors_of(folder):
    predictor = Predictor(folder)
    return np.array([answer["vector"] for answer in predictor.predict(TEXTS)])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_other_library_gives_the_same_vectors(family, library, tmp_path):
    model = embedder(family)
    model.save(tmp_path / "ours")
    export_sentence_transformers(tmp_path / "ours", tmp_path / "theirs")
    theirs = library.SentenceTransformer(str(tmp_path / "theirs"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(vectors_of(tmp_path / "ours"), theirs, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {"pooling": "cls"},
        {"pooling": "max"},
        {"pooling": "mean", "head": "linear", "head_hidden": 7},
    ],
)
def test_poolings_and_a_linear_layer_survive_both_ways(config, library, tmp_path):
    model = embedder(**config)
    export_sentence_transformers(model, tmp_path / "theirs")
    theirs = library.SentenceTransformer(str(tmp_path / "theirs"), device="cpu").encode(TEXTS)
    back = load_sentence_transformers(tmp_path / "theirs")
    back.save(tmp_path / "back")
    assert back.config.pooling == config["pooling"] and back.max_length == 32
    assert theirs.shape[1] == back.outputs.count
    np.testing.assert_allclose(vectors_of(tmp_path / "back"), theirs, atol=1e-5)


@pytest.mark.parametrize("parts", [("mean", None), ("cls", None), ("mean", 5)])
def test_what_the_other_library_wrote_loads_here(parts, library, tmp_path):
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

    pooling, width = parts
    encoder, tokenizer = tiny_encoder("bert")
    encoder.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    modules = [Transformer(str(tmp_path / "encoder"), max_seq_length=24)]
    modules.append(Pooling(encoder.config.hidden_size, pooling_mode=pooling))
    if width is not None:
        modules.append(
            Dense(encoder.config.hidden_size, width, activation_function=torch.nn.Identity())
        )
    other = library.SentenceTransformer(modules=[*modules, Normalize()], device="cpu")
    other.save(str(tmp_path / "theirs"))
    folder = model_folder(tmp_path / "theirs")
    assert folder != tmp_path / "theirs" and model_folder(tmp_path / "theirs") == folder
    np.testing.assert_allclose(vectors_of(folder), other.encode(TEXTS), atol=1e-5)


def test_minilm_gives_the_vectors_that_it_gives_there(library):
    theirs = library.SentenceTransformer(resolve_source("minilm"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(vectors_of(model_folder("minilm")), theirs, atol=1e-5)


def test_what_cannot_be_written_says_why(tmp_path):
    encoder, tokenizer = tiny_encoder("bert")
    classifier = build_task_model(encoder, task="classify", labels=["a", "b"], tokenizer=tokenizer)
    with pytest.raises(UnsupportedRoleError, match="no vectors of texts"):
        export_sentence_transformers(classifier, tmp_path / "out")
    with pytest.raises(UnsupportedRoleError, match="reads bart models otherwise"):
        export_sentence_transformers(embedder("bart"), tmp_path / "out")
    with pytest.raises(UnsupportedRoleError, match="reads xlnet models otherwise"):
        export_sentence_transformers(embedder("xlnet", pooling="cls"), tmp_path / "out")
    with pytest.raises(UnsupportedRoleError, match="has no pooling wk"):
        export_sentence_transformers(embedder(pooling="wk"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _edit(path, change):
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(change(facts)))


def test_what_cannot_be_read_names_the_file_and_the_part(tmp_path):
    folder = export_sentence_transformers(
        embedder(head="linear", head_hidden=3), tmp_path / "theirs"
    )
    pooling, dense = folder / "1_Pooling" / "config.json", folder / "2_Dense" / "config.json"
    kept = dense.read_text()
    _edit(dense, lambda facts: facts | {"activation_function": "torch.nn.Tanh"})
    with pytest.raises(ModelLoadError, match=r"2_Dense has the activation torch\.nn\.Tanh"):
        load_sentence_transformers(folder)
    dense.write_text(kept)
    _edit(pooling, lambda facts: facts | {"pooling_mode_max_tokens": True})
    with pytest.raises(ModelLoadError, match="pools by mean, max"):
        load_sentence_transformers(folder)
    _edit(pooling, lambda facts: {"pooling_mode": "lasttoken"})
    with pytest.raises(ModelLoadError, match="pools by lasttoken"):
        load_sentence_transformers(folder)
    _edit(pooling, lambda facts: {"pooling_mode": "mean"})
    (folder / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        load_sentence_transformers(folder)
    settings = folder / "sentence_bert_config.json"
    _edit(settings, lambda facts: facts | {"do_lower_case": True})
    with pytest.raises(ModelLoadError, match="small letters before the tokenizer"):
        load_sentence_transformers(folder)
    modules = folder / "modules.json"
    _edit(modules, lambda listed: [*listed, {"type": "x.Router", "path": "r"}])
    with pytest.raises(ModelLoadError, match="the module Router"):
        load_sentence_transformers(folder)
    _edit(modules, lambda listed: [listed[0], listed[0]])
    with pytest.raises(ModelLoadError, match="two of Transformer"):
        load_sentence_transformers(folder)
    kept = [{"type": f"x.{kind}", "path": ""} for kind in ("Transformer", "Normalize", "Pooling")]
    _edit(modules, lambda listed: kept)
    with pytest.raises(ModelLoadError, match="the modules Transformer, Normalize, Pooling"):
        load_sentence_transformers(folder)
    _edit(modules, lambda listed: kept[1:])
    with pytest.raises(ModelLoadError, match="the modules Normalize, Pooling"):
        load_sentence_transformers(folder)
    modules.write_text('[{"idx": 0}]')
    with pytest.raises(CheckpointError, match="is damaged"):
        load_sentence_transformers(folder)
