"""LayerDrop, against shallower models, the plain run, and what chance says."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from bertwright.errors import ConfigError
from bertwright.methods.finetune.layer_drop import (
    LayerDrop,
    LayerDropConfig,
    LayerSkips,
    draw_skips,
)
from bertwright.models.build import build_task_model, copy_with_layers
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.registry import parse_method_spec
from bertwright.tasks import find_task
from bertwright.training.hooks import Hook
from bertwright.training.loop import train
from methods.cases import (
    LABELS,
    inputs_of,
    same_weights,
    some_batch,
    tiny_rows,
    tiny_teacher,
    tiny_training,
    weights,
)
from tiny import FAMILY_NAMES, tiny_encoder

K = 4
SKIPPED = (False, True, False, True)
CHECKPOINTED = [f for f in FAMILY_NAMES if f not in ("albert", "mpnet", "xlnet")]
"""Families whose layers `transformers` can compute again in the backward pass."""


def logits_of(model: TaskModel, batch, *, seed: int = 0) -> torch.Tensor:
    """Logits with dropout, if the model is in train mode, drawn from the seed."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model(**inputs_of(batch)).logits


def run(model: TaskModel, folder, *hooks: Hook, **options) -> TaskModel:
    rows = tiny_rows(model)
    config = tiny_training(**({"keep_best": False} | options))
    train(model, rows, rows, task=find_task("classify"), config=config, hooks=hooks, run_dir=folder)
    return model


def is_plain(model: TaskModel) -> bool:
    return not any("forward" in vars(module) for module in model.modules())


class Watch(Hook):
    """Notes what each batch of a run left out, and looks at the model where it is evaluated."""

    order = 90

    def __init__(self) -> None:
        self.skips: list[tuple[int, tuple[bool, ...]]] = []
        self.evaluated: list[bool] = []

    def on_batch(self, state) -> None:
        layers = state.model.roles.layers
        self.skips.append((state.step, tuple(vars(one)["forward"].skips[0] for one in layers)))

    def on_evaluate(self, state) -> None:
        batch = some_batch(tiny_rows(state.model))
        plain = build_like(state.model)
        assert not state.model.training
        self.evaluated.append(torch.equal(logits_of(state.model, batch), logits_of(plain, batch)))


def build_like(model: TaskModel) -> TaskModel:
    plain = tiny_teacher()
    plain.load_state_dict(model.state_dict())
    return plain


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_the_mean_number_of_layers_that_run(rate):
    draws = np.array([draw_skips(K, rate, seed=3, step=step) for step in range(10_000)])
    assert draws.shape == (10_000, K)
    assert (K - draws.sum(axis=1)).mean() == pytest.approx((1 - rate) * K, rel=0.02)
    assert draws.mean(axis=0) == pytest.approx([rate] * K, abs=0.02), "each layer alike"
    assert len({tuple(draw) for draw in draws.tolist()}) == 2**K, "all and none too"
    both = (draws[:, 0] & draws[:, 1]).mean()
    assert both == pytest.approx(rate**2, abs=0.01), "layers are drawn apart"
    successive = (draws[1:, 0] & draws[:-1, 0]).mean()
    assert successive == pytest.approx(rate**2, abs=0.015), "steps too"


def test_the_check_of_the_mean_rejects_other_rules():
    draws = np.array([draw_skips(K, 0.5, seed=3, step=step) for step in range(10_000)])
    draws[draws.all(axis=1), 0] = False  # one layer always runs
    assert (K - draws.sum(axis=1)).mean() != pytest.approx(0.5 * K, rel=0.02)
    together = np.repeat(draws[:, :1], K, axis=1)  # one coin for all layers
    assert (together[:, 0] & together[:, 1]).mean() != pytest.approx(0.25, abs=0.01)


def test_a_draw_depends_on_seed_and_step_alone():
    first = [draw_skips(12, 0.5, seed=7, step=step) for step in range(20)]
    torch.manual_seed(0)
    np.random.seed(0)
    assert [draw_skips(12, 0.5, seed=7, step=step) for step in range(20)] == first
    assert [draw_skips(12, 0.5, seed=8, step=step) for step in range(20)] != first
    assert len(set(first)) > 15
    assert draw_skips(12, 0.0, seed=7, step=0) == (False,) * 12
    assert draw_skips(2, 0.5, seed=-1, step=0) == draw_skips(2, 0.5, seed=2**32 - 1, step=0)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_family_skips_as_if_the_layers_were_not_there(family):
    model = tiny_teacher(family)
    batch = some_batch(tiny_rows(model))
    shallow = copy_with_layers(model, [0, 2]).train()
    names, in_eval = list(model.state_dict()), logits_of(model, batch)
    model.train()
    whole, kept = logits_of(model, batch), logits_of(shallow, batch)
    assert whole.isfinite().all() and not torch.allclose(whole, kept)

    skips = LayerSkips(model.roles)
    assert torch.equal(logits_of(model, batch), whole), "undecided: all run"
    skips.decide(SKIPPED)
    for _ in range(2):  # the decision holds for several passes
        assert torch.equal(logits_of(model, batch), kept)
    states = model(**inputs_of(batch), output_hidden_states=True).hidden_states
    assert len(states) == K + 1
    assert torch.equal(states[1], states[2]) and not torch.equal(states[2], states[3])
    model.eval()
    assert torch.equal(logits_of(model, batch), in_eval), "evaluation never leaves layers out"
    model.train()
    skips.decide_none()
    assert torch.equal(logits_of(model, batch), whole)
    skips.decide([True] * K)
    assert logits_of(model, batch).isfinite().all()
    assert list(model.state_dict()) == names
    skips.remove()
    assert is_plain(model) and torch.equal(logits_of(model, batch), whole)


