"""The losses of `embed` against loops, by hand and against sentence-transformers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bertwright.tasks.embed import contrastive_losses, label_losses, score_losses
from embed_inputs import (
    ROWS,
    contrastive_by_hand,
    dot,
    log_sum_exp,
    unit,
)


def as_batch(rows, vectors, dtype=torch.float32):
    places = torch.tensor([place for row in rows for place in range(len(row))])
    ids = torch.tensor([10**18 + text for row in rows for text in row])
    return torch.tensor(np.asarray(vectors), dtype=dtype), places, ids


@settings(deadline=None, max_examples=150)
@given(ROWS, st.sampled_from([1.0, 20.0, 100.0]), st.integers(0, 1000))
@example([(0, 1)], 20.0, 0)
@example([(0, 0), (1, 1), (0, 0)], 20.0, 0)  # texts alone, given twice
@example([(0, 1), (0, 2), (3, 2)], 20.0, 0)  # 2 belongs to 0, where it stands with 3 as well
@example([(0, 1, 2), (0, 2, 1), (1, 0, 3)], 20.0, 0)
def test_the_contrastive_loss_is_that_of_loops(rows, scale, seed):
    vectors = unit(np.random.default_rng(seed), sum(map(len, rows)), 5)
    expected = contrastive_by_hand(rows, vectors.tolist(), scale)
    found = contrastive_losses(*as_batch(rows, vectors, torch.float64), scale)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    narrow = contrastive_losses(*as_batch(rows, vectors), scale)
    assert narrow.dtype == torch.float32
    np.testing.assert_allclose(narrow.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_what_is_left_out_of_the_contrastive_loss_makes_a_difference():
    vectors = unit(np.random.default_rng(0), 6, 5)

    def losses_of(*rows):
        return contrastive_losses(*as_batch(rows, vectors), 3.0).tolist()

    apart = losses_of((0, 1), (2, 3), (4, 5))
    for rows in (((0, 1), (0, 3)), ((0, 1), (2, 1)), ((0, 1), (2, 0))):
        found = losses_of(*rows, (4, 5))
        assert found[0] < apart[0] - 1e-3 and found[2] == pytest.approx(apart[2])
    assert losses_of((0, 1), (0, 3), (0, 5)) == [0, 0, 0]
    negative, copied = losses_of((0, 1, 2), (3, 4, 5)), losses_of((0, 1, 1), (3, 4, 5))
    assert copied[0] < negative[0] - 1e-3 and copied[1] == negative[1]


def test_the_contrastive_loss_worked_out():
    # cosines of (1,0) with (1,0), (0,1) and of (0,1) with them, at scale 2
    vectors = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    found = contrastive_losses(*as_batch([(0, 1), (2, 3)], vectors), 2.0)
    assert found.tolist() == pytest.approx([math.log1p(math.exp(-2))] * 2)
    wrong = contrastive_losses(*as_batch([(0, 1), (2, 3)], vectors), 1.0)
    assert wrong[0].item() != pytest.approx(math.log1p(math.exp(-2)))
    # the batch of one row has nothing to tell it from; its negative is something
    assert contrastive_losses(*as_batch([(0, 1)], vectors[:2]), 2.0).tolist() == [0]
    hard = contrastive_losses(*as_batch([(0, 1, 2)], vectors[:3]), 2.0)
    assert hard.tolist() == pytest.approx([math.log1p(math.exp(-2))])


@pytest.mark.filterwarnings("ignore:Importing from")
@pytest.mark.parametrize("width", [2, 3])
def test_without_copies_it_is_the_loss_of_sentence_transformers(width):
    losses: Any = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    reference = losses.MultipleNegativesRankingLoss(model=None, scale=13.0)
    rows = [tuple(range(width * i, width * (i + 1))) for i in range(8)]
    ours = as_batch(rows, unit(np.random.default_rng(1), 8 * width, 6), torch.float64)
    ours[0].requires_grad_()
    mine = contrastive_losses(*ours, 13.0).mean()
    theirs_in = ours[0].detach().clone().requires_grad_()
    unit_in = torch.nn.functional.normalize(theirs_in, dim=1)
    columns = [unit_in[place::width] for place in range(width)]
    theirs = reference.compute_loss_from_embeddings(columns, None)
    assert mine.item() == pytest.approx(theirs.item(), abs=1e-7) and mine.item() > 0.5
    theirs.backward()
    unit_mine = ours[0].detach().clone().requires_grad_()
    normalised = torch.nn.functional.normalize(unit_mine, dim=1)
    contrastive_losses(normalised, *ours[1:], 13.0).mean().backward()
    torch.testing.assert_close(unit_mine.grad, theirs_in.grad, atol=1e-7, rtol=1e-5)


def label_by_hand(vectors, groups, scale):
    losses = []
    for i, group in enumerate(groups):
        others = [j for j in range(len(groups)) if j != i]
        same = [j for j in others if groups[j] == group]
        if not same:
            losses.append(0.0)
            continue
        logits = {j: scale * dot(vectors[i], vectors[j]) for j in others}
        total = log_sum_exp(list(logits.values()))
        losses.append(sum(total - logits[j] for j in same) / len(same))
    return losses


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=12),
    st.sampled_from([1.0, 20.0, 100.0]),
    st.integers(0, 1000),
)
@example([3], 20.0, 0)
@example([0, 1, 2], 20.0, 0)
@example([0, 0], 20.0, 0)
def test_the_label_loss_is_that_of_loops(groups, scale, seed):
    rng = np.random.default_rng(seed)
    vectors = unit(rng, len(groups), 4)[rng.integers(0, len(groups), len(groups))]
    expected = label_by_hand(vectors.tolist(), groups, scale)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        given_vectors = torch.tensor(vectors, dtype=dtype, requires_grad=True)
        found = label_losses(given_vectors, torch.tensor(groups), scale)
        assert found.dtype == dtype
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=tolerance, atol=tolerance)
        (gradient,) = torch.autograd.grad(found.sum(), given_vectors)
        assert bool(gradient.isfinite().all())


def test_the_label_loss_worked_out():
    vectors = torch.tensor([[1.0, 0], [1.0, 0], [0, 1.0]])
    found = label_losses(vectors, torch.tensor([5, 5, 7]), 3.0)
    assert found.tolist() == pytest.approx([math.log1p(math.exp(-3))] * 2 + [0])
    mixed = label_losses(vectors, torch.tensor([5, 7, 5]), 3.0)
    # of the texts it may be the first does not have the copy, but the third
    assert mixed.tolist() == pytest.approx([math.log1p(math.exp(3)), 0, math.log(2)])


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(0, 1000))
def test_the_score_loss_is_that_of_loops(count, seed):
    rng = np.random.default_rng(seed)
    first, second, wanted = unit(rng, count, 4), unit(rng, count, 4), rng.uniform(size=count)
    expected = [
        (dot(a, b) - w) ** 2
        for a, b, w in zip(first.tolist(), second.tolist(), wanted.tolist(), strict=True)
    ]
    tensors = [torch.tensor(values) for values in (first, second, wanted)]
    found = score_losses(*tensors)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    # the sum, and the loss without a root, are something else
    assert not np.allclose(score_losses(tensors[0], tensors[1], 1 - tensors[2]).numpy(), expected)


def test_gradients_are_those_of_differences():
    rng = np.random.default_rng(2)
    rows = [(0, 1, 2), (0, 3, 1), (4, 4, 5), (6, 1, 2)]
    vectors, places, ids = as_batch(rows, unit(rng, 12, 4), torch.float64)
    vectors.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: contrastive_losses(v, places, ids, 5.0), vectors)
    groups = torch.tensor([0, 0, 1, 2, 2, 2, 3, 0, 1, 1, 4, 5])
    assert torch.autograd.gradcheck(lambda v: label_losses(v, groups, 5.0), vectors)
    wanted = torch.tensor([0.1, 0.9, 0.4])
    assert torch.autograd.gradcheck(lambda v: score_losses(v[:3], v[3:6], wanted), vectors)
    total = contrastive_losses(vectors, places, ids, 5.0).sum()
    (gradient,) = torch.autograd.grad(total, vectors)
    assert gradient.abs().max() > 0.1


@pytest.mark.parametrize("kind", ["all the same", "opposite", "zeros"])
@pytest.mark.parametrize("scale", [1e-3, 20.0, 1e6])
def test_losses_and_gradients_are_finite_whatever_the_vectors(kind, scale):
    one = torch.nn.functional.normalize(torch.ones(8, 3), dim=1)
    signs = torch.tensor([1.0, -1] * 4)[:, None]
    vectors = {"all the same": one, "opposite": one * signs, "zeros": one * 0}[kind]
    vectors.requires_grad_()
    places, ids = torch.tensor([0, 1] * 4), torch.tensor([0, 1, 2, 3, 4, 4, 0, 5])
    for losses in (
        contrastive_losses(vectors, places, ids, scale),
        contrastive_losses(vectors[:2], places[:2], ids[:2], scale),
        label_losses(vectors, ids, scale),
        label_losses(vectors[:1], ids[:1], scale),
        score_losses(vectors[::2], vectors[1::2], torch.ones(4)),
    ):
        (gradient,) = torch.autograd.grad(losses.sum(), vectors)
        assert bool(losses.isfinite().all()) and bool((losses >= 0).all())
        assert bool(gradient.isfinite().all())
