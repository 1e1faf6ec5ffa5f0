"""Heads: their forms, their starts, and their options."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from bertwright.errors import ConfigError, UnsupportedFamilyError
from bertwright.models.heads import ClassificationHead, HeadConfig, StockHead, build_head
from bertwright.models.heads.stock import STOCK_FORMS, get_stock_form
from bertwright.models.outputs import Outputs
from bertwright.models.task_model import ModelConfig
from tiny import FAMILY_NAMES, tiny_encoder


def mlp(layers, activation="tanh", hidden=64):
    return HeadConfig(
        head="mlp", head_layers=layers, head_hidden=hidden, head_activation=activation
    )


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_an_mlp_equals_its_equation(layers, activation):
    torch.manual_seed(0)
    head = ClassificationHead(8, 3, mlp(layers, activation)).eval()
    assert [tuple(linear.weight.shape) for linear in head.hidden] == [
        (64, 8),
        *[(64, 64)] * (layers - 1),
    ]
    x = pooled = torch.randn(5, 8)
    function = {"relu": torch.relu, "tanh": torch.tanh, "gelu": nn.functional.gelu}[activation]
    for linear in head.hidden:
        x = function(x @ linear.weight.T + linear.bias)
    expected = x @ head.out.weight.T + head.out.bias
    got = head(pooled)
    assert got.shape == (5, 3) and got.abs().max() > 0
    torch.testing.assert_close(got, expected)


def test_a_linear_head_has_one_layer_and_drops_only_in_training():
    torch.manual_seed(0)
    head = ClassificationHead(8, 3, HeadConfig(head="linear", head_dropout=0.5))
    assert len(list(head.parameters())) == 2
    pooled = torch.randn(5, 8)
    assert not torch.equal(head.train()(pooled), head(pooled))
    expected = pooled @ head.out.weight.T
    torch.testing.assert_close(head.eval()(pooled), expected)


def test_weights_start_small_and_biases_at_zero():
    torch.manual_seed(0)
    head = ClassificationHead(256, 256, mlp(1, hidden=256))
    for linear in (*head.hidden, head.out):
        assert abs(linear.weight.std().item() - 0.02) < 0.001
        assert linear.bias.abs().max() == 0


@pytest.mark.parametrize(
    "values",
    [
        {"head": "mlp"},
        {"head_layers": 1},
        {"head": "linear", "head_layers": 2},
        {"head": "mlp", "head_layers": 4},
        {"head": "mpl"},
        {"head": "mlp", "head_layers": 1, "head_hidden": 0},
        {"head_dropout": 1.0},
        {"head_dropout": -0.1},
    ],
)
def test_options_out_of_range_are_named(values):
    with pytest.raises(ConfigError, match="--head"):
        ModelConfig(**values)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="sigmoid"):
        HeadConfig(head_activation="sigmoid")
    with pytest.raises(ValueError, match="maximum"):
        ModelConfig(pooling="maximum")
    with pytest.raises(UnsupportedFamilyError, match="gpt2"):
        get_stock_form(AutoConfig.for_model("gpt2"))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_family_has_a_stock_head_of_finite_output(family):
    assert set(STOCK_FORMS) == set(FAMILY_NAMES)
    encoder, _ = tiny_encoder(family)
    head = build_head(encoder.config, Outputs(3), HeadConfig()).eval()
    assert isinstance(head, StockHead)
    logits = head(torch.randn(4, 32))
    assert logits.shape == (4, 3) and torch.isfinite(logits).all() and logits.abs().max() > 0


def test_head_dropout_takes_the_place_of_the_familys_rate():
    encoder, _ = tiny_encoder("distilbert")
    assert build_head(encoder.config, Outputs(2), HeadConfig()).dropout_after.p == 0.2
    head = build_head(encoder.config, Outputs(2), HeadConfig(head_dropout=0.0))
    assert (head.dropout_before.p, head.dropout_after.p) == (0.0, 0.0)
