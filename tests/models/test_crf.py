"""The CRF against the enumeration of all paths, on cases small enough for it."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from bertwright.errors import UsageError
from bertwright.models.heads.crf import (
    LinearChainCRF,
    allowed_transitions,
    crf_log_likelihood,
    marginals,
    viterbi_decode,
    viterbi_numpy,
)

NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


class Case(NamedTuple):
    emissions: Tensor
    tags: Tensor
    mask: Tensor
    start: Tensor
    transitions: Tensor
    end: Tensor

    @property
    def scores(self):
        return self.start, self.transitions, self.end


def make_case(seed, batch=4, length=5, num_tags=3, dtype=torch.float64, mask=None):
    """Scores from N(0, 2²); every row has a step of its own that is certainly unmasked."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    if mask is None:
        mask = torch.rand(batch, length, generator=generator) < 0.6
        sure = torch.randint(length, (batch, 1), generator=generator)
        mask = mask.scatter(1, sure, True)
    batch, length = mask.shape
    tags = torch.randint(num_tags, (batch, length), generator=generator).masked_fill(~mask, -100)
    emissions = draw(batch, length, num_tags)
    return Case(emissions, tags, mask, draw(num_tags), draw(num_tags, num_tags), draw(num_tags))


def random_case(seed):
    """A case whose sizes depend on the seed too: T up to 4, L up to 5."""
    return make_case(seed, length=1 + seed % 5, num_tags=1 + seed % 4)


SEEDS = range(20)


def score_of(case, row, steps, path):
    total = float(case.start[path[0]]) + float(case.end[path[-1]])
    total += sum(float(case.emissions[row, i, y]) for i, y in zip(steps, path, strict=True))
    return total + sum(float(case.transitions[a, b]) for a, b in itertools.pairwise(path))


def enumerate_row(case, row):
    """Return the unmasked steps of a row, and the probability of every path through them."""
    steps = case.mask[row].nonzero()[:, 0].tolist()
    paths = list(itertools.product(range(len(case.start)), repeat=len(steps)))
    weights = np.exp([score_of(case, row, steps, path) for path in paths])
    return steps, dict(zip(paths, weights / weights.sum(), strict=True))


def assert_likelihood_is_enumerated(case, function=crf_log_likelihood):
    found = function(*case)
    expected = []
    for row in range(len(case.tags)):
        steps, probabilities = enumerate_row(case, row)
        expected.append(np.log(probabilities[tuple(case.tags[row, steps].tolist())]))
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-9)


def assert_marginals_are_enumerated(case, function=marginals):
    expected = np.zeros(case.emissions.shape)
    for row in range(len(case.tags)):
        steps, probabilities = enumerate_row(case, row)
        for path, probability in probabilities.items():
            for step, tag in zip(steps, path, strict=True):
                expected[row, step, tag] += probability
    found = function(case.emissions, case.mask, *case.scores)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(found.sum(dim=2).numpy(), case.mask.numpy(), atol=1e-12)
    assert (found[~case.mask] == 0).all()


def assert_best_is_enumerated(case, function=viterbi_decode):
    found = function(case.emissions, case.mask, *case.scores)
    expected = []
    for row in range(len(case.tags)):
        _, probabilities = enumerate_row(case, row)
        expected.append(list(max(probabilities, key=probabilities.__getitem__)))
    assert found == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_equal_to_the_enumeration_of_all_paths(seed):
    case = random_case(seed)
    assert_likelihood_is_enumerated(case)
    assert_marginals_are_enumerated(case)
    assert_best_is_enumerated(case)


def test_the_cases_have_holes_and_the_numbers_are_no_trifles():
    masks = [random_case(seed).mask for seed in SEEDS]
    holes = [(m[:, 1:] & ~m[:, :-1]).any().item() for m in masks]
    assert sum(holes) >= 10
    losses = torch.cat([-crf_log_likelihood(*random_case(seed)) for seed in SEEDS])
    assert losses.isfinite().all() and losses.median() > 1


def test_transposed_transitions_are_rejected():
    case = make_case(1, num_tags=4)

    def transposed(function):
        return lambda *args: function(*args[:-2], args[-2].T, args[-1])

    with pytest.raises(AssertionError):
        assert_likelihood_is_enumerated(case, transposed(crf_log_likelihood))
    with pytest.raises(AssertionError):
        assert_marginals_are_enumerated(case, transposed(marginals))
    with pytest.raises(AssertionError):
        assert_best_is_enumerated(case, transposed(viterbi_decode))


