from __future__ import annotations

import math

import pytest
import torch

from bertwright.methods.distil.hidden_losses import (
    attention_kl,
    attention_mse,
    attention_scores,
    cls_mask,
    hidden_cosine,
    hidden_mse,
)

B, L, D, N = 2, 3, 4, 2
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


def random_hidden(seed: int) -> torch.Tensor:
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(seed))


def random_attention(seed: int, mask: torch.Tensor = MASK) -> torch.Tensor:
    """Rows over real keys only, as models give them."""
    scores = torch.randn(B, N, L, L, generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(mask[:, None, None, :] == 0, -torch.inf).softmax(dim=3)


def test_hidden_mse_by_loops_rejects_dilution_by_padding():
    hidden_s, hidden_t = random_hidden(1), random_hidden(2)
    expected = []
    for b, n in enumerate([3, 2]):
        total = 0.0
        for i in range(n):
            for d in range(D):
                total += (hidden_s[b, i, d].item() - hidden_t[b, i, d].item()) ** 2
        expected.append(total / (n * D))
    loss = hidden_mse(hidden_s, hidden_t, MASK)
    torch.testing.assert_close(loss, torch.tensor(expected))
    diluted = (hidden_s - hidden_t).square().mean(dim=(1, 2))
    assert not torch.allclose(diluted, loss, rtol=1e-2)


def test_hidden_mse_by_hand():
    hidden_s = torch.tensor([[[1.0, 2.0], [9.0, 9.0]]])
    hidden_t = torch.tensor([[[0.0, 4.0], [0.0, 0.0]]])
    assert hidden_mse(hidden_s, hidden_t, torch.tensor([[1, 0]])).item() == 2.5  # (1 + 4) / 2


def test_hidden_cosine_by_loops_and_as_the_pkd_loss():
    hidden_s, hidden_t = random_hidden(1), random_hidden(2)
    expected = []
    for b, n in enumerate([3, 2]):
        total = 0.0
        for i in range(n):
            s, t = hidden_s[b, i].tolist(), hidden_t[b, i].tolist()
            dot = sum(x * y for x, y in zip(s, t, strict=True))
            total += 1 - dot / math.sqrt(sum(x * x for x in s) * sum(y * y for y in t))
        expected.append(total / n)
    loss = hidden_cosine(hidden_s, hidden_t, MASK)
    torch.testing.assert_close(loss, torch.tensor(expected))
    unit_s = hidden_s / hidden_s.norm(dim=2, keepdim=True)
    unit_t = hidden_t / hidden_t.norm(dim=2, keepdim=True)
    torch.testing.assert_close(hidden_mse(unit_s, unit_t, MASK) * D, 2 * loss)
    torch.testing.assert_close(hidden_cosine(7 * hidden_s, hidden_t, MASK), loss)


def test_attention_kl_by_loops_rejects_the_other_direction():
    map_s, map_t = random_attention(1), random_attention(2)
    expected = []
    for b, n in enumerate([3, 2]):
        total = 0.0
        for a in range(N):
            for i in range(n):
                for j in range(n):
                    t, s = map_t[b, a, i, j].item(), map_s[b, a, i, j].item()
                    total += t * (math.log(t) - math.log(s))
        expected.append(total / (N * n))
    loss = attention_kl(map_s, map_t, MASK)
    torch.testing.assert_close(loss, torch.tensor(expected), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(attention_kl(map_t, map_s, MASK), loss, rtol=1e-2)


def test_attention_mse_by_loops():
    map_s, map_t = random_attention(1), random_attention(2)
    expected = []
    for b, n in enumerate([3, 2]):
        total = 0.0
        for a in range(N):
            for i in range(n):
                for j in range(n):
                    total += (map_s[b, a, i, j].item() - map_t[b, a, i, j].item()) ** 2
        expected.append(total / (N * n * n))
    torch.testing.assert_close(attention_mse(map_s, map_t, MASK), torch.tensor(expected))


@pytest.mark.parametrize("compare", [hidden_mse, hidden_cosine, attention_kl, attention_mse])
def test_zero_when_equal_finite_gradient_and_blind_to_padding(compare):
    make = random_hidden if compare in (hidden_mse, hidden_cosine) else random_attention
    first, second = make(1), make(2)
    torch.testing.assert_close(compare(first, first, MASK), torch.zeros(B), atol=1e-6, rtol=0)
    loss = compare(first, second, MASK)
    assert (loss > 1e-3).all()
    spoiled_s, spoiled_t = first.clone(), second.clone()
    for spoiled in (spoiled_s, spoiled_t):
        if spoiled.ndim == 3:
            spoiled[1, 2] = 1e4
        else:
            spoiled[1, :, 2, :] = 1e4
            spoiled[1, :, :, 2] = 1e4
    spoiled_s.requires_grad_()
    spoiled_loss = compare(spoiled_s, spoiled_t, MASK)
    torch.testing.assert_close(spoiled_loss, loss)
    spoiled_loss.sum().backward()
    assert spoiled_s.grad is not None and spoiled_s.grad.isfinite().all()
    padding = spoiled_s.grad[1, 2] if spoiled_s.ndim == 3 else spoiled_s.grad[1, :, :, 2]
    assert not padding.any()
    assert compare(first, second, torch.zeros_like(MASK)).tolist() == [0.0, 0.0]


def test_attention_scores_by_loops_reject_the_missing_scale_and_padding():
    query, key = random_hidden(1), random_hidden(2)
    scores = attention_scores(query, key, MASK, N)
    assert scores.shape == (B, N, L, L) and scores.isfinite().all()
    size = D // N
    for b, n in enumerate([3, 2]):
        for a in range(N):
            for i in range(L):
                for j in range(L):
                    product = sum(
                        query[b, i, a * size + d].item() * key[b, j, a * size + d].item()
                        for d in range(size)
                    )
                    expected = product / math.sqrt(size) if i < n and j < n else 0.0
                    assert scores[b, a, i, j].item() == pytest.approx(expected, abs=1e-6)
    whole_width = attention_scores(query, key, MASK, 1)
    assert not torch.allclose(scores.sum(dim=1), whole_width[:, 0], atol=1e-2)
    spoiled_q, spoiled_k = query.clone(), key.clone()
    spoiled_q[1, 2], spoiled_k[1, 2] = torch.nan, torch.nan
    spoiled_q.requires_grad_()
    spoiled = attention_scores(spoiled_q, spoiled_k, MASK, N)
    assert torch.equal(spoiled, scores)
    attention_mse(spoiled, torch.zeros_like(scores), MASK).sum().backward()
    assert spoiled_q.grad is not None and spoiled_q.grad.isfinite().all()
    assert spoiled_q.grad.abs().max() > 0 and not spoiled_q.grad[1, 2].any()


def test_tinybert_attention_by_hand_rejects_the_mean_over_padding():
    query_s = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]]])
    key = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]])
    mask = torch.tensor([[1, 1, 0]])
    scores_s = attention_scores(query_s, key, mask, 2)  # heads of width 1: products of one number
    scores_t = torch.zeros_like(scores_s)
    # head 0: 1 for (0, 0); head 1: 2 for (1, 1): (1 + 4) / (2 heads of 2 x 2 pairs)
    assert attention_mse(scores_s, scores_t, mask).tolist() == [5 / 8]
    assert (scores_s - scores_t).square().mean().item() == pytest.approx(5 / 18)