def test_other_layers_than_the_decided_ones_give_other_outputs():
    model = tiny_teacher().train()
    batch = some_batch(tiny_rows(model))
    LayerSkips(model.roles).decide((True, False, True, False))
    wrong = copy_with_layers(model, [0, 2]).train()
    assert not torch.allclose(logits_of(model, batch), logits_of(wrong, batch))


def test_copies_decide_for_themselves_and_a_second_hold_replaces_the_first():
    model = tiny_teacher().train()
    batch = some_batch(tiny_rows(model))
    whole = logits_of(model, batch)
    first = LayerSkips(model.roles)
    twin = copy.deepcopy(model)
    first.decide(SKIPPED)
    assert torch.equal(logits_of(twin, batch), whole)
    assert not torch.equal(logits_of(model, batch), whole)
    second = LayerSkips(model.roles)
    assert torch.equal(logits_of(model, batch), whole), "decisions of the first are gone"
    first.remove()
    second.decide(SKIPPED)
    assert not torch.equal(logits_of(model, batch), whole)
    second.remove()
    assert is_plain(model)


def test_a_convolution_after_the_first_layer_always_runs():
    model = tiny_teacher("deberta-v2", conv_kernel_size=3).train()
    batch = some_batch(tiny_rows(model))
    calls = []
    model.encoder.encoder.conv.register_forward_hook(lambda *_: calls.append(1))
    skips = LayerSkips(model.roles)
    skips.decide((True, False, False, False))
    assert logits_of(model, batch).isfinite().all() and calls == [1]


@pytest.mark.parametrize("family", CHECKPOINTED)
def test_gradient_checkpointing_meets_the_same_decision(family):
    model = tiny_teacher(family).train()
    batch = some_batch(tiny_rows(model))
    skips = LayerSkips(model.roles)

    def gradients():
        model.zero_grad()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            loss = model(**inputs_of(batch)).logits.square().sum()
            loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    skips.decide(SKIPPED)
    stored = gradients()
    left_out = [p for p in model.roles.layers[1].parameters() if p.grad is not None]
    assert not left_out, "a layer that is left out has no gradient"
    model.encoder.activation_checkpointing_enable({"use_reentrant": False})
    assert any(getattr(one, "gradient_checkpointing", False) for one in model.roles.layers)
    assert same_weights(gradients(), stored)
    skips.decide_none()
    assert not gradients().keys() <= stored.keys()


def test_rate_0_is_the_plain_run_bit_for_bit(tmp_path):
    plain = run(tiny_teacher(), tmp_path / "plain")
    none = run(tiny_teacher(), tmp_path / "none", LayerDrop(LayerDropConfig(rate=0.0)))
    some = run(tiny_teacher(), tmp_path / "some", LayerDrop(LayerDropConfig(rate=0.3)))
    assert same_weights(weights(none), weights(plain))
    assert not same_weights(weights(some), weights(plain))
    assert all(map(is_plain, (none, some)))
    lines = {
        name: [
            json.loads(line)
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("plain", "none", "some")
    }
    assert [one["loss"] for one in lines["none"]] == [one["loss"] for one in lines["plain"]]
    assert all(one["layer_drop/layers"] == K for one in lines["none"])
    assert min(one["layer_drop/layers"] for one in lines["some"]) < K


def test_batches_of_a_step_share_the_draw_and_evaluation_has_all_layers(tmp_path):
    watch = Watch()
    run(
        tiny_teacher(),
        tmp_path,
        LayerDrop(LayerDropConfig(rate=0.5)),
        watch,
        accumulate=3,
        batch_size=4,
        evals_per_epoch=2,
    )
    assert len(watch.skips) == 24 and len({step for step, _ in watch.skips}) == 8
    assert set(watch.skips) == {(step, draw_skips(K, 0.5, seed=0, step=step)) for step in range(8)}
    assert len(watch.evaluated) == 4 and all(watch.evaluated)


def test_poolings_of_all_layers_train_with_it(tmp_path):
    encoder, tokenizer = tiny_encoder("albert")
    model = build_task_model(
        encoder,
        task="classify",
        labels=LABELS,
        config=ModelConfig(pooling="weighted-layers:4"),
        max_length=32,
        tokenizer=tokenizer,
    )
    before = weights(model)
    run(model, tmp_path, LayerDrop(LayerDropConfig(rate=0.5)), max_steps=4)
    assert is_plain(model) and not same_weights(weights(model), before)
    batch = some_batch(tiny_rows(model))
    model.save(tmp_path / "model")
    assert torch.equal(
        logits_of(TaskModel.load(tmp_path / "model"), batch), logits_of(model, batch)
    )


def test_a_paused_run_leaves_no_layer_out(tmp_path):
    model = tiny_teacher()
    rows = tiny_rows(model)
    options = {"task": find_task("classify"), "config": tiny_training(), "run_dir": tmp_path}
    hooks = [LayerDrop(LayerDropConfig(rate=0.9))]
    train(model, rows, rows, **options, hooks=hooks, pause_at=2)
    batch = some_batch(rows)
    model.train()
    assert torch.equal(logits_of(model, batch), logits_of(build_like(model).train(), batch))
    again = [LayerDrop(LayerDropConfig(rate=0.9))]
    train(model, rows, rows, **options, hooks=again, resume=True)
    assert is_plain(model)


def test_options():
    assert parse_method_spec("layer_drop:rate=0.5") == LayerDropConfig(rate=0.5)
    for rate in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="rate"):
            LayerDropConfig(rate=rate)
