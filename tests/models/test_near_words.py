from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig

from bertwright.errors import ModelLoadError
from bertwright.models.masked_words import MaskedWords
from bertwright.models.near_words import near_words, word_vectors
from tiny import tiny_encoder, tiny_tokenizer

WORDS = ["film", "movie", "book", "zebra", "good", "bad", "qqq"]


def test_vectors_are_the_means_of_the_pieces():
    encoder, tokenizer = tiny_encoder()
    table = encoder.get_input_embeddings().weight.detach().numpy()
    found = word_vectors(encoder, tokenizer, WORDS).numpy()
    for word, vector in zip(WORDS, found, strict=True):
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        np.testing.assert_allclose(vector, table[ids].mean(axis=0), atol=1e-6)
    assert np.abs(found).min(axis=1).max() > 0


def test_neighbours_are_those_of_a_plain_search():
    encoder, tokenizer = tiny_encoder()
    vectors = word_vectors(encoder, tokenizer, WORDS).double().numpy()
    found = near_words(encoder, tokenizer, WORDS, num_near=3)
    for place, word in enumerate(WORDS):
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vectors[place])
        cosines = vectors @ vectors[place] / norms
        cosines[place] = -9
        assert found[word] == [WORDS[i] for i in np.argsort(-cosines)[:3]]
        farthest = [WORDS[i] for i in np.argsort(cosines)[1:4]]
        assert found[word] != farthest


def test_few_words_have_few_neighbours():
    encoder, tokenizer = tiny_encoder()
    assert near_words(encoder, tokenizer, ["film"]) == {"film": []}
    assert near_words(encoder, tokenizer, []) == {}
    assert near_words(encoder, tokenizer, ["film", "book"]) == {"film": ["book"], "book": ["film"]}


@pytest.fixture
def filler_dir(tmp_path):
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
    )
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_words_in_the_place_of_a_mask_are_the_likeliest(filler_dir):
    filler = MaskedWords.load(str(filler_dir))
    words = ["the", "Good", "zebra", "film"]
    found = filler.choices(words, 12)
    assert set(found) == {"the", "good", "film"}, "zebra is several pieces"
    tokenizer, model = filler.tokenizer, filler.model
    for word in found:
        text = " ".join("[MASK]" if w.lower() == word else w.lower() for w in words)
        batch = tokenizer(text, return_tensors="pt")
        at = batch["input_ids"][0].tolist().index(tokenizer.mask_token_id)
        with torch.no_grad():
            likely = model(**batch).logits[0, at].topk(12).indices.tolist()
        pieces = tokenizer.convert_ids_to_tokens(likely)
        wanted = [p for p in pieces if p.isalnum() and p != word]
        assert found[word] == wanted and wanted
        assert found[word] != list(reversed(wanted)) or len(wanted) == 1


def test_words_beyond_the_models_length_are_not_asked_for(filler_dir):
    filler = MaskedWords.load(str(filler_dir))
    filler.max_length = 4
    assert set(filler.choices(["good", "bad", "film"], 20)) == {"good", "bad"}
    assert filler.choices([]) == {}


def test_a_checkpoint_without_the_head_is_refused(tmp_path):
    encoder, tokenizer = tiny_encoder()
    encoder.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="cannot fill in words"):
        MaskedWords.load(str(tmp_path))
    with pytest.raises(ModelLoadError, match="cannot load"):
        MaskedWords.load(str(tmp_path / "nothing"))