@pytest.mark.parametrize(
    ("mask", "first", "last"),
    [([1, 1, 1, 0], 0, 2), ([0, 0, 1, 1], 2, 3), ([1, 0, 1, 0], 0, 2), ([0, 1, 0, 0], 1, 1)],
)
def test_the_classification_token_is_found_on_whichever_side_padding_is(mask, first, last):
    mask = torch.tensor([mask, [0, 0, 0, 0]])
    for at_end, place in ((False, first), (True, last)):
        found = cls_mask(mask, at_end=at_end)
        assert found.nonzero().tolist() == [[0, place]] and found.dtype == torch.long


def test_bert_pkd_by_loops_rejects_all_tokens():
    hidden_s, hidden_t = random_hidden(1), random_hidden(2)
    expected = []
    for b in range(B):
        s, t = hidden_s[b, 0].tolist(), hidden_t[b, 0].tolist()
        length_s, length_t = (math.sqrt(sum(x * x for x in h)) for h in (s, t))
        expected.append(sum((x / length_s - y / length_t) ** 2 for x, y in zip(s, t, strict=True)))
    loss = hidden_cosine(hidden_s, hidden_t, cls_mask(MASK, at_end=False))
    torch.testing.assert_close(2 * loss, torch.tensor(expected))
    torch.testing.assert_close(
        hidden_cosine(3 * hidden_s, hidden_t, cls_mask(MASK, at_end=False)), loss
    )
    assert not torch.allclose(hidden_cosine(hidden_s, hidden_t, MASK), loss, rtol=1e-2)
