"""Referees: sums over all classes, the binary logistic, the labels' entropy, a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bertwright.compare.huffman import HierarchicalSoftmax, huffman_paths

COUNTS = {
    "one": [5],
    "two": [3, 9],
    "equal": [4] * 8,
    "skewed": [1, 2, 4, 8, 16, 32, 64],
    "with zeros": [0, 7, 0, 1, 0, 0, 2],
    "many": [1 + (37 * i) % 101 for i in range(60)],
}


def softmax_of(counts: list[int], width: int = 5, **options: bool) -> HierarchicalSoftmax:
    torch.manual_seed(0)
    softmax = HierarchicalSoftmax(counts, width, **options)
    torch.nn.init.normal_(softmax.theta.weight)
    return softmax


def by_loop(softmax: HierarchicalSoftmax, counts: list[int], h: Tensor) -> Tensor:
    """Return ln P of all classes, one turn after another."""
    table = torch.zeros(len(h), len(counts))
    for row, vector in enumerate(h):
        for label, path in enumerate(huffman_paths(counts)):
            for node, turn in path:
                dot = float(softmax.theta.weight[node].detach() @ vector)
                table[row, label] += math.log(1 / (1 + math.exp(-turn * dot)))
    return table


@pytest.mark.parametrize("name", COUNTS)
def test_probabilities_sum_to_one_and_are_those_of_a_loop(name):
    counts = COUNTS[name]
    softmax, h = softmax_of(counts), torch.randn(9, 5)
    log_p = softmax(h)
    assert log_p.shape == (9, len(counts)) and torch.isfinite(log_p).all()
    assert (log_p.exp().sum(dim=1) - 1).abs().max() < 1e-6
    torch.testing.assert_close(log_p, by_loop(softmax, counts, h), atol=1e-5, rtol=1e-5)
    assert len(counts) == 1 or log_p.std() > 0.1


@pytest.mark.parametrize("name", [name for name in COUNTS if name != "one"])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_loss_along_the_path_has_the_gradient_of_the_whole(name, sparse):
    counts = COUNTS[name]
    labels = torch.arange(12) % len(counts)
    grads = []
    for way in ("path", "all"):
        softmax = softmax_of(counts, sparse=sparse and way == "path")
        torch.manual_seed(1)
        h = torch.randn(12, 5, requires_grad=True)
        losses = softmax.loss(h, labels) if way == "path" else -softmax(h)[range(12), labels]
        losses.sum().backward()
        theta = softmax.theta.weight.grad
        assert theta is not None and h.grad is not None
        grads.append((losses.detach(), h.grad, theta.to_dense()))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert grads[0][1].abs().max() > 1e-3 and grads[0][0].std() > 0.1


def test_two_classes_are_the_binary_logistic():
    softmax, h = softmax_of([3, 9]), torch.randn(6, 5)
    expected = torch.sigmoid(h @ softmax.theta.weight[0])
    torch.testing.assert_close(softmax(h).exp()[:, 0], expected)  # the rarer is the turn +1


@pytest.mark.parametrize("name", COUNTS)
def test_the_expected_path_is_within_a_bit_of_the_entropy(name):
    counts = np.array(COUNTS[name])
    lengths = np.array([len(path) for path in huffman_paths(counts)])
    shares = counts / counts.sum()
    entropy = -sum(p * math.log2(p) for p in shares if p > 0)
    expected = float(shares @ lengths)
    assert entropy - 1e-9 <= expected < entropy + 1
    if name == "skewed":  # a balanced tree is worse
        assert expected < math.log2(len(counts)) - 0.5
        assert lengths[-1] == 1 and lengths[0] == lengths.max() == len(counts) - 1


def test_equal_counts_give_a_balanced_tree_and_one_class_no_node():
    assert {len(path) for path in huffman_paths([4] * 8)} == {3}
    assert huffman_paths([5]) == [()]
    alone, h = HierarchicalSoftmax([5], 3), torch.randn(2, 3, requires_grad=True)
    alone.loss(h, torch.tensor([0, 0])).sum().backward()
    assert h.grad is not None and h.grad.abs().max() == 0
    assert alone(torch.randn(2, 3)).abs().max() == 0
    start = HierarchicalSoftmax([4] * 8, 3)(torch.randn(2, 3))
    torch.testing.assert_close(start, torch.full((2, 8), -math.log(8)))


def test_the_loss_touches_the_nodes_of_its_path_alone():
    counts = COUNTS["many"]
    softmax = softmax_of(counts, sparse=True)
    softmax.loss(torch.randn(1, 5), torch.tensor([17])).sum().backward()
    grad = softmax.theta.weight.grad
    assert grad is not None
    touched = set(grad.coalesce().indices().flatten().tolist())
    assert touched == {node for node, _ in huffman_paths(counts)[17]}
    assert len(touched) < 12 < len(counts) - 1


@pytest.mark.parametrize("counts", [[], [2, -1]])
def test_counts_that_make_no_tree(counts):
    with pytest.raises(ValueError, match="at least one class"):
        huffman_paths(counts)
