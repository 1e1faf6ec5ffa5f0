"""Word embeddings of two factors: saved, loaded, trimmed, resized and replayed, bit for bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import AutoModel

from bertwright.errors import CheckpointError, UnsupportedRoleError, UsageError
from bertwright.models.build import (
    build_task_model,
    copy_with_factors,
    copy_with_layers,
    copy_with_widths,
)
from bertwright.models.encoder import load_encoder, save_encoder
from bertwright.models.export import export_transformers
from bertwright.models.factorised import FactorisedEmbedding, factorise_embeddings, word_table
from bertwright.models.replay import replay_surgery
from bertwright.models.roles import get_roles
from bertwright.models.task_model import TaskModel
from bertwright.models.vocabulary import copy_with_pieces, keep_embeddings
from bertwright.surgery.plan import SurgeryPlan
from tiny import FAMILY_NAMES, tiny_batch, tiny_encoder

BY_FACTORS = sorted(set(FAMILY_NAMES) - {"bart"})
WITH_POSITIONS = {"position_biased_input": True}


@torch.no_grad()
def run(encoder, batch):
    roles = get_roles(encoder)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    states = encoder(**inputs, **roles.forward_options).last_hidden_state
    return states * batch["attention_mask"].unsqueeze(-1)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def nearest_table(table, rank):
    left, singular, right = np.linalg.svd(table.double().numpy(), full_matrices=False)
    return torch.from_numpy((left[:, :rank] * singular[:rank]) @ right[:rank]).to(table.dtype)


def task_model(encoder, tokenizer):
    return build_task_model(encoder, task="classify", labels=["a", "b"], tokenizer=tokenizer)


@pytest.mark.parametrize("family", BY_FACTORS)
def test_full_rank_is_the_encoder_and_a_low_rank_is_its_table_cut(family, tmp_path):
    more = WITH_POSITIONS if family == "deberta-v2" else {}
    encoder, tokenizer = tiny_encoder(family, **more)
    batch = tiny_batch(tokenizer)
    before, table = run(encoder, batch), word_table(encoder)
    num_pieces, width = table.shape
    full = factorise_embeddings(encoder, width)
    assert_close(run(full, batch), before, atol=1e-5, rtol=0)

    cut = factorise_embeddings(encoder, 6)
    got = run(cut, batch)
    assert (got - before).abs().max() > 1e-3
    words = encoder.get_input_embeddings()
    whole = words.weight.data.clone()
    words.weight.data = nearest_table(table, 6)
    assert_close(run(encoder, batch), got, atol=5e-5, rtol=1e-4)
    words.weight.data = whole
    assert torch.equal(run(encoder, batch), before), "the original stays"
    assert count(encoder) - count(cut) == num_pieces * width - 6 * (num_pieces + width)

    save_encoder(cut, tmp_path / "encoder")
    loaded, _ = load_encoder(tmp_path / "encoder")
    assert torch.equal(run(loaded, batch), got)
    assert loaded.config.embedding_rank == 6
    with pytest.raises((RuntimeError, ValueError)):
        AutoModel.from_pretrained(tmp_path / "encoder")


def test_a_projection_of_the_familys_own_loads_in_stock_transformers(tmp_path):
    encoder, tokenizer = tiny_encoder("deberta-v2")
    batch = tiny_batch(tokenizer)
    cut = factorise_embeddings(encoder, 6)
    assert not isinstance(cut.get_input_embeddings(), FactorisedEmbedding)
    assert cut.config.embedding_size == 6 and not hasattr(cut.config, "embedding_rank")
    assert_close(word_table(cut), nearest_table(word_table(encoder), 6), atol=1e-6, rtol=1e-4)
    save_encoder(cut, tmp_path)
    for loaded in (load_encoder(tmp_path)[0], AutoModel.from_pretrained(tmp_path).eval()):
        assert torch.equal(run(loaded, batch), run(cut, batch))
    assert (run(cut, batch) - run(encoder, batch)).abs().max() > 1e-3
    encoder.get_input_embeddings().weight.data = nearest_table(word_table(encoder), 6)
    assert_close(run(cut, batch), run(encoder, batch), atol=5e-5, rtol=1e-4)
    export_transformers(task_model(cut, tokenizer), tmp_path / "stock")
    with pytest.raises(UsageError, match="below 32"):
        factorise_embeddings(encoder, 32)


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_factors_of_factors_are_those_of_their_product(family):
    encoder, tokenizer = tiny_encoder(family)
    batch = tiny_batch(tokenizer)
    once, twice = (
        factorise_embeddings(encoder, 5),
        factorise_embeddings(factorise_embeddings(encoder, 12), 5),
    )
    assert_close(run(once, batch), run(twice, batch), atol=1e-5, rtol=1e-4)
    assert word_table(once).shape == word_table(encoder).shape


def test_a_table_that_is_shared_with_a_decoder_stays():
    encoder, tokenizer = tiny_encoder("bart")
    with pytest.raises(UnsupportedRoleError, match="decoder"):
        factorise_embeddings(encoder, 4)
    with pytest.raises(UnsupportedRoleError, match="bart keeps its word embeddings"):
        copy_with_factors(task_model(encoder, tokenizer), 4)


def test_a_module_that_is_no_table_is_refused():
    encoder, _ = tiny_encoder("bert")
    encoder.set_input_embeddings(nn.Linear(2, 2))
    with pytest.raises(UnsupportedRoleError, match="are a Linear"):
        factorise_embeddings(encoder, 4)


def test_a_task_model_keeps_its_factors_through_other_surgery_saving_and_replay(tmp_path):
    encoder, tokenizer = tiny_encoder("bert")
    model = task_model(encoder, tokenizer)
    weights = torch.rand(len(tokenizer), generator=torch.Generator().manual_seed(0)).double()
    cut = copy_with_widths(copy_with_factors(model, 6, weights), heads={2: [0, 3]})
    student = copy_with_layers(cut, [0, 2])
    batch = tiny_batch(tokenizer)
    inputs = (batch["input_ids"], batch["attention_mask"])
    with torch.no_grad():
        logits = student(*inputs).logits
    assert logits.isfinite().all()
    student.save(tmp_path / "m")
    loaded = TaskModel.load(tmp_path / "m")
    with torch.no_grad():
        assert torch.equal(loaded(*inputs).logits, logits)
    assert [op["op"] for op in loaded.surgery.ops] == [
        "factor_embeddings",
        "keep_heads",
        "keep_layers",
    ]
    replayed = replay_surgery(model.encoder, loaded.surgery).state_dict()
    state = loaded.encoder.state_dict()
    assert replayed.keys() == state.keys()
    assert all(torch.equal(replayed[name], state[name]) for name in state)
    equal = replay_surgery(model.encoder, SurgeryPlan().then_factor_embeddings(6, None))
    assert not torch.equal(word_table(equal), word_table(loaded.encoder)), "the weights matter"
    with pytest.raises(UnsupportedRoleError, match="two factors"):
        export_transformers(student, tmp_path / "stock")


def test_fewer_pieces_are_fewer_rows_of_the_small_table(tmp_path):
    encoder, tokenizer = tiny_encoder("bert")
    model = task_model(encoder, tokenizer)
    kept = [*range(5), *range(6, 90, 2)]
    trimmed = copy_with_pieces(copy_with_factors(model, 6), kept)
    words = trimmed.encoder.get_input_embeddings()
    assert isinstance(words, FactorisedEmbedding) and words.weight.shape == (len(kept), 6)
    assert words.padding_idx == 0
    ids = torch.tensor([[3, 7, 5, 9]])
    with torch.no_grad():
        whole = copy_with_factors(model, 6)(torch.tensor(kept)[ids], torch.ones_like(ids)).logits
        assert torch.equal(trimmed(ids, torch.ones_like(ids)).logits, whole)
        trimmed.save(tmp_path / "m")
        loaded = TaskModel.load(tmp_path / "m")
        assert torch.equal(loaded(ids, torch.ones_like(ids)).logits, whole)
    plain, _ = tiny_encoder("bert")
    keep_embeddings(plain, kept)
    fewer = factorise_embeddings(plain, 6)
    assert fewer.get_input_embeddings().weight.shape == (len(kept), 6)


def test_transformers_can_add_rows():
    encoder, tokenizer = tiny_encoder("bert")
    cut = factorise_embeddings(encoder, 6)
    batch = tiny_batch(tokenizer)
    before = run(cut, batch)
    cut.resize_token_embeddings(len(tokenizer) + 3, mean_resizing=False)
    words = cut.get_input_embeddings()
    assert isinstance(words, FactorisedEmbedding)
    assert words.weight.shape == (len(tokenizer) + 3, 6) == (cut.config.vocab_size, 6)
    assert torch.equal(run(cut, batch), before)
    batch["input_ids"][0, 1] = len(tokenizer) + 2
    assert run(cut, batch).isfinite().all()


def test_both_factors_are_trained_and_the_row_of_padding_is_not():
    encoder, _ = tiny_encoder("bert")
    words = factorise_embeddings(encoder, 6).get_input_embeddings()
    ids = torch.tensor([[0, 5, 9, 0]])
    words(ids).square().sum().backward()
    assert float(words.projection.weight.grad.abs().sum()) > 0
    lengths = words.weight.grad.norm(dim=1)
    assert lengths[0] == 0 and lengths[5] > 0 and lengths[9] > 0 and lengths[6] == 0


@pytest.mark.parametrize("rank", [0, 33, "6", 6.0, True])
def test_a_damaged_rank_is_explained(rank, tmp_path):
    encoder, _ = tiny_encoder("bert")
    save_encoder(factorise_embeddings(encoder, 6), tmp_path)
    facts = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(facts | {"embedding_rank": rank}))
    with pytest.raises(CheckpointError, match="embedding_rank"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    "op",
    [
        {"rank": 0, "weights": None},
        {"rank": "4", "weights": None},
        {"rank": 4, "weights": ["1"]},
        {"rank": 4, "weights": 1.0},
        {"rank": 4},
    ],
)
def test_a_malformed_operation_is_refused(op):
    with pytest.raises(CheckpointError, match="malformed"):
        SurgeryPlan.from_json([{"op": "factor_embeddings", **op}])
