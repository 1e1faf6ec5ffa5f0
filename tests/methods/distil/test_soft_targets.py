from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bertwright.errors import ConfigError
from bertwright.methods.distil.soft_targets import (
    SoftTargets,
    SoftTargetsConfig,
    entropy_temperature,
    mix_losses,
    number_matching_loss,
    soft_labels_loss,
    soft_places_loss,
    soft_target_loss,
    vector_matching_loss,
)

Z_T = [[2.0, 1.0, 0.0], [0.5, -1.0, 3.0]]
Z_S = [[1.0, 1.0, 1.0], [2.0, 0.0, -1.0]]


def kl_by_loops(z_s, z_t, temperature: float) -> list[float]:
    """T² KL in plain Python, one number at a time."""
    losses = []
    for row_s, row_t in zip(z_s, z_t, strict=True):
        p_s = [math.exp(z / temperature) for z in row_s]
        p_t = [math.exp(z / temperature) for z in row_t]
        p_s = [p / sum(p_s) for p in p_s]
        p_t = [p / sum(p_t) for p in p_t]
        kl = sum(t * (math.log(t) - math.log(s)) for s, t in zip(p_s, p_t, strict=True))
        losses.append(temperature**2 * kl)
    return losses


def random_logits(rows: int = 5, classes: int = 7, seed: int = 0, scale: float = 3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


def entropy_of(probabilities: torch.Tensor) -> torch.Tensor:
    return -torch.xlogy(probabilities, probabilities).sum(dim=-1)


def test_hand_computed_case():
    # Teacher e²:e:1 = .665241 .244728 .090031, H = .832396; student uniform: KL = ln 3 - H.
    loss = soft_target_loss(torch.tensor(Z_S), torch.tensor(Z_T), 1.0)
    assert loss.shape == (2,)
    assert loss[0].item() == pytest.approx(1.098612 - 0.832396, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_agrees_with_loops_and_rejects_other_meanings(temperature):
    logits_s, logits_t = torch.tensor(Z_S), torch.tensor(Z_T)
    expected = np.array(kl_by_loops(Z_S, Z_T, temperature))
    assert np.all(expected > 0.05)
    loss = soft_target_loss(logits_s, logits_t, temperature).numpy()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    reversed_loss = soft_target_loss(logits_t, logits_s, temperature).numpy()
    divided_by_classes = loss / 3
    for wrong in (reversed_loss, divided_by_classes):
        assert not np.allclose(wrong, expected, rtol=1e-2)
    if temperature != 1:
        assert not np.allclose(loss / temperature**2, expected, rtol=1e-2)


def test_equal_logits_give_zero_loss_and_zero_gradient():
    logits_t = random_logits()
    logits_s = logits_t.clone().requires_grad_()
    loss = soft_target_loss(logits_s, logits_t, 3.0)
    loss.sum().backward()
    assert logits_s.grad is not None
    assert loss.abs().max() < 1e-12
    assert logits_s.grad.abs().max() < 1e-12


def test_gradient_is_t_times_the_difference_and_agrees_with_finite_differences():
    logits_s, logits_t = random_logits(seed=1).requires_grad_(), random_logits(seed=2)
    temperature = 2.5
    soft_target_loss(logits_s, logits_t, temperature).sum().backward()
    p_s = torch.softmax(logits_s.detach() / temperature, 1)
    p_t = torch.softmax(logits_t / temperature, 1)
    expected = temperature * (p_s - p_t)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(logits_s.grad, expected)
    assert torch.autograd.gradcheck(lambda z: soft_target_loss(z, logits_t, 2.5), [logits_s])


def test_at_high_temperature_it_matches_logits():
    logits_s, logits_t = random_logits(seed=1, scale=1), random_logits(seed=2, scale=1)
    logits_s = (logits_s - logits_s.mean(1, keepdim=True)).requires_grad_()
    logits_t = logits_t - logits_t.mean(1, keepdim=True)
    soft_target_loss(logits_s, logits_t, 1e3).sum().backward()
    assert logits_s.grad is not None
    matching = (logits_s.detach() - logits_t) / 7
    assert (logits_s.grad - matching).norm() < 1e-2 * matching.norm()


def test_order_of_classes_does_not_matter_if_it_is_the_same():
    logits_s, logits_t = random_logits(seed=1), random_logits(seed=2)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    loss = soft_target_loss(logits_s, logits_t, 2.0)
    torch.testing.assert_close(soft_target_loss(logits_s[:, order], logits_t[:, order], 2.0), loss)
    assert not torch.allclose(soft_target_loss(logits_s[:, order], logits_t, 2.0), loss, rtol=1e-2)


def test_temperatures_of_their_own():
    logits_s, logits_t = random_logits(seed=1), random_logits(seed=2)
    temperatures = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0])
    loss = soft_target_loss(logits_s, logits_t, temperatures)
    for i, temperature in enumerate(temperatures.tolist()):
        alone = soft_target_loss(logits_s[i : i + 1], logits_t[i : i + 1], temperature)
        torch.testing.assert_close(loss[i : i + 1], alone)


