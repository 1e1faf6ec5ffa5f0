"""SBERT-WK against a plain loop over texts, tokens and layers, with QR as the paper has it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from bertwright.models.pooling.wk import pool_wk


def wk_loop(states, mask, *, window=2, legacy=False):
    """Return the vectors [B, D] of states [B, K, L, D], one text, token and layer at a time."""
    vectors = []
    for text, real in zip(states, mask.astype(bool), strict=True):
        tokens = [text[:, place] for place in np.flatnonzero(real)]
        tokens = tokens[:-1] if len(tokens) > 1 else tokens
        mixed = [token_vector(layers, window, legacy) for layers in tokens]
        changes = np.array([np.var([cosine(a, b) for a, b in pairs(x)]) for x in tokens])
        shares = changes / changes.sum() if changes.sum() else np.full(len(tokens), 1 / len(tokens))
        vectors.append(sum(s * v for s, v in zip(shares, mixed, strict=True)))
    return np.stack(vectors)


def token_vector(layers, window, legacy):
    agreement, novelty = [], []
    for k, layer in enumerate(layers):
        low = layers[k - window : k] if legacy else layers[max(k - window, 0) : k]
        high = layers[k + 1 : k + window + 1]
        others = np.concatenate([low, high])
        _, r = np.linalg.qr(np.vstack([others, layer[None]]).T)
        column = r[:, -1]
        others_r = r[:, :-1] / np.linalg.norm(r[:, :-1], axis=0)
        cosines = column[:-1] @ others_r[:-1] / np.linalg.norm(column[:-1])
        agreement.append(1 / (cosines.mean() * 2 * (len(others) + 1)))
        novelty.append(abs(column[-1]) / np.linalg.norm(column))
    agreement, novelty = np.array(agreement), np.array(novelty)
    shares = agreement / agreement.sum() + novelty / novelty.sum()
    return (shares / shares.sum()) @ layers


def pairs(layers):
    return itertools.pairwise(layers)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def drifting(batch, num_layers, length, width, seed=0, drift=0.5):
    """States whose layers resemble each other, as those of an encoder do."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(batch, num_layers, length, width, generator=generator)
    steps[:, 1:] *= drift
    return steps.cumsum(dim=1)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("num_layers", "window"), [(9, 2), (3, 2), (4, 1), (6, 3)])
def test_it_is_the_loop(num_layers, window, legacy):
    states = drifting(5, num_layers, 7, 24)
    mask = torch.arange(7) < torch.tensor([7, 2, 1, 5, 6])[:, None]
    found = pool_wk(states, mask, window=window, legacy_window=legacy)
    expected = wk_loop(states.double().numpy(), mask.numpy(), window=window, legacy=legacy)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_nearly_equal_layers_stay_near_the_loop():
    states, mask = drifting(3, 9, 6, 48, drift=0.02), torch.ones(3, 6)
    expected = wk_loop(states.double().numpy(), mask.numpy())
    assert np.abs(pool_wk(states, mask).numpy() - expected).max() < 1e-4
    exact = pool_wk(states.double(), mask).numpy()
    np.testing.assert_allclose(exact, expected, atol=1e-6)


def test_the_edges_of_the_window_differ_in_the_authors_code():
    states, mask = drifting(2, 9, 6, 24), torch.ones(2, 6)
    ours, theirs = (pool_wk(states, mask, legacy_window=legacy) for legacy in (False, True))
    assert (ours - theirs).abs().max() > 1e-4


def test_it_grows_with_the_states():
    states, mask = drifting(2, 5, 4, 16), torch.ones(2, 4)
    torch.testing.assert_close(pool_wk(3 * states, mask), 3 * pool_wk(states, mask))


def test_layers_alike_have_even_weights():
    one = torch.randn(2, 1, 4, 16)
    states, mask = one.expand(2, 5, 4, 16), torch.ones(2, 4)
    found = pool_wk(states, mask)
    torch.testing.assert_close(found, one[:, 0, :3].mean(dim=1), atol=1e-4, rtol=1e-3)


def test_layers_at_right_angles_are_finite_and_so_is_the_gradient():
    states = torch.eye(5)[None, :, None, :].repeat(1, 1, 3, 1).requires_grad_()
    pooled = pool_wk(states, torch.ones(1, 3))
    pooled.square().sum().backward()
    assert torch.isfinite(pooled).all() and torch.isfinite(states.grad).all()


def test_the_gradient_is_right():
    states = drifting(1, 4, 3, 5).double().requires_grad_()
    mask = torch.tensor([[1, 1, 1]])
    assert torch.autograd.gradcheck(lambda x: pool_wk(x, mask), (states,), atol=1e-5)


def test_too_few_layers_are_refused():
    with pytest.raises(ValueError, match="3 or more"):
        pool_wk(torch.randn(1, 2, 3, 4), torch.ones(1, 3))
