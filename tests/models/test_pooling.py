"""What all poolings have in common: padding never leaks, and every text has a vector."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from bertwright.card import MethodCard
from bertwright.errors import ConfigError, UnknownChoiceError
from bertwright.models.pooling import POOLINGS, EncoderShape, States, build_pooling, check_pooling
from bertwright.models.pooling.base import state_of_first, state_of_last
from pooling_states import SHAPE, SPECS, pooling_of, random_states, row_of


def test_every_pooling_is_tested_and_has_a_card():
    assert {spec.partition(":")[0] for spec in SPECS} == set(POOLINGS)
    for name, kind in POOLINGS.items():
        assert isinstance(kind.card, MethodCard) and kind.card.name == name
        assert kind.card.kind == "pool"


@pytest.mark.parametrize("spec", SPECS)
def test_a_text_has_the_same_vector_alone_and_in_any_batch(spec):
    pooling, states = pooling_of(spec), random_states(5, 1, 3, 2, 4)
    together = pooling(states)
    assert together.shape == (5, pooling.width) and torch.isfinite(together).all()
    assert together.abs().sum(dim=1).min() > 0
    for row in range(5):
        torch.testing.assert_close(pooling(row_of(states, row))[0], together[row])
    order = [3, 0, 4]
    some = States(
        tuple(layer[order] for layer in states.layers), states.mask[order], states.ids[order]
    )
    torch.testing.assert_close(pooling(some), together[order])


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_never_leaks(spec, side):
    pooling, states = pooling_of(spec), random_states(4, 4, 4)
    pad = (7, 0) if side == "left" else (0, 7)
    padded = States(
        tuple(F.pad(layer, (0, 0, *pad), value=torch.nan) for layer in states.layers),
        F.pad(states.mask, pad),
        F.pad(states.ids, pad, value=3),
    )
    torch.testing.assert_close(pooling(padded), pooling(states))


@pytest.mark.parametrize("spec", SPECS)
def test_gradients_reach_real_tokens_alone(spec):
    pooling, states = pooling_of(spec), random_states(3, 5)
    layers = tuple(layer.nan_to_num().requires_grad_() for layer in states.layers)
    pooling(States(layers, states.mask, states.ids)).square().sum().backward()
    grads = [layer.grad for layer in layers if layer.grad is not None]
    assert sum(grad.abs().sum() for grad in grads) > 0
    for grad in grads:
        assert torch.isfinite(grad).all() and grad[~states.mask].abs().max() == 0
    assert (len(grads) > 1) == pooling.reads_layers or spec.startswith("cls-layer")


@pytest.mark.parametrize("spec", SPECS)
def test_a_row_without_a_token_is_defined_and_changes_no_other(spec):
    pooling, states = pooling_of(spec), random_states(4, 2)
    mask = states.mask.clone()
    mask[1] = False
    layers = tuple(layer.masked_fill(~mask.unsqueeze(-1), torch.nan) for layer in states.layers)
    pooled = pooling(States(layers, mask, states.ids))
    assert torch.isfinite(pooled).all()
    torch.testing.assert_close(pooled[0], pooling(states)[0])
    if not list(pooling.parameters()):
        assert pooled[1].abs().max() == 0


@pytest.mark.parametrize("spec", SPECS)
def test_the_last_states_alone_are_enough_where_no_others_are_read(spec):
    pooling, states = pooling_of(spec), random_states(4, 2)
    alone = States(states.layers[-1:], states.mask, states.ids)
    if pooling.reads_layers:
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            pooling(alone)
    else:
        torch.testing.assert_close(pooling(alone), pooling(states))


@pytest.mark.parametrize("spec", ["cls", "mean", "max", "mean-max"])
def test_half_floats_of_any_size_are_finite(spec):
    states = random_states(3, 2)
    layers = tuple(
        layer.half().masked_fill(states.mask.unsqueeze(-1), 6e4) for layer in states.layers
    )
    pooled = pooling_of(spec)(States(layers, states.mask, states.ids))
    assert pooled.dtype == torch.float16
    if spec in ("cls", "max"):
        assert torch.equal(pooled, torch.full_like(pooled, 6e4))


def test_values_worked_out_by_hand():
    hidden = torch.tensor([[[1.0, 6.0], [3.0, 2.0], [100.0, -100.0]]])
    mask = torch.tensor([[True, True, False]])
    shape = EncoderShape(width=2, num_layers=1, num_heads=1, vocab_size=5)
    states = States((hidden,), mask, torch.zeros(1, 3, dtype=torch.int64))

    def pooled(spec):
        return build_pooling(spec, shape)(states).tolist()

    assert pooled("cls") == [[1.0, 6.0]]
    assert pooled("mean") == pooled("tfidf") == pooled("sif") == [[2.0, 4.0]]
    assert pooled("max") == [[3.0, 6.0]]
    assert pooled("mean-max") == [[2.0, 4.0, 3.0, 6.0]]
    left = mask.flip(1)
    assert state_of_first(hidden, left).tolist() == [[3.0, 2.0]]
    assert state_of_last(hidden, mask).tolist() == [[3.0, 2.0]]
    at_end = EncoderShape(width=2, num_layers=1, num_heads=1, vocab_size=5, cls_at_end=True)
    assert build_pooling("cls", at_end)(states).tolist() == [[3.0, 2.0]]


def test_layers_are_not_mixed_up_with_places():
    layers = tuple(torch.full((2, 3, 12), float(number)) for number in range(7))
    states = States(layers, torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3).long())
    assert pooling_of("cls-layer:2")(states).unique().tolist() == [2.0]
    assert build_pooling("cls-layer", SHAPE)(states).unique().tolist() == [5.0]
    last = build_pooling("concat-last:3", SHAPE)(states)
    assert last.view(2, 3, 12)[:, :, 0].tolist() == [[6.0, 5.0, 4.0]] * 2
    mixed = build_pooling("weighted-layers:3", SHAPE)
    assert mixed(states).unique().tolist() == [4.5], "at first the plain mean of layers 3 to 6"
    attention = build_pooling("attention", SHAPE)
    attention.map.weight.data.copy_(torch.eye(12))
    assert attention(states).unique().tolist() == [3.5], "at first the plain mean of 1 to 6"


@pytest.mark.parametrize(
    ("spec", "smaller", "expected"),
    [
        ("mean", 3, "mean"),
        ("cls-layer:6", 3, "cls-layer:3"),
        ("cls-layer:1", 2, "cls-layer:1"),
        ("cls-layer", 3, "cls-layer"),
        ("concat-last:4", 3, "concat-last:3"),
        ("weighted-layers:4", 3, "weighted-layers:2"),
        ("wk:4", 3, "wk:1"),
        ("wk", 1, "mean"),
        ("parallel:4", 2, "parallel:2"),
        ("lstm:5", 2, "lstm:5"),
    ],
)
def test_a_smaller_encoder_gets_what_is_nearest(spec, smaller, expected):
    assert build_pooling(spec, SHAPE).spec_for(smaller) == expected
    build_pooling(expected, EncoderShape(width=12, num_layers=smaller, num_heads=3, vocab_size=30))


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("mean:3", "mean takes no number"),
        ("wk:x", "'x' is not a number"),
        ("wk:-1", "not a number"),
        ("cls-layer:7", "layer must be 1 to 6"),
        ("cls-layer:0", "layer must be 1 to 6"),
        ("concat-last:7", "layers must be 1 to 6"),
        ("weighted-layers:7", "layer must be 0 to 6"),
        ("wk:5", "layer must be 0 to 4"),
        ("dense:0", "width must be 1 or more"),
        ("parallel:9", "layers must be 1 to 6"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(spec, match):
    with pytest.raises(ConfigError, match=match):
        build_pooling(spec, SHAPE)


def test_names_and_specs():
    with pytest.raises(UnknownChoiceError, match="did you mean 'mean'"):
        check_pooling("maen")
    assert [build_pooling(spec, SHAPE).spec for spec in SPECS] == list(SPECS)
    shallow = EncoderShape(width=12, num_layers=1, num_heads=3, vocab_size=30)
    with pytest.raises(ConfigError, match="2 layers or more"):
        build_pooling("wk", shallow)