def test_half_precision_is_computed_in_full():
    logits_s, logits_t = random_logits(seed=1).bfloat16(), random_logits(seed=2).bfloat16()
    loss = soft_target_loss(logits_s, logits_t, 2.0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, soft_target_loss(logits_s.float(), logits_t.float(), 2.0))


def test_an_excluded_class_costs_nothing():
    logits_t = torch.tensor([[1.0, 0.0, -torch.inf]])
    loss = soft_target_loss(torch.tensor([[1.0, 0.0, -50.0]]), logits_t, 1.0)
    assert loss.isfinite().all()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_bad_arguments():
    logits = random_logits()
    with pytest.raises(ValueError, match="above 0"):
        soft_target_loss(logits, logits, 0.0)
    with pytest.raises(ValueError, match="differ"):
        soft_target_loss(logits, logits[:, :3], 1.0)


def unit_vectors(rows: int = 6, width: int = 5, seed: int = 0):
    return torch.nn.functional.normalize(random_logits(rows, width, seed), dim=1).float()


def test_vectors_are_matched_by_two_minus_two_cosines():
    vectors_s, vectors_t = unit_vectors(seed=1), unit_vectors(seed=2)
    loss = vector_matching_loss(vectors_s, vectors_t)
    expected = [
        2 - 2 * sum(a * b for a, b in zip(row_s, row_t, strict=True))
        for row_s, row_t in zip(vectors_s.tolist(), vectors_t.tolist(), strict=True)
    ]
    assert loss.shape == (6,) and min(expected) > 0.05
    np.testing.assert_allclose(loss.numpy(), expected, atol=1e-6)
    for wrong in (loss / 5, loss.sqrt(), 1 - (vectors_s * vectors_t).sum(dim=1)):
        assert not np.allclose(wrong.numpy(), expected, rtol=1e-2)
    # the same, at a right angle, opposite
    east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    ends = [vector_matching_loss(east, other).item() for other in (east, north, -east)]
    assert ends == [0.0, 2.0, 4.0]


def test_only_the_student_learns_from_vectors_and_by_their_difference():
    vectors_s, vectors_t = unit_vectors(seed=1), unit_vectors(seed=2)
    vectors_s.requires_grad_()
    vectors_t.requires_grad_()
    vector_matching_loss(vectors_s, vectors_t).sum().backward()
    assert vectors_t.grad is None and vectors_s.grad is not None
    difference = 2 * (vectors_s - vectors_t).detach()
    assert difference.abs().max() > 0.1
    torch.testing.assert_close(vectors_s.grad, difference)
    same = vectors_t.detach().clone().requires_grad_()
    vector_matching_loss(same, vectors_t).sum().backward()
    assert same.grad is not None and same.grad.abs().max() == 0


