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


def pooled(states, mask, **options):
    """Return the vectors of states [B, K, L, D]."""
    return pool_wk(states.unbind(dim=1), mask, **options)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("num_layers", "window"), [(9, 2), (3, 2), (4, 1), (6, 3)])
def test_it_is_the_loop(num_layers, window, legacy):
    states = drifting(5, num_layers, 7, 24)
    mask = torch.arange(7) < torch.tensor([7, 2, 1, 5, 6])[:, None]
    found = pooled(states, mask, window=window, legacy_window=legacy)
    expected = wk_loop(states.double().numpy(), mask.numpy(), window=window, legacy=legacy)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_nearly_equal_layers_stay_near_the_loop():
    states, mask = drifting(3, 9, 6, 48, drift=0.02), torch.ones(3, 6)
    expected = wk_loop(states.double().numpy(), mask.numpy())
    assert np.abs(pooled(states, mask).numpy() - expected).max() < 1e-4
    exact = pooled(states.double(), mask).numpy()
    np.testing.assert_allclose(exact, expected, atol=1e-6)


def test_the_edges_of_the_window_differ_in_the_authors_code():
    states, mask = drifting(2, 9, 6, 24), torch.ones(2, 6)
    ours, theirs = (pooled(states, mask, legacy_window=legacy) for legacy in (False, True))
    assert (ours - theirs).abs().max() > 1e-4


def test_it_grows_with_the_states():
    states, mask = drifting(2, 5, 4, 16), torch.ones(2, 4)
    torch.testing.assert_close(pooled(3 * states, mask), 3 * pooled(states, mask))


def test_layers_alike_have_even_weights():
    one = torch.randn(2, 1, 4, 16)
    states, mask = one.expand(2, 5, 4, 16), torch.ones(2, 4)
    found = pooled(states, mask)
    torch.testing.assert_close(found, one[:, 0, :3].mean(dim=1), atol=1e-4, rtol=1e-3)


def test_layers_at_right_angles_are_finite_and_so_is_the_gradient():
    states = torch.eye(5)[None, :, None, :].repeat(1, 1, 3, 1).requires_grad_()
    vectors = pooled(states, torch.ones(1, 3))
    vectors.square().sum().backward()
    assert torch.isfinite(vectors).all() and torch.isfinite(states.grad).all()


def test_the_gradient_is_right():
    states = drifting(1, 4, 3, 5).double().requires_grad_()
    mask = torch.tensor([[1, 1, 1]])
    assert torch.autograd.gradcheck(lambda x: pooled(x, mask), (states,), atol=1e-5)


def test_too_few_layers_are_refused():
    with pytest.raises(ValueError, match="3 or more"):
        pooled(torch.randn(1, 2, 3, 4), torch.ones(1, 3))


def as_the_graph_has_it(states, mask):
    """Return the vectors where a gradient or an export forbids blocks."""
    return pooled(states.clone().requires_grad_(), mask).detach()


@pytest.mark.parametrize("shape", [(1, 1), (1, 256), (3, 99), (5, 120), (2, 257)])
def test_blocks_of_tokens_change_nothing(shape):
    states = drifting(shape[0], 5, shape[1], 24)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.8
    for tokens in (mask, torch.ones(shape)):
        found = pooled(states, tokens)
        torch.testing.assert_close(found, as_the_graph_has_it(states, tokens))
        np.testing.assert_allclose(found[0], pooled(states[:1], tokens[:1])[0], atol=1e-6)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace", "ignore::torch.jit.TracerWarning")
def test_a_graph_has_no_batch_of_its_own():
    states, mask = drifting(2, 4, 5, 8), torch.ones(2, 5)
    traced = torch.jit.trace(lambda *given: pool_wk(given[1:], given[0]), (mask, *states.unbind(1)))
    more, some = drifting(7, 4, 30, 8, seed=1), torch.arange(30) < torch.arange(1, 8)[:, None]
    torch.testing.assert_close(traced(some, *more.unbind(1)), pooled(more, some))


@pytest.mark.parametrize("drift", [0.02, 0.5])
def test_layers_of_unequal_lengths_stay_near_the_loop(drift):
    states = drifting(3, 9, 6, 48, drift=drift)
    lengths = torch.tensor([1, 900, 1000, 3, 0.01, 5, 2000, 2, 1.0])
    states, mask = states * lengths[:, None, None], torch.ones(3, 6)
    expected = wk_loop(states.double().numpy(), mask.numpy())
    for found in (pooled(states, mask), as_the_graph_has_it(states, mask)):
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_floats_stay_near_the_loop(dtype):
    states, mask = drifting(3, 5, 6, 48).to(dtype), torch.ones(3, 6)
    expected = wk_loop(states.double().numpy(), mask.numpy())
    found = pooled(states, mask)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.float(), expected, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("side", ["left", "right", "between"])
def test_states_of_padding_are_never_read(side):
    states, num_pads = drifting(3, 5, 6, 24), 4
    pads = torch.full((3, 5, num_pads, 24), torch.nan)
    at = {"left": 0, "right": 6, "between": 3}[side]
    padded = torch.cat([states[:, :, :at], pads, states[:, :, at:]], dim=2)
    mask = torch.ones(3, 6 + num_pads)
    mask[:, at : at + num_pads] = 0
    expected = pooled(states, torch.ones(3, 6))
    torch.testing.assert_close(pooled(padded, mask), expected)
    torch.testing.assert_close(as_the_graph_has_it(padded, mask), expected)


def test_tokens_alike_in_all_layers_have_exactly_even_weights():
    one = torch.randn(2, 1, 7, 33, generator=torch.Generator().manual_seed(0))
    found = pooled(one.expand(2, 8, 7, 33), torch.ones(2, 7))
    torch.testing.assert_close(found, one[:, 0, :6].mean(dim=1), atol=1e-6, rtol=1e-5)


def test_the_gradient_is_that_of_the_loop():
    states = drifting(2, 4, 3, 6).double().requires_grad_()
    mask, towards = torch.ones(2, 3), torch.randn(2, 6, dtype=torch.float64)
    (pooled(states, mask) * towards).sum().backward()
    expected, step = np.zeros(states.shape), 1e-6
    for place in np.ndindex(*states.shape):
        moved = [states.detach().numpy().copy() for _ in range(2)]
        moved[0][place] += step
        moved[1][place] -= step
        high, low = ((wk_loop(x, mask.numpy()) * towards.numpy()).sum() for x in moved)
        expected[place] = (high - low) / (2 * step)
    np.testing.assert_allclose(states.grad, expected, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_it_is_the_same_on_a_gpu():
    states, mask = drifting(5, 9, 40, 96), torch.arange(40) < torch.arange(36, 41)[:, None]
    found = pooled(states.cuda(), mask.cuda()).cpu()
    torch.testing.assert_close(found, pooled(states, mask), atol=1e-4, rtol=1e-4)
