"""Heads that are fitted, and bags of heads, against plain NumPy."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bertwright.errors import ConfigError
from bertwright.models.heads import BagHead, HeadConfig, NeighbourHead, TreesHead, build_head
from bertwright.models.outputs import Outputs


class Shape:
    hidden_size = 4


def neighbours(count=3, kind="classes", k=2):
    head = NeighbourHead(4, Outputs(count, kind=kind))
    vectors = torch.eye(4)
    targets = torch.eye(count)[[0, 0, 1, 1]] if kind == "classes" else torch.arange(4.0)[:, None]
    head.set(vectors=vectors, targets=targets, votes=torch.ones(k))
    return head


def test_neighbours_vote_and_a_class_without_votes_has_a_chance():
    head = neighbours()
    shares = head(torch.tensor([[3.0, 2.0, 0.1, 0.0], [0.0, 0.1, 5.0, 4.0]])).exp()
    expected = torch.tensor([[2 + 1 / 3, 1 / 3, 1 / 3], [1 / 3, 2 + 1 / 3, 1 / 3]]) / 3
    torch.testing.assert_close(shares, expected)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(2))


def test_the_temperature_divides_logits_and_numbers_are_means():
    head = neighbours()
    asked = torch.tensor([[3.0, 2.0, 0.1, 0.0]])
    plain = head(asked)
    head.temperature.fill_(2.0)
    torch.testing.assert_close(head(asked), plain / 2)
    assert neighbours(1, "numbers")(asked).tolist() == [[0.5]]


def tree_by_hand():
    """x0 <= 1 ? (x1 <= 0 ? 10 : 20) : 30, for output 1; and x2 <= 5 ? 1 : 2 for output 0."""
    head = TreesHead(Outputs(2))
    nowhere = list(range(5))
    head.set(
        feature=torch.tensor([[0, 1, 0, 0, 0], [2, 0, 0, 0, 0]]),
        threshold=torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0], [5.0, 0.0, 0.0, 0.0, 0.0]]),
        left=torch.tensor([[1, 3, 2, 3, 4], [1, *nowhere[1:]]]),
        right=torch.tensor([[2, 4, 2, 3, 4], [2, *nowhere[1:]]]),
        value=torch.tensor([[0.0, 0.0, 30.0, 10.0, 20.0], [0.0, 1.0, 2.0, 0.0, 0.0]]),
        adds_to=torch.tensor([1, 0]),
        start=torch.tensor([0.5, 0.25]),
    )
    return head


def test_trees_worked_out_by_hand():
    asked = torch.tensor([[1.0, 0.0, 5.0], [1.0, 0.1, 5.1], [1.1, 0.0, -3.0]])
    expected = [[1.5, 10.25], [2.5, 20.25], [1.5, 30.25]]
    assert tree_by_hand()(asked).tolist() == expected


@pytest.mark.parametrize("make", [neighbours, tree_by_hand])
def test_a_fitted_head_is_loaded_with_the_sizes_it_was_saved_with(make):
    fitted = make()
    empty = type(fitted)(4, fitted.outputs) if make is neighbours else TreesHead(fitted.outputs)
    empty.load_state_dict(fitted.state_dict())
    asked = torch.randn(6, 4)
    assert torch.equal(empty(asked), fitted(asked))
    assert torch.equal(copy.deepcopy(fitted)(asked), fitted(asked))
    with pytest.raises(RuntimeError, match="Missing key"):
        empty.load_state_dict({})


def logits_of(weights):
    head = nn.Linear(3, 2, bias=False)
    head.weight.data = torch.tensor(weights)
    return head


def test_a_bag_averages_probabilities_of_classes_and_numbers():
    asked = torch.randn(5, 3)
    heads = [logits_of([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]), logits_of([[0.0] * 3, [3.0, 0, 0]])]
    given = [head(asked) for head in heads]
    shares = torch.stack([one.softmax(dim=1) for one in given]).mean(dim=0)
    torch.testing.assert_close(BagHead(heads, Outputs(2))(asked).softmax(dim=1), shares)
    yes = torch.stack([one.sigmoid() for one in given]).mean(dim=0)
    torch.testing.assert_close(BagHead(heads, Outputs(2, kind="labels"))(asked).sigmoid(), yes)
    mean = torch.stack(given).mean(dim=0)
    torch.testing.assert_close(BagHead(heads, Outputs(2, kind="numbers"))(asked), mean)


def test_a_bag_of_one_head_twice_is_the_head():
    head = logits_of([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    asked = 50 * torch.randn(5, 3)
    found = BagHead([head, head], Outputs(2))(asked).log_softmax(dim=1)
    torch.testing.assert_close(found, head(asked).log_softmax(dim=1))


def test_heads_are_built_as_their_config_says():
    bag = build_head(Shape, Outputs(3), HeadConfig(head="linear", head_bags=3), width=4)
    assert isinstance(bag, BagHead) and len(bag.heads) == 3
    weights = [head.out.weight for head in bag.heads]
    assert not torch.equal(weights[0], weights[1]), "each starts at its own place"
    assert isinstance(build_head(Shape, Outputs(3), HeadConfig(head="nearest")), NeighbourHead)
    assert isinstance(build_head(Shape, Outputs(3), HeadConfig(head="trees")), TreesHead)


@pytest.mark.parametrize("outputs", [Outputs(0, kind="vectors"), Outputs(3, level="token")])
@pytest.mark.parametrize(
    "config", [HeadConfig(head="trees"), HeadConfig(head="linear", head_bags=2)]
)
def test_vectors_and_tokens_have_no_fitted_head_and_no_bag(outputs, config):
    with pytest.raises(ConfigError, match="one answer a text"):
        build_head(Shape, outputs, config, ["O", "B-x", "I-x"])


def test_a_bag_of_no_heads_is_refused():
    with pytest.raises(ConfigError, match="--head-bags 0"):
        HeadConfig(head_bags=0)
