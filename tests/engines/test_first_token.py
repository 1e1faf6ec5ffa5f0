"""The graph computes one token in its last layer, and the numbers stay."""

from __future__ import annotations

import warnings

import numpy as np
import openvino
import pytest
import torch

from bertwright.engines.first_token import keep_first_token
from bertwright.engines.trace import TracedModel, example_inputs, tracing
from engines_models import make_model


def convert(family: str, **options: object) -> tuple[TracedModel, openvino.Model]:
    traced = TracedModel(make_model(family, **options)).eval()
    with tracing(traced):
        return traced, openvino.convert_model(traced, example_input=example_inputs(traced))


def run(graph: openvino.Model, inputs: list[np.ndarray]) -> np.ndarray:
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return openvino.Core().compile_model(graph, "CPU", options)(inputs)[0]


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2", "mpnet"])
def test_same_numbers(family: str) -> None:
    traced, graph = convert(family)
    rewritten = graph.clone()
    passed = keep_first_token(rewritten)
    assert passed > (4 if family == "modernbert" else 8)
    mask = (np.arange(9) < np.array([[9], [4], [1]])).astype(np.int64)
    ids = np.random.default_rng(0).integers(5, 60, mask.shape)
    inputs = [ids, mask, np.zeros_like(ids)][: len(traced.input_names)]
    expected = run(graph, inputs)
    np.testing.assert_allclose(run(rewritten, inputs), expected, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-2


def test_the_last_feed_forward_sees_one_token() -> None:
    _, graph = convert("bert")
    keep_first_token(graph)
    wide = [
        node.get_output_partial_shape(0)[1]
        for node in graph.get_ordered_ops()
        if node.get_type_name() == "MatMul"
        and node.get_output_partial_shape(0).rank.get_length() == 3
        and node.get_output_partial_shape(0)[2].get_length() == 48
    ]
    assert len(wide) == 4
    assert [size.get_max_length() for size in wide][-1] == 1
    assert all(size.get_max_length() != 1 for size in wide[:-1])


@pytest.mark.parametrize(("family", "options"), [("bert", {"pooling": "mean"}), ("xlnet", {})])
def test_nothing_to_gain(family: str, options: dict[str, object]) -> None:
    _, graph = convert(family, **options)
    assert keep_first_token(graph) == 0


def test_a_layer_that_mixes_tokens_is_not_passed() -> None:
    """A product over the length axis needs all tokens, so the slice must stay behind it."""

    class Mixing(torch.nn.Module):
        def forward(self, hidden):
            return (hidden.transpose(1, 2) @ hidden)[:, 0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = openvino.convert_model(Mixing(), example_input=torch.zeros(2, 5, 4))
    hidden = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    expected = run(graph, [hidden])
    keep_first_token(graph)
    np.testing.assert_allclose(run(graph, [hidden]), expected, atol=1e-5)
    np.testing.assert_allclose(
        expected, np.einsum("bl,bld->bd", hidden[:, :, 0], hidden), atol=1e-4
    )