def test_vectors_of_half_precision_are_compared_in_full():
    vectors_s, vectors_t = unit_vectors(seed=1).bfloat16(), unit_vectors(seed=2).bfloat16()
    loss = vector_matching_loss(vectors_s, vectors_t)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, vector_matching_loss(vectors_s.float(), vectors_t.float()))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_labels_that_do_not_exclude_each_other_are_choices_between_two(temperature):
    logits_s, logits_t = random_logits(seed=1), random_logits(seed=2)
    pairs = [
        [
            kl_by_loops([[s, 0.0]], [[t, 0.0]], temperature)[0]
            for s, t in zip(row_s, row_t, strict=True)
        ]
        for row_s, row_t in zip(logits_s.tolist(), logits_t.tolist(), strict=True)
    ]
    found = soft_labels_loss(logits_s, logits_t, temperature)
    np.testing.assert_allclose(found, [np.mean(row) for row in pairs], rtol=1e-6)
    assert soft_labels_loss(logits_t, logits_t, temperature).abs().max() < 1e-12


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_places_are_distributions_over_the_real_tokens(temperature):
    generator = torch.Generator().manual_seed(0)
    logits_s, logits_t = (torch.randn(3, 6, 2, generator=generator) for _ in range(2))
    lengths = [6, 4, 1]
    real = torch.tensor([[place < length for place in range(6)] for length in lengths])
    expected = []
    for row, length in enumerate(lengths):
        starts_and_ends = [
            kl_by_loops(
                [logits_s[row, :length, output].tolist()],
                [logits_t[row, :length, output].tolist()],
                temperature,
            )[0]
            for output in range(2)
        ]
        expected.append(sum(starts_and_ends) / 2)
    found = soft_places_loss(logits_s, logits_t, real, temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    changed = logits_s.masked_fill(~real[..., None], 50.0)
    torch.testing.assert_close(soft_places_loss(changed, logits_t, real, temperature), found)


def test_numbers_are_matched_in_deviations_of_the_targets():
    outputs_s, outputs_t = random_logits(4, 2, seed=3), random_logits(4, 2, seed=4)
    spread = torch.tensor([2.0, 0.5])
    expected = [
        sum(((s - t) / unit) ** 2 for s, t, unit in zip(row_s, row_t, [2.0, 0.5], strict=True)) / 2
        for row_s, row_t in zip(outputs_s.tolist(), outputs_t.tolist(), strict=True)
    ]
    found = number_matching_loss(outputs_s, outputs_t, spread)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert number_matching_loss(outputs_t, outputs_t, spread).tolist() == [0.0] * 4


def test_mix_ends_are_the_parts_themselves():
    hard, soft = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 9.0])
    assert mix_losses(hard, soft, 0.0) is hard
    assert mix_losses(hard, soft, 1.0) is soft
    torch.testing.assert_close(mix_losses(hard, soft, 0.25), torch.tensor([2.0, 3.75]))


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.74, 0.9, 0.99])
def test_entropy_is_met_and_order_kept(share):
    logits = random_logits(rows=50, classes=40)
    wanted = share * math.log(40)
    gamma = entropy_temperature(logits, wanted)
    q = torch.softmax(gamma.unsqueeze(1) * logits, dim=1)
    assert (gamma > 0).all()
    assert (entropy_of(q) - wanted).abs().max() < 1e-8
    assert torch.equal(q.argmax(1), logits.argmax(1))
    assert not torch.allclose(entropy_of(torch.softmax(logits, 1)), torch.tensor(wanted).double())


def test_own_entropy_is_the_identity():
    logits = random_logits(rows=8)
    gamma = entropy_temperature(logits, entropy_of(torch.softmax(logits, 1)))
    torch.testing.assert_close(gamma, torch.ones(8, dtype=torch.float64), atol=1e-9, rtol=0)


def newton_by_the_book(scores: np.ndarray, wanted: float, steps: int = 20) -> float:
    """The unsafe iteration: gamma += (H - H*) / (gamma Var), from 1, without a bracket."""
    gamma = 1.0
    for _ in range(steps):
        q = np.exp(gamma * scores - np.max(gamma * scores))
        q /= q.sum()
        entropy = -(q * np.log(q)).sum()
        variance = (q * (scores - (q * scores).sum()) ** 2).sum()
        gamma += (entropy - wanted) / (gamma * variance)
    return gamma