@pytest.mark.parametrize("seed", range(4))
def test_probabilities_of_all_paths_sum_to_one(seed):
    case = make_case(seed, batch=1, length=4, num_tags=4)
    steps = case.mask[0].nonzero()[:, 0]
    paths = torch.cartesian_prod(*[torch.arange(4)] * len(steps)).view(-1, len(steps))
    tags = torch.full((len(paths), 4), -100)
    tags[:, steps] = paths
    emissions = case.emissions.expand(len(paths), -1, -1)
    found = crf_log_likelihood(emissions, tags, case.mask.expand(len(paths), -1), *case.scores)
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_marginals_are_the_gradient_of_the_log_partition():
    case = make_case(7, batch=6, num_tags=4)
    emissions = case.emissions.clone().requires_grad_()
    crf_log_likelihood(emissions, *case[1:]).sum().backward()
    picked = torch.nn.functional.one_hot(case.tags.clamp(min=0), 4) * case.mask[..., None]
    assert emissions.grad is not None
    expected = picked - emissions.grad
    torch.testing.assert_close(marginals(case.emissions, case.mask, *case.scores), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_and_numpy_decode_the_same(dtype):
    for seed in range(10):
        case = make_case(seed, batch=16, length=30, num_tags=9, dtype=dtype)
        arrays = [t.numpy() for t in (case.emissions, case.mask, *case.scores)]
        found = viterbi_numpy(*arrays)
        assert found == viterbi_decode(case.emissions, case.mask, *case.scores)
        assert [len(row) for row in found] == case.mask.sum(dim=1).tolist()
        assert len({tag for row in found for tag in row}) > 3


def test_gradients():
    case = make_case(3, batch=3, length=4)
    case.mask[0], case.tags[0] = False, -100
    inputs = [t.requires_grad_() for t in (case.emissions, *case.scores)]

    def loss(emissions, start, transitions, end):
        return crf_log_likelihood(emissions, case.tags, case.mask, start, transitions, end)

    def posterior(emissions, start, transitions, end):
        return marginals(emissions, case.mask, start, transitions, end)

    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradcheck(posterior, inputs)


@pytest.mark.parametrize("value", [1e6, -1e6, float("nan"), float("inf")])
def test_masked_steps_do_not_count(value):
    case = make_case(5, batch=8)
    assert (~case.mask).sum() > 5
    other = case._replace(
        emissions=case.emissions.masked_fill(~case.mask[..., None], value).requires_grad_(),
        tags=case.tags.masked_fill(~case.mask, 2),
    )
    found = crf_log_likelihood(*other)
    assert torch.equal(found, crf_log_likelihood(*case))
    found.sum().backward()
    assert other.emissions.grad is not None
    assert (other.emissions.grad[~case.mask] == 0).all()
    assert (other.emissions.grad[case.mask] != 0).all()
    inputs = other.emissions.detach(), other.mask, *other.scores
    assert torch.equal(marginals(*inputs), marginals(case.emissions, case.mask, *case.scores))
    best = viterbi_decode(case.emissions, case.mask, *case.scores)
    assert viterbi_decode(*inputs) == viterbi_numpy(*[t.numpy() for t in inputs]) == best


def test_a_mask_with_holes_is_the_row_without_them():
    case = make_case(2, batch=1, mask=torch.tensor([[False, True, False, True, True]]))
    steps = [1, 3, 4]
    short = case._replace(
        emissions=case.emissions[:, steps], tags=case.tags[:, steps], mask=case.mask[:, steps]
    )
    assert torch.equal(crf_log_likelihood(*case), crf_log_likelihood(*short))


def test_rows_without_a_step():
    case = make_case(0, num_tags=3, mask=torch.tensor([[True, False], [False, False]]))
    case.emissions.requires_grad_()
    found = crf_log_likelihood(*case)
    assert found[0] < 0 and found[1] == 0
    found.sum().backward()
    assert case.emissions.grad is not None and (case.emissions.grad[1] == 0).all()
    inputs = case.emissions.detach(), case.mask, *case.scores
    assert (marginals(*inputs)[1] == 0).all()
    decoded = viterbi_decode(*inputs)
    assert decoded[1] == [] and len(decoded[0]) == 1
    assert viterbi_numpy(*[t.numpy() for t in inputs]) == decoded
    nothing = torch.zeros_like(case.mask)
    assert (crf_log_likelihood(*case._replace(mask=nothing)) == 0).all()
    assert viterbi_decode(inputs[0], nothing, *case.scores) == [[], []]


def test_one_step_is_a_softmax():
    case = make_case(4, length=1, num_tags=4)
    logits = case.emissions[:, 0] + case.start + case.end
    expected = torch.log_softmax(logits, dim=1).gather(1, case.tags)[:, 0]
    torch.testing.assert_close(crf_log_likelihood(*case), expected)
    decoded = viterbi_decode(case.emissions, case.mask, *case.scores)
    assert decoded == logits.argmax(dim=1, keepdim=True).tolist()


def test_among_equals_the_lowest_tag_wins():
    mask = torch.tensor([[True, True, False, True], [False, True, False, False]])
    zeros = [torch.zeros(2, 4, 3), mask, torch.zeros(3), torch.zeros(3, 3), torch.zeros(3)]
    assert viterbi_decode(*zeros) == [[0, 0, 0], [0]]
    assert viterbi_numpy(*[t.numpy() for t in zeros]) == [[0, 0, 0], [0]]
    only = [torch.zeros(1, 3, 1), torch.ones(1, 3, dtype=torch.bool), *[torch.zeros(1)] * 3]
    only[3] = torch.zeros(1, 1)
    assert viterbi_decode(*only) == [[0, 0, 0]]
    likelihood = crf_log_likelihood(only[0], torch.zeros(1, 3, dtype=torch.int64), *only[1:])
    assert likelihood.item() == 0


def test_a_batch_equals_its_rows_alone():
    case = make_case(6, batch=8, length=40, num_tags=7, dtype=torch.float32)
    together = crf_log_likelihood(*case)
    posterior = marginals(case.emissions, case.mask, *case.scores)
    decoded = viterbi_decode(case.emissions, case.mask, *case.scores)
    for row in range(8):
        only = slice(row, row + 1)
        alone = crf_log_likelihood(
            case.emissions[only], case.tags[only], case.mask[only], *case.scores
        )
        torch.testing.assert_close(alone, together[only], atol=1e-4, rtol=1e-6)
        inputs = case.emissions[only], case.mask[only], *case.scores
        torch.testing.assert_close(marginals(*inputs), posterior[only], atol=1e-6, rtol=1e-5)
        assert viterbi_decode(*inputs) == decoded[only]


def test_half_precision_emissions_are_summed_in_fp32():
    case = make_case(8, batch=4, length=64, num_tags=5, dtype=torch.float32)
    half = case._replace(emissions=case.emissions.bfloat16())
    expected = crf_log_likelihood(*half._replace(emissions=half.emissions.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = crf_log_likelihood(*half)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert not torch.equal(found, crf_log_likelihood(*case))
    assert crf_log_likelihood(*make_case(8)).dtype == torch.float64


def breaks_iob2(names):
    """Say whether an I-X is first or follows neither B-X nor I-X; apart from the code under test"""
    before = "O"
    for name in names:
        if name[0] == "I" and before not in ("B" + name[1:], name):
            return True
        before = name
    return False


def test_what_iob2_allows():
    start, transitions, end = allowed_transitions(["O", "B-PER", "I-PER", "B-LOC"])
    assert start.tolist() == [True, True, False, True]
    assert transitions.tolist() == [
        [True, True, False, True],
        [True, True, True, True],
        [True, True, True, True],
        [True, True, False, True],
    ]
    assert end.all() and end.dtype == start.dtype == transitions.dtype == torch.bool
    dashed = allowed_transitions(["B-a-b", "I-a-b", "B-b", "I-b"])[1]
    assert dashed[:, 1].tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["O", "PER"], "'PER' is not of IOB2"),
        (["O", "E-PER"], "'E-PER' is not of IOB2"),
        (["O", "B-"], "'B-' is not of IOB2"),
        (["O", "I-PER"], "needs the tag 'B-PER'"),
        (["O"], "1 tag names for 2 tags"),
    ],
)
def test_names_that_are_not_of_iob2(names, message):
    with pytest.raises(UsageError, match=message):
        LinearChainCRF(2, names)


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e6])
def test_forbidden_steps_are_never_decoded(scale):
    torch.manual_seed(0)
    crf = LinearChainCRF(5, NAMES)
    free = LinearChainCRF(5)
    emissions = scale * torch.randn(50, 12, 5)
    emissions[..., [2, 4]] += 3 * scale
    emissions[0] = torch.tensor([-scale, -scale, scale, -scale, scale])
    mask = torch.rand(50, 12) < 0.7
    decoded = [[NAMES[tag] for tag in row] for row in crf.decode(emissions, mask)]
    assert not any(breaks_iob2(row) for row in decoded)
    assert any(name[0] == "I" for row in decoded for name in row)
    unruled = [[NAMES[tag] for tag in row] for row in free.decode(emissions, mask)]
    assert sum(breaks_iob2(row) for row in unruled) > 40
    arrays = [t.detach().numpy() for t in (emissions, mask, *crf.scores())]
    assert [[NAMES[tag] for tag in row] for row in viterbi_numpy(*arrays)] == decoded


