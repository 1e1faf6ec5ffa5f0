from __future__ import annotations

import math

import pytest
import torch

from bertwright.errors import ConfigError
from bertwright.methods.distil.hidden_matching import (
    HiddenMatchingConfig,
    attention_kl,
    attention_mse,
    disable_attention_dropout,
    hidden_cosine,
    hidden_mse,
    layer_map,
    make_projection,
    matched_pairs,
)
from methods.cases import inputs_of, some_batch, tiny_rows, tiny_teacher
from tiny import FAMILY_NAMES

B, L, D, N = 2, 3, 4, 2
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


def random_hidden(seed: int) -> torch.Tensor:
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(seed))


def random_attention(seed: int, mask: torch.Tensor = MASK) -> torch.Tensor:
    """Rows over real keys only, as models give them."""
    scores = torch.randn(B, N, L, L, generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(mask[:, None, None, :] == 0, -torch.inf).softmax(dim=3)


@pytest.mark.parametrize(
    ("rule", "student", "teacher", "expected"),
    [
        ("uniform", 4, 12, (3, 6, 9, 12)),
        ("uniform", 6, 12, (2, 4, 6, 8, 10, 12)),
        ("uniform", 6, 24, (4, 8, 12, 16, 20, 24)),
        ("uniform", 1, 6, (6,)),
        ("uniform", 4, 6, (2, 3, 5, 6)),
        ("last", 3, 12, (10, 11, 12)),
        ((2, 4, 6, 8, 10, 0), 6, 12, (2, 4, 6, 8, 10, 0)),
    ],
)
def test_layer_map(rule, student, teacher, expected):
    assert layer_map(rule, student, teacher) == expected


@pytest.mark.parametrize("rule", [(1, 2), (1, 2, 13), (0, 0, 0), "every"])
def test_maps_that_do_not_fit_are_refused(rule):
    with pytest.raises(ConfigError, match="--layers"):
        layer_map(rule, 3, 12)


def test_deeper_students_need_an_explicit_map():
    with pytest.raises(ConfigError, match="only 2"):
        layer_map("uniform", 3, 2)
    assert layer_map((1, 1, 2), 3, 2) == (1, 1, 2)


def test_unmatched_layers_leave_the_pairs():
    assert matched_pairs(HiddenMatchingConfig(layers=(0, 3)), 2, 4) == ((2, 3),)


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


def test_projection_is_seeded_and_touches_no_global_state():
    first, second = make_projection(312, 768, 3), make_projection(312, 768, 3)
    assert first.weight.shape == (768, 312) and first.bias is None
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, make_projection(312, 768, 4).weight)
    assert first.weight.std().item() == pytest.approx(312**-0.5, rel=0.02)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_attention_dropout_is_off_in_every_family(family):
    rate = {
        "distilbert": "attention_dropout",
        "modernbert": "attention_dropout",
        "bart": "attention_dropout",
        "xlnet": "dropout",
    }.get(family, "attention_probs_dropout_prob")
    model = tiny_teacher(family, **{rate: 0.5})
    batch = some_batch(tiny_rows(model))
    real = batch["attention_mask"].bool()

    def largest_gap() -> float:
        model.train()
        with torch.no_grad():
            maps = model(**inputs_of(batch), output_attentions=True).attentions
        assert maps is not None and len(maps) == 4
        sums = torch.stack([m.sum(dim=3) for m in maps])  # [K, B, N, L]
        return (sums - 1).abs()[real[None, :, None, :].expand_as(sums)].max().item()

    assert largest_gap() > 0.1
    before = disable_attention_dropout(model.encoder)
    assert largest_gap() < 1e-4
    assert before and all(rate == 0.5 for _, _, rate in before)


def test_options_out_of_range():
    with pytest.raises(ConfigError, match="--attention-weight"):
        HiddenMatchingConfig(hidden_weight=0)
    with pytest.raises(ConfigError, match="--hidden-weight"):
        HiddenMatchingConfig(hidden_weight=-1)
