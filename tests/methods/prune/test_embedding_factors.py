"""Thinner word embeddings: by the texts or not, of the rank or the energy that was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bertwright.errors import ConfigError, UsageError
from bertwright.methods.prune.embedding_factors import (
    EmbeddingFactors,
    EmbeddingFactorsConfig,
    count_pieces,
)
from bertwright.methods.quantize.int8 import simulate_int8
from bertwright.models.factorised import FactorisedEmbedding, word_table
from bertwright.registry import parse_method_spec
from bertwright.tasks import find_task
from methods.cases import tiny_rows, trained_teacher

TASK = find_task("classify")


@pytest.fixture(scope="module")
def model():
    return trained_teacher()


@pytest.fixture(scope="module")
def rows(model):
    return tiny_rows(model, 96)


def factored(model, rows, **options):
    return EmbeddingFactors(EmbeddingFactorsConfig(**options)).apply(model, rows, TASK)


def counts_by_hand(rows, num_pieces):
    counts = [0] * num_pieces
    for row in range(len(rows)):
        for piece in rows.tokens(np.array([row]))[0]:
            counts[int(piece)] += 1
    return torch.tensor(counts).double()


def test_pieces_are_counted(model, rows, monkeypatch):
    expected = counts_by_hand(rows, len(model.tokenizer))
    assert expected.sum() == int(rows.lengths.sum()) > 0
    assert torch.equal(count_pieces(rows, len(model.tokenizer)), expected)
    monkeypatch.setattr("bertwright.methods.prune.embedding_factors._ROWS_AT_A_TIME", 7)
    assert torch.equal(count_pieces(rows, len(model.tokenizer)), expected)


def test_frequent_pieces_are_nearer_when_they_weigh_more(model, rows):
    table = word_table(model.encoder)
    counts = counts_by_hand(rows, len(table))
    frequent = counts >= counts.sort().values[-15]
    assert 10 <= int(frequent.sum()) < len(table) / 2

    def error(by):
        near = word_table(factored(model, rows, rank=6, by=by).encoder)
        return (near - table).square().sum(dim=1)

    texts, equal = error("texts"), error("equal")
    assert float(texts[frequent].sum()) < 0.8 * float(equal[frequent].sum())
    assert float(texts.sum()) > float(equal.sum()) > 0, "and the others pay for it"


def test_much_smoothing_is_no_weight(model, rows):
    equal = word_table(factored(model, rows, rank=6, by="equal").encoder)
    smooth = word_table(factored(model, rows, rank=6, smoothing=1e9).encoder)
    sharp = word_table(factored(model, rows, rank=6).encoder)
    assert_close(smooth, equal, atol=1e-5, rtol=0)
    assert float((sharp - equal).abs().max()) > 1e-3


@pytest.mark.parametrize("energy", [0.3, 0.6, 0.75])
def test_the_energy_says_the_rank(model, rows, energy):
    table = word_table(model.encoder).double().numpy()
    singular = np.linalg.svd(table, compute_uv=False) ** 2
    shares = singular.cumsum() / singular.sum()
    expected = 1 + int((shares < energy).sum())
    cut = factored(model, rows, energy=energy, by="equal")
    words = cut.encoder.get_input_embeddings()
    assert isinstance(words, FactorisedEmbedding)
    assert words.weight.shape == (len(table), expected)
    assert shares[expected - 1] >= energy > (shares[expected - 2] if expected > 1 else 0)
    saved = model.num_parameters - cut.num_parameters
    assert saved == table.size - expected * sum(table.shape) > 0


def test_what_saves_nothing_or_is_rounded_is_refused(model, rows):
    num_pieces, width = word_table(model.encoder).shape
    largest = (num_pieces * width - 1) // (num_pieces + width)
    assert factored(model, rows, rank=largest).num_parameters < model.num_parameters
    with pytest.raises(UsageError, match=f"at most {largest}"):
        factored(model, rows, rank=largest + 1)
    with pytest.raises(UsageError, match="no smaller"):
        factored(model, rows, energy=1.0)
    with pytest.raises(UsageError, match="quantize last"):
        factored(simulate_int8(model), rows, rank=4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rank": 0}, "rank"),
        ({"energy": 0.0}, "energy"),
        ({"energy": 1.5}, "energy"),
        ({"smoothing": -1.0}, "smoothing"),
    ],
)
def test_options_out_of_range_are_named(options, says):
    with pytest.raises(ConfigError, match=says):
        EmbeddingFactorsConfig(**options)


def test_options_can_be_written_on_the_command_line():
    config = parse_method_spec("embedding_factors:rank=64,by=equal")
    assert (config.rank, config.by) == (64, "equal")
    assert parse_method_spec("embedding_factors:energy=0.5").rank is None