def test_the_rules_take_all_probability_from_forbidden_paths():
    torch.manual_seed(0)
    crf = LinearChainCRF(5, NAMES)
    paths = list(itertools.product(range(5), repeat=3))
    legal = torch.tensor([not breaks_iob2([NAMES[tag] for tag in path]) for path in paths])
    assert 20 < legal.sum() < 100
    emissions = torch.randn(1, 3, 5).expand(125, -1, -1).clone().requires_grad_()
    loss = crf(emissions, torch.tensor(paths), torch.ones(125, 3, dtype=torch.bool))
    assert loss.isfinite().all()
    assert (-loss[legal]).exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert (loss[~legal] > 1e8).all()
    loss.sum().backward()
    for tensor in (emissions, *crf.parameters()):
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.any()


def test_the_module_is_the_functions_with_its_scores():
    torch.manual_seed(0)
    crf = LinearChainCRF(5, NAMES)
    assert sorted(name for name, _ in crf.named_parameters()) == ["end", "start", "transitions"]
    values = torch.cat([p.detach().flatten() for p in crf.parameters()])
    assert 0.05 < values.abs().max() <= 0.1
    case = make_case(0, num_tags=5, dtype=torch.float32)
    expected = -crf_log_likelihood(*case[:3], *crf.scores())
    assert torch.equal(crf(*case[:3]), expected)
    other = LinearChainCRF(5)
    other.load_state_dict(crf.state_dict())
    assert torch.equal(other(*case[:3]), expected)


