"""Learned gates, against the distribution's own figures and a model whose heads are dead."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bertwright.errors import ConfigError
from bertwright.methods.prune.gates import Gates
from bertwright.methods.prune.learned import (
    LearnedGates,
    LearnedGatesConfig,
    chance_open,
    draw_gates,
    settled_gates,
)
from bertwright.models.widths import widths_of
from bertwright.tasks import find_task
from bertwright.training.hooks import Hook
from bertwright.training.loop import train
from methods.cases import inputs_of, some_batch, tiny_rows, tiny_training, trained_teacher

TASK = find_task("classify")


def run(model, rows, folder, *more: Hook, **config):
    hook = LearnedGates(LearnedGatesConfig(**config))
    options = tiny_training(keep_best=False, epochs=8)
    train(model, rows, None, task=TASK, config=options, hooks=[hook, *more], run_dir=folder)
    return hook


@pytest.mark.parametrize("log_alpha", [-3.0, -0.5, 0.0, 2.0])
def test_draws_are_open_as_often_as_the_chance_says(log_alpha):
    noise = torch.rand(200_000, generator=torch.Generator().manual_seed(0)).double()
    gates = draw_gates(torch.tensor(log_alpha).double(), noise)
    chance = float(chance_open(torch.tensor(log_alpha).double()))
    assert 0 <= gates.min() and gates.max() <= 1
    error = np.sqrt(chance * (1 - chance) / len(noise))
    assert float((gates > 0).double().mean()) == pytest.approx(chance, abs=4 * error)
    middle = draw_gates(torch.tensor(log_alpha * 2 / 3), torch.tensor(0.5))
    assert_close(settled_gates(torch.tensor(log_alpha)), middle)


def test_the_gradient_of_the_draw_is_its_slope():
    log_alpha = torch.linspace(-1, 1, 7).double().requires_grad_()
    noise = torch.linspace(0.3, 0.7, 7).double()
    assert torch.autograd.gradcheck(lambda a: draw_gates(a, noise), (log_alpha,))
    assert torch.autograd.gradcheck(chance_open, (log_alpha,))


class Watch(Hook):
    """Notes the share of neurons open after each step."""

    order = 90

    def __init__(self, gates):
        self.gates, self.open = gates, []

    def on_step(self, state):
        log_alphas = self.gates.state_dict()["log_alphas"]["neurons"]
        self.open.append(float(chance_open(torch.cat(log_alphas)).mean()))


def test_the_open_share_goes_where_it_is_asked_to(tmp_path):
    model = trained_teacher()
    gates = LearnedGates(LearnedGatesConfig(heads=1.0, neurons=0.25, multiple=4, gate_lr=0.3))
    watch = Watch(gates)
    options = tiny_training(keep_best=False, epochs=30)
    hooks = [gates, watch]
    rows = tiny_rows(model, 48)
    train(model, rows, None, task=TASK, config=options, hooks=hooks, run_dir=tmp_path)
    assert watch.open[0] > 0.95
    assert watch.open[-1] == pytest.approx(0.25, abs=0.08)
    narrow = gates.narrowed(model)
    kept = sum(widths_of(narrow.encoder).neurons)
    assert 48 <= kept <= 48 + 4 * 3 and widths_of(narrow.encoder).heads == (4,) * 4


class Reward(Hook):
    """Lowers the loss by the size of what heads of the first layer send on, gates included."""

    order = 40

    def __init__(self, heads):
        self.features = [8 * head + i for head in heads for i in range(8)]

    def on_start(self, state):
        part = state.model.roles.part(0, "attention_output")
        part.register_forward_pre_hook(self.note)

    def note(self, module, args):
        self.sent = args[0][..., self.features].abs().mean()

    def on_loss(self, state):
        state.add_loss("reward", -100 * self.sent)


def test_heads_that_lower_the_loss_stay(tmp_path):
    model = trained_teacher()
    gates = LearnedGates(LearnedGatesConfig(heads=0.25, gate_lr=0.3))
    hooks = [gates, Reward([1, 3])]
    rows = tiny_rows(model, 48)
    options = tiny_training(keep_best=False, epochs=8, lr=1e-6)
    train(model, rows, None, task=TASK, config=options, hooks=hooks, run_dir=tmp_path)
    kept = gates.kept()["heads"]
    assert kept[0] == [1, 3]
    assert 4 <= sum(map(len, kept.values())) <= 6  # a quarter, and one in each layer


def test_folding_leaves_what_the_settled_gates_gave(tmp_path):
    model = trained_teacher()
    rows = tiny_rows(model, 24)
    hook = run(model, rows, tmp_path, heads=0.5, neurons=0.5, multiple=8)
    batch = inputs_of(some_batch(rows))
    kept, settled = hook.kept(), hook._settled()
    masked = {
        what: [
            one * torch.zeros_like(one).index_fill(0, torch.tensor(kept[what][i]), 1.0)
            for i, one in enumerate(values)
        ]
        for what, values in settled.items()
    }
    with torch.no_grad(), Gates(model.roles) as gates:
        gates.hold(masked)
        expected = model(**batch).logits
    with torch.no_grad():
        assert_close(hook.narrowed(model)(**batch).logits, expected, atol=1e-5, rtol=0)


def test_options_out_of_range_are_refused():
    for wrong in ({"gate_lr": 0.0}, {"closing_share": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong)).replace("_", "-")):
            LearnedGatesConfig(**wrong)
