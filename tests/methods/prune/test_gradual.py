"""Gradual pruning, against one-shot pruning, masks and the schedule's own figures."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.testing import assert_close

from bertwright.errors import ConfigError, UnsupportedRoleError, UsageError
from bertwright.methods.distil.hidden_matching import HiddenMatchingConfig
from bertwright.methods.distil.soft_targets import SoftTargetsConfig
from bertwright.methods.prune.gates import Gates
from bertwright.methods.prune.gradual import GradualPruning, GradualPruningConfig, share_left
from bertwright.methods.prune.importance import choose_kept, gate_gradients
from bertwright.methods.prune.learned import LearnedGatesConfig
from bertwright.methods.prune.train import train_pruned
from bertwright.methods.quantize.int8 import simulate_int8
from bertwright.methods.quantize.qat import QatConfig
from bertwright.models.widths import widths_of
from bertwright.tasks import find_task
from bertwright.training.hooks import Hook
from bertwright.training.loop import train
from methods.cases import (
    inputs_of,
    some_batch,
    tiny_rows,
    tiny_teacher,
    tiny_training,
    trained_teacher,
    weights,
)

TASK = find_task("classify")


class Watch(Hook):
    """Notes the masks after each step."""

    order = 90

    def __init__(self, pruning):
        self.pruning = pruning
        self.left = []

    def on_step(self, state):
        self.left.append(self.pruning.kept())


def run(model, rows, config, folder, **training):
    pruning = GradualPruning(config)
    watch = Watch(pruning)
    options = tiny_training(keep_best=False, **training)
    hooks = [pruning, watch]
    train(model, rows, None, task=TASK, config=options, hooks=hooks, run_dir=folder)
    return pruning, watch.left


def test_the_schedule_is_the_papers():
    assert [share_left(done, 0.2) for done in (0, 0.5, 1)] == pytest.approx([1.0, 0.3, 0.2])
    shares = [share_left(i / 10, 0.2) for i in range(11)]
    assert shares == sorted(shares, reverse=True)


def test_what_leaves_never_returns_and_the_last_shares_are_exact(tmp_path):
    model = trained_teacher()
    config = GradualPruningConfig(heads=0.5, neurons=0.25, multiple=4, times=4)
    pruning, left = run(model, tiny_rows(model, 48), config, tmp_path, epochs=2)
    counts = [len(step["neurons"][0]) for step in left]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) == 5
    for before, after in itertools.pairwise(left):
        for what, layers in after.items():
            assert all(set(layers[i]) <= set(before[what][i]) for i in layers)
    narrow = pruning.narrowed(model)
    assert widths_of(narrow.encoder).heads == (2,) * 4
    assert widths_of(narrow.encoder).neurons == (12,) * 4


def test_weights_that_stand_still_make_it_one_shot(tmp_path):
    """With no learning and one cut it is the choice of the one-shot methods."""
    model = trained_teacher()
    rows = tiny_rows(model, 48)
    found = gate_gradients(model, rows, TASK)
    config = GradualPruningConfig(heads=0.5, neurons=0.5, multiple=8, times=1)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    training = {"lr": 1e-30, "epochs": 1, "batch_size": 8}
    pruning, _ = run(model, rows, config, tmp_path, **training)
    assert pruning.kept()["heads"] == choose_kept(found.heads, 0.5)
    assert pruning.kept()["neurons"] == choose_kept(found.neurons, 0.5, multiple=8)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_narrow_model_is_the_masked_one(scope, tmp_path):
    model = trained_teacher()
    rows = tiny_rows(model, 24)
    config = GradualPruningConfig(heads=0.5, neurons=0.5, multiple=8, times=2, scope=scope)
    pruning, _ = run(model, rows, config, tmp_path, epochs=2)
    batch = inputs_of(some_batch(rows))
    masks = {
        what: [
            torch.zeros(count).index_fill(0, torch.tensor(kept[i]), 1.0)
            for i, count in enumerate(getattr(widths_of(model.encoder), what))
        ]
        for what, kept in pruning.kept().items()
    }
    with torch.no_grad():
        plain = model(**batch).logits
        with Gates(model.roles) as gates:
            gates.hold(masks)
            masked = model(**batch).logits
        assert_close(pruning.narrowed(model)(**batch).logits, masked, atol=1e-5, rtol=0)
        assert (plain - masked).abs().max() > 1e-3
        assert torch.equal(model(**batch).logits, plain)


def test_accumulated_batches_are_counted_like_a_large_one(tmp_path):
    config = GradualPruningConfig(heads=0.5, neurons=0.5, multiple=8, times=1)
    chosen = []
    for name, options in (("a", {"batch_size": 16}), ("b", {"batch_size": 4, "accumulate": 4})):
        model = trained_teacher()
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        pruning, _ = run(
            model, tiny_rows(model, 48), config, tmp_path / name, lr=1e-30, epochs=1, **options
        )
        chosen.append(pruning.kept())
    assert chosen[0] == chosen[1]


def test_both_phases_follow_the_teacher(tmp_path):
    teacher = trained_teacher()
    rows = tiny_rows(teacher, 48)
    narrow, result = train_pruned(
        trained_teacher(),
        teacher,
        rows,
        rows,
        config=GradualPruningConfig(heads=0.5, neurons=0.5, multiple=8, times=2),
        methods=[SoftTargetsConfig()],
        training=tiny_training(epochs=4),
        run_dir=tmp_path / "run",
        cache_folder=tmp_path / "cache",
    )
    assert widths_of(narrow.encoder).neurons == (24,) * 4 and result.best_score > 0.8
    for folder in (tmp_path / "run/prune", tmp_path / "run"):
        assert "soft_targets/hard" in (folder / "metrics.jsonl").read_text()


def test_senseless_things_are_refused_with_the_reason(tmp_path):
    model = tiny_teacher()
    rows = tiny_rows(model, 12)
    options = {"training": tiny_training(max_steps=2), "run_dir": tmp_path}
    heads = GradualPruningConfig(heads=0.5, multiple=8)
    maps = [HiddenMatchingConfig(attention_weight=1.0)]
    before = weights(model)
    with pytest.raises(UsageError, match="attention maps"):
        train_pruned(model, model, rows, None, config=heads, methods=maps, **options)
    with pytest.raises(UsageError, match="belong to weights that stay"):
        train_pruned(model, model, rows, None, config=heads, methods=[QatConfig()], **options)
    with pytest.raises(UsageError, match="quantized"):
        train_pruned(simulate_int8(model), None, rows, None, config=heads, **options)
    xlnet = tiny_teacher("xlnet")
    with pytest.raises(UnsupportedRoleError, match="keeps its heads"):
        train_pruned(xlnet, None, tiny_rows(xlnet, 12), None, config=heads, **options)
    assert all(torch.equal(before[name], now) for name, now in weights(model).items())
    for kind in (GradualPruningConfig, LearnedGatesConfig):
        with pytest.raises(ConfigError, match="nothing is to be taken out"):
            kind(heads=1.0, neurons=1.0)
        for wrong in ({"heads": 0.0}, {"neurons": 1.5}, {"multiple": 0}, {"prune_share": 1.0}):
            with pytest.raises(ConfigError, match=next(iter(wrong)).replace("_", "-")):
                kind(**wrong)
    with pytest.raises(ConfigError, match="times"):
        GradualPruningConfig(times=0)