def test_parts_of_a_row_start_from_the_tag_before_them_and_end_where_it_goes_on():
    torch.manual_seed(0)
    crf = LinearChainCRF(5, NAMES).double()
    case = make_case(3, batch=6, num_tags=5, length=3)
    before = torch.tensor([-100, 0, 1, 2, 3, -100])
    goes_on = torch.tensor([0, 0, 1, 1, 0, 1])
    found = crf(*case[:3], before=before, goes_on=goes_on).detach()
    start, transitions, end = (scores.detach() for scores in crf.scores())
    for row in range(6):
        begun = start if before[row] < 0 else transitions[before[row]]
        ended = torch.zeros(5) if goes_on[row] else end
        alone = Case(*(t[row : row + 1] for t in case[:3]), begun, transitions, ended.double())
        steps, probabilities = enumerate_row(alone, 0)
        path = tuple(alone.tags[0, steps].tolist())
        likely = probabilities[path]
        if likely > 1e-200:
            assert float(found[row]) == pytest.approx(-np.log(likely), rel=1e-6)
        else:
            assert float(found[row]) > 1e6
    whole = crf(*case[:3], before=torch.full((6,), -100), goes_on=torch.zeros(6))
    assert torch.equal(whole, crf(*case[:3]))


def test_it_learns_what_only_the_order_of_tags_tells():
    torch.manual_seed(0)
    crf = LinearChainCRF(2)
    tags = torch.tensor([[0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0]])
    mask = torch.ones_like(tags, dtype=torch.bool)
    emissions = torch.zeros(2, 6, 2)
    emissions[:, 0] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    optimizer = torch.optim.Adam(crf.parameters(), lr=0.1)
    for _ in range(40):
        optimizer.zero_grad()
        loss = crf(emissions, tags, mask).mean()
        loss.backward()
        optimizer.step()
    assert crf.decode(emissions, mask) == tags.tolist()
