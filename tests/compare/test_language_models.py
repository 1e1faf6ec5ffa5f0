"""What a state may depend on, with referees: a loop over pieces, the whole softmax, one row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bertwright.compare.language_models import (
    BEGIN,
    END,
    UNKNOWN,
    BiLstmLanguageModel,
    CausalLanguageModel,
    LanguageModel,
    PieceVocabulary,
    TiedSoftmax,
    padded,
)
from tiny import tiny_tokenizer

NUM_PIECES, WIDTH = 30, 12


def model_of(kind: str, **options: Any) -> LanguageModel:
    torch.manual_seed(0)
    counts = torch.arange(NUM_PIECES) % 7 + 1.0
    if kind == "both":
        return BiLstmLanguageModel(counts, WIDTH, **options).eval()
    return CausalLanguageModel(counts, WIDTH, max_pieces=20, **options).eval()


def rows_of(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        np.concatenate([[BEGIN], rng.integers(4, NUM_PIECES, size=length), [END]])
        for length in lengths
    ]


def changed_at(one: Tensor, other: Tensor) -> list[bool]:
    return [not torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True)]


def states_with_and_without_a_change(kind: str, place: int) -> tuple[list[Tensor], list[Tensor]]:
    ids, mask = padded(rows_of(8, 8))
    model = model_of(kind)
    changed = ids.clone()
    changed[:, place] = (ids[:, place] - 3) % (NUM_PIECES - 4) + 4
    assert (changed[:, place] != ids[:, place]).all()
    with torch.no_grad():
        return model(ids, mask), model(changed, mask)


@pytest.mark.parametrize("place", [1, 4, 8])
def test_causal_states_depend_on_the_left_alone(place):
    before, after = states_with_and_without_a_change("left", place)
    assert len(before) == 5
    assert changed_at(before[0], after[0]) == [at == place for at in range(10)]
    for one, other in zip(before[1:], after[1:], strict=True):
        assert changed_at(one, other) == [at >= place for at in range(10)]


@pytest.mark.parametrize("place", [1, 4, 8])
def test_the_halves_of_lstm_states_depend_on_one_side_each(place):
    before, after = states_with_and_without_a_change("both", place)
    assert len(before) == 3
    for one, other in zip(before[1:], after[1:], strict=True):
        onward, back = (
            changed_at(one[..., half], other[..., half])
            for half in (slice(None, WIDTH), slice(WIDTH, None))
        )
        assert onward == [at >= place for at in range(10)]
        assert back == [at <= place for at in range(10)]


@pytest.mark.parametrize("kind", ["both", "left"])
def test_padding_changes_nothing(kind):
    model, rows = model_of(kind), rows_of(9, 2, 5, 0)
    with torch.no_grad():
        ids, mask = padded(rows)
        together = model(ids, mask)
        vectors = model.sentence_vectors(together, mask)
        for row, one in enumerate(rows):
            states = model(*padded([one]))
            for layer, state in enumerate(states):
                torch.testing.assert_close(
                    together[layer][row, : len(one)], state[0], atol=1e-5, rtol=1e-5
                )
                alone = model.sentence_vectors(states, padded([one])[1])[layer][0]
                torch.testing.assert_close(vectors[layer][row], alone, atol=1e-5, rtol=1e-5)
                assert alone.shape == (model.widths[layer],)
    assert model.direction == kind
    assert not torch.allclose(together[-1][0, 2], together[-1][0, 3])


@pytest.mark.parametrize("kind", ["both", "left"])
def test_the_loss_is_that_of_a_loop_over_predictions(kind):
    model, rows = model_of(kind), rows_of(6, 3)
    embedding, bias = model.embedding.weight.detach(), model.softmax.bias.detach()
    losses: list[list[float]] = [[], []]
    with torch.no_grad():
        for row in rows:
            last = model(*padded([row]))[-1][0]
            for at in range(len(row) - 1):
                told = [(last[at, :WIDTH], row[at + 1]), (last[at + 1, WIDTH:], row[at])]
                for side, (h, target) in enumerate(told[: 2 if kind == "both" else 1]):
                    logits = embedding @ h + bias
                    losses[side].append(float(logits.logsumexp(0) - logits[target]))
        expected = np.mean([np.mean(side) for side in losses if side])
        ids, mask = padded(rows)
        assert float(model.lm_loss(model(ids, mask), ids, mask)) == pytest.approx(
            expected, abs=1e-5
        )
    assert len(losses[0]) == 7 + 4 and expected > 1


def test_lstm_states_are_those_of_torch_cells():
    model = model_of("both")
    assert isinstance(model, BiLstmLanguageModel)
    row = rows_of(4)[0]
    first = model.onward[0]
    assert isinstance(first, nn.LSTM)
    cell = nn.LSTMCell(WIDTH, WIDTH)
    cell.load_state_dict({name.removesuffix("_l0"): p for name, p in first.state_dict().items()})
    h, c = torch.zeros(1, WIDTH), torch.zeros(1, WIDTH)
    with torch.no_grad():
        states = model(*padded([row]))
        for at, piece in enumerate(row):
            h, c = cell(model.embedding.weight[piece][None], (h, c))
            torch.testing.assert_close(states[1][0, at, :WIDTH], h[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(states[0][..., :WIDTH], states[0][..., WIDTH:])


def test_the_sampled_softmax_has_the_gradient_of_the_whole_on_average():
    torch.manual_seed(0)
    counts = torch.arange(60) % 5 + 1.0
    embedding, targets = torch.randn(60, 6) / 2, torch.tensor([3, 17, 40])
    softmax = TiedSoftmax(counts, 25)

    def gradient(training: bool) -> Tensor:
        softmax.train(training)
        h = torch.ones(3, 6, requires_grad=True)
        softmax(h, targets, embedding).backward()
        assert h.grad is not None
        return h.grad

    assert softmax.sampled and not torch.equal(gradient(True), gradient(True))
    mean = torch.stack([gradient(True) for _ in range(300)]).mean(dim=0)
    whole = gradient(False)
    assert (mean - whole).norm() < 0.1 * whole.norm()
    assert not TiedSoftmax(counts, 40).sampled and not TiedSoftmax(counts, 0).sampled
    softmax.corrections.zero_()  # without its correction it is not
    wrong = torch.stack([gradient(True) for _ in range(300)]).mean(dim=0)
    assert (wrong - whole).norm() > (mean - whole).norm()


@pytest.mark.parametrize("kind", ["both", "left"])
def test_some_pieces_are_read_as_unknown_in_training_alone(kind):
    model = model_of(kind, unknown=0.5)
    ids, mask = padded(rows_of(18))
    unknown = model.embedding.weight[UNKNOWN]
    read = model.train().read(ids)[0]
    hidden = [torch.equal(vector, unknown) for vector in read]
    assert 3 <= sum(hidden) <= 15 and not hidden[0] and not hidden[-1]
    assert torch.equal(model.eval().read(ids), model.embedding(ids)) and mask.all()


def test_pieces_of_the_training_texts_are_numbered_anew():
    tokenizer = tiny_tokenizer("bert")
    vocabulary = PieceVocabulary(tokenizer, ["the red car", "a car ☃"], max_pieces=6)
    assert sorted(vocabulary.pieces) == ["a", "car", "red", "the"]
    assert len(vocabulary) == 8 and vocabulary.num_bytes == 10 + 4
    number = {piece: at + 4 for at, piece in enumerate(vocabulary.pieces)}
    encoded = vocabulary.encode(["a red dog", "", "the the the the the the the"])
    assert encoded[0].tolist() == [BEGIN, number["a"], number["red"], UNKNOWN, END]
    assert encoded[1].tolist() == [BEGIN, END]
    assert encoded[2].tolist() == [BEGIN, *[number["the"]] * 4, END]


def test_a_new_model_predicts_as_the_counts_of_pieces_do():
    model = model_of("left")
    torch.nn.init.zeros_(model.embedding.weight)
    shares = (torch.arange(NUM_PIECES) % 7 + 2.0) / (torch.arange(NUM_PIECES) % 7 + 2.0).sum()
    ids, mask = padded([np.array([BEGIN, 9, END])])
    expected = -(math.log(shares[9]) + math.log(shares[END])) / 2
    assert float(model.lm_loss(model(ids, mask), ids, mask).detach()) == pytest.approx(expected)
