from __future__ import annotations

import pytest
import torch
from torch import nn

from bertwright.errors import ConfigError
from bertwright.training.config import TrainingConfig
from bertwright.training.optim import build_optimizer, parameter_groups
from tiny import FAMILY_NAMES, tiny_encoder


class OddNorm(nn.Module):
    """A norm of our own, with a name for its weight that no list knows."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.norm1 = nn.LayerNorm(4)
        self.rms = nn.RMSNorm(4)
        self.odd = OddNorm()
        self.linear = nn.Linear(4, 4)
        self.raw = nn.Parameter(torch.ones(2, 4, 4))
        self.q_bias = nn.Parameter(torch.zeros(2, 4))
        self.tied = self.linear


def groups_of(*parts, weight_decay=0.1):
    return parameter_groups(parts, lr=1e-3, weight_decay=weight_decay)


def test_decay_is_for_matrices_only():
    net = Net()
    decayed, plain = groups_of(net)
    assert decayed["weight_decay"] == 0.1 and plain["weight_decay"] == 0.0
    names = {id(p): name for name, p in net.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {"embedding.weight", "linear.weight", "raw"}
    assert {names[id(p)] for p in plain["params"]} == {
        *("norm1.weight", "norm1.bias", "rms.weight", "odd.gain", "linear.bias", "q_bias"),
    }


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_parameter_of_every_family_is_in_exactly_one_group(family):
    encoder, _ = (
        tiny_encoder(family, num_hidden_layers=2) if family == "bert" else tiny_encoder(family)
    )
    groups = groups_of(encoder)
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in encoder.parameters() if p.requires_grad}
    decayed = {id(p) for p in groups[0]["params"]}
    assert len(decayed) > 5
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias") or "norm" in name.lower():
            assert id(parameter) not in decayed, name


def test_frozen_parameters_and_empty_groups_are_left_out():
    linear = nn.Linear(3, 3)
    linear.bias.requires_grad = False
    (group,) = groups_of(linear)
    assert group["params"] == [linear.weight]
    linear.weight.requires_grad = False
    with pytest.raises(ConfigError, match="frozen"):
        groups_of(linear)


def test_extra_modules_and_single_parameters_join_once():
    linear, vector = nn.Linear(3, 3), nn.Parameter(torch.ones(3))
    matrix = nn.Parameter(torch.ones(3, 3))
    decayed, plain = groups_of(linear, vector, matrix, linear)
    assert len(decayed["params"]) == 2 and len(plain["params"]) == 2
    assert plain["params"][1] is vector and decayed["params"][1] is matrix


def adamw_by_hand(theta, grads, *, lr, betas, eps, decay, correct=True):
    """Loshchilov & Hutter 2019, algorithm 2, in float64."""
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    for t, g in enumerate(grads, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        m_hat = m / (1 - betas[0] ** t) if correct else m
        v_hat = v / (1 - betas[1] ** t) if correct else v
        theta = theta - lr * (m_hat / (v_hat.sqrt() + eps) + decay * theta)
    return theta


def run_optimizer(start, grads, config):
    linear = nn.Linear(*reversed(start.shape), bias=False, dtype=start.dtype)
    with torch.no_grad():
        linear.weight.copy_(start)
    optimizer = build_optimizer([linear], config)
    for grad in grads:
        linear.weight.grad = grad.clone()
        optimizer.step()
    return linear.weight.detach()


CONFIG = TrainingConfig(lr=1e-2, weight_decay=0.1, adam_beta2=0.98, adam_eps=1e-6)
BY_HAND = {"lr": 1e-2, "betas": (0.9, 0.98), "eps": 1e-6, "decay": 0.1}


def test_adamw_equals_the_paper_and_torch_over_fifty_steps():
    torch.manual_seed(0)
    start = torch.randn(4, 3, dtype=torch.float64)
    grads = [torch.randn(4, 3, dtype=torch.float64) for _ in range(50)]
    ours = run_optimizer(start, grads, CONFIG)
    torch.testing.assert_close(ours, adamw_by_hand(start, grads, **BY_HAND), atol=1e-9, rtol=0)
    reference = nn.Parameter(start.clone())
    plain = torch.optim.AdamW(
        [reference], lr=1e-2, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1, fused=False
    )
    for grad in grads:
        reference.grad = grad.clone()
        plain.step()
    torch.testing.assert_close(ours, reference.detach(), atol=1e-9, rtol=0)
    wrong = adamw_by_hand(start, grads, **BY_HAND, correct=False)
    assert not torch.allclose(ours, wrong, atol=1e-3)


def test_bias_correction_makes_the_first_step_smaller_by_the_square_root_of_ten():
    start, grad = torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 0.3).double()
    config = TrainingConfig(lr=1e-2, weight_decay=0.0, adam_eps=1e-300)
    step = run_optimizer(start, [grad], config)
    uncorrected = adamw_by_hand(
        start, [grad], lr=1e-2, betas=(0.9, 0.999), eps=0.0, decay=0.0, correct=False
    )
    assert (uncorrected / step).item() == pytest.approx(3.1623, abs=1e-4)


def test_decay_alone_shrinks_matrices_and_leaves_norms():
    net = Net()
    optimizer = build_optimizer([net], TrainingConfig(lr=0.1, weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(net.linear.weight, before["linear.weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(net.norm1.weight, before["norm1.weight"])
    assert torch.equal(net.odd.gain, before["odd.gain"])
    assert optimizer.defaults["fused"] is True
