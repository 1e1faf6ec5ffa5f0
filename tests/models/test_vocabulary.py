"""Models with a trimmed vocabulary: the same scores bit for bit, saved, loaded and stock."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from bertwright.data.batching import MODEL_INPUTS
from bertwright.errors import ModelLoadError, UnsupportedRoleError, UsageError
from bertwright.methods.prune.vocabulary import VocabularyTrimming, VocabularyTrimmingConfig
from bertwright.models.replay import replay_surgery
from bertwright.models.roles import get_roles
from bertwright.models.task_model import TaskModel
from bertwright.models.vocabulary import copy_with_pieces
from bertwright.surgery.plan import SurgeryPlan
from engines_models import make_model
from methods.cases import tiny_rows, tiny_teacher
from tiny import FAMILY_NAMES

METHOD = VocabularyTrimming(VocabularyTrimmingConfig(characters=False))


@torch.no_grad()
def logits_of(model, rows):
    batch = rows.collate(np.arange(12))
    return model(**{name: batch[name] for name in MODEL_INPUTS if name in batch}).logits


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_scores_are_the_same_and_all_is_saved(family, tmp_path):
    model = tiny_teacher(family)
    rows = tiny_rows(model)
    before = logits_of(model, rows)
    trimmed = METHOD.apply(model, rows)
    pieces = trimmed.encoder.get_input_embeddings().num_embeddings
    assert pieces < 0.5 * model.encoder.get_input_embeddings().num_embeddings
    assert trimmed.encoder.config.vocab_size == pieces == len(trimmed.tokenizer)
    assert torch.equal(logits_of(trimmed, tiny_rows(trimmed)), before)
    assert torch.equal(logits_of(model, rows), before), "the original stays"

    trimmed.save(tmp_path / "m")
    loaded = TaskModel.load(tmp_path / "m")
    again = tiny_rows(loaded)
    assert torch.equal(logits_of(loaded, again), before)
    for role in ("pad", "unk", "cls", "sep", "mask"):
        name = f"{role}_token"
        assert getattr(loaded.tokenizer, name) == getattr(model.tokenizer, name)
        old = getattr(model.tokenizer, f"{name}_id")
        assert trimmed.surgery.ops[-1]["indices"][getattr(loaded.tokenizer, f"{name}_id")] == old
    stock = AutoModel.from_pretrained(tmp_path / "m" / "encoder")
    assert stock.get_input_embeddings().num_embeddings == pieces
    stock_tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    text = "a good film about a dog"
    assert stock_tokenizer(text)["input_ids"] == trimmed.tokenizer(text)["input_ids"]

    plan = SurgeryPlan.from_json(trimmed.surgery.to_json())
    replayed = replay_surgery(model.encoder, plan)
    state, other = replayed.state_dict(), trimmed.encoder.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[key], other[key]) for key in state)


def test_weights_of_words_go_with_their_pieces():
    model = make_model(pooling="tfidf")
    model.pooling.weights.copy_(torch.rand(model.pooling.weights.shape) + 0.1)
    kept = [*range(5), *range(6, 60, 2)]
    trimmed = copy_with_pieces(model, kept)
    assert torch.equal(trimmed.pooling.weights, model.pooling.weights[kept])
    ids = torch.tensor([[3, 7, 5, 9]])
    with torch.no_grad():
        whole = model(torch.tensor(kept)[ids], torch.ones_like(ids)).logits
        assert torch.equal(trimmed(ids, torch.ones_like(ids)).logits, whole)


def test_positions_that_count_from_the_padding_keep_its_id():
    model = tiny_teacher("roberta")
    assert get_roles(model.encoder).record.position_offset == 2
    with pytest.raises(UnsupportedRoleError, match="padding, 1"):
        copy_with_pieces(model, range(1, 20))


def test_what_cannot_be_trimmed_is_refused():
    model = tiny_teacher()
    with pytest.raises(UsageError, match="no piece"):
        copy_with_pieces(model, [0, 10**6])
    model.tokenizer = None
    with pytest.raises(ModelLoadError, match="no fast tokenizer"):
        copy_with_pieces(model, range(20))