def test_plain_newton_fails_where_the_bracket_does_not():
    rng = np.random.default_rng(0)
    reversed_order = 0
    for _ in range(20):
        scores = rng.normal(size=100) * 4
        with np.errstate(all="ignore"):
            unsafe = newton_by_the_book(scores, 0.9 * math.log(100))
        safe = entropy_temperature(torch.tensor(scores)[None], 0.9 * math.log(100)).item()
        assert 0 < safe < 1
        reversed_order += not unsafe > 0
    assert reversed_order > 0


def test_near_uniform_scores_can_be_sharpened():
    logits = 1e-3 * random_logits(rows=4, classes=30)
    gamma = entropy_temperature(logits, 0.2 * math.log(30))
    q = torch.softmax(gamma.unsqueeze(1) * logits, 1)
    assert (entropy_of(q) - 0.2 * math.log(30)).abs().max() < 1e-8


def test_uniform_and_infeasible_targets():
    uniform = torch.full((1, 4), 2.5)
    assert entropy_temperature(uniform, 0.5).item() == 1.0
    tie = torch.tensor([[1.0, 1.0, 0.0]])
    high = entropy_temperature(tie, 0.5 * math.log(2))  # below log k, k = 2
    low = entropy_temperature(tie, 2 * math.log(3))  # above log C
    assert high.isfinite().all() and high > 1e6
    assert low.isfinite().all() and 0 < low < 1e-6


def test_excluded_classes_are_not_in_the_support():
    open_logits = torch.tensor([[2.0, 0.3, -1.0]], dtype=torch.float64)
    padded = torch.tensor([[2.0, -torch.inf, 0.3, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(
        entropy_temperature(padded, 0.8), entropy_temperature(open_logits, 0.8)
    )


def test_batch_equals_rows_one_by_one_and_has_the_implicit_gradient():
    logits = random_logits(rows=4, classes=5).requires_grad_()
    wanted = torch.tensor([0.4, 0.8, 1.1, 1.5], dtype=torch.float64, requires_grad=True)
    together = entropy_temperature(logits, wanted)
    alone = [entropy_temperature(logits[i : i + 1], wanted[i]) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert torch.autograd.gradcheck(entropy_temperature, [logits, wanted], atol=1e-6)


def test_hook_gives_every_soft_target_the_entropy_within_the_limits():
    hook = SoftTargets(SoftTargetsConfig(entropy=0.4), teacher=None)  # type: ignore[arg-type]
    logits = random_logits(rows=30, classes=10, scale=4.0)
    temperatures = hook.temperatures(logits)
    assert isinstance(temperatures, torch.Tensor)
    q = torch.softmax(logits / temperatures.double().unsqueeze(1), 1)
    torch.testing.assert_close(
        entropy_of(q), torch.full((30,), 0.4 * math.log(10)).double(), atol=1e-4, rtol=0
    )
    sure = torch.tensor([[1000.0, 0.0, 0.0]])
    assert hook.temperatures(sure).item() == 20.0  # type: ignore[union-attr]


def test_schedule():
    joint = SoftTargets(SoftTargetsConfig(alpha=0.3), teacher=None)  # type: ignore[arg-type]
    assert [joint.alpha_at(step, 10) for step in (0, 9)] == [0.3, 0.3]
    config = SoftTargetsConfig(schedule="soft-then-hard", soft_share=0.7)
    phased = SoftTargets(config, teacher=None)  # type: ignore[arg-type]
    assert [phased.alpha_at(step, 10) for step in range(10)] == [1.0] * 7 + [0.0] * 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 0.0), ("alpha", 1.5), ("entropy", 1.0), ("soft_share", 0.0)],
)
def test_options_out_of_range_are_named(field, value):
    with pytest.raises(ConfigError, match="--" + field.replace("_", "-")):
        SoftTargetsConfig(**{field: value})
