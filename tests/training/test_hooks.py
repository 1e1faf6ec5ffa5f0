from __future__ import annotations

import pytest
import torch

from bertwright.errors import ConfigError
from bertwright.training.hooks import EVENTS, Hook, dispatch, hook_keys, order_hooks


class B(Hook):
    order = 10


class A(Hook):
    order = 10


class Late(Hook):
    def __init__(self, order: int = 90) -> None:
        self.order = order


def test_order_is_declared_then_by_name_never_by_luck():
    late, a, b, middle = Late(), A(), B(), Late(50)
    expected = [a, b, middle, late]
    assert order_hooks([late, b, middle, a]) == expected
    assert order_hooks([a, middle, b, late]) == expected
    assert hook_keys(expected) == ["A@10", "B@10", "Late@50", "Late@90"]


def test_the_same_hook_twice_is_refused():
    with pytest.raises(ConfigError, match="A is given twice"):
        order_hooks([A(), B(), A()])


def test_the_base_hook_does_nothing_at_every_event():
    hook = Hook()
    for event in EVENTS:
        dispatch([hook], event, None)  # type: ignore[arg-type]
    assert hook.state_dict() == {} and list(hook.trainable_parameters()) == []
    assert {name for name in vars(Hook) if name.startswith("on_")} == set(EVENTS)


def test_add_loss_takes_rows_or_a_scalar_and_logs_the_mean():
    class State:
        per_example_loss = torch.tensor([1.0, 3.0])
        losses: dict = {}  # noqa: RUF012

    from bertwright.training.hooks import RunState

    state = State()
    RunState.add_loss(state, "a/b", torch.tensor([1.0, 0.0], requires_grad=True))  # type: ignore[arg-type]
    RunState.add_loss(state, "c/d", torch.tensor(0.5))  # type: ignore[arg-type]
    assert state.per_example_loss.tolist() == [2.5, 3.5]
    assert float(state.losses["a/b"]) == 0.5 and float(state.losses["c/d"]) == 0.5
    assert not state.losses["a/b"].requires_grad
