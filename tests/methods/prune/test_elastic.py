"""Elastic training, against models that are really cut, and losses that are added up by hand."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from bertwright.errors import ConfigError, UnsupportedFamilyError, UsageError
from bertwright.methods.distil.hidden_matching import HiddenMatchingConfig
from bertwright.methods.distil.soft_targets import SoftTargets, SoftTargetsConfig
from bertwright.methods.prune.elastic import (
    Elastic,
    ElasticConfig,
    draw_widths,
    order_by_importance,
    width_grid,
)
from bertwright.methods.prune.importance import gate_gradients
from bertwright.methods.prune.train_elastic import train_elastic
from bertwright.models.build import build_task_model, copy_with_layers, copy_with_widths
from bertwright.models.task_model import ModelConfig
from bertwright.models.widths import widths_of
from bertwright.tasks import find_task
from bertwright.training.hooks import Hook
from bertwright.training.loop import train
from methods.cases import (
    LABELS,
    KilledError,
    inputs_of,
    kill_at_step,
    same_weights,
    some_batch,
    tiny_rows,
    tiny_teacher,
    tiny_training,
    trained_teacher,
    weights,
)
from tiny import tiny_encoder

TASK = find_task("classify")
CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SIZES = ElasticConfig(heads=0.25, neurons=0.3, widths=3, multiple=8)
GRIDS = {"heads": width_grid(4, 0.25, 3), "neurons": width_grid(48, 0.3, 3, 8)}


def cut(model, layers, heads, neurons):
    """Return a size of a model, really cut."""
    shallower = copy_with_layers(model, range(layers))
    every = range(layers)
    return copy_with_widths(
        shallower,
        heads=dict.fromkeys(every, range(heads)),
        neurons=dict.fromkeys(every, range(neurons)),
    )


def with_pooling(pooling):
    """Return a model that computes the same in training as at rest."""
    encoder, tokenizer = tiny_encoder("bert", **CALM)
    return build_task_model(
        encoder,
        task="classify",
        labels=LABELS,
        config=ModelConfig(pooling=pooling, head_dropout=0.0),
        max_length=32,
        tokenizer=tokenizer,
        seed=0,
    )


class Watch(Hook):
    """Notes what each step had to learn, and the weights before all of them."""

    order = 90

    def __init__(self):
        self.seen = []

    def on_start(self, state):
        self.before = weights(state.model)

    def on_loss(self, state):
        loss = state.per_example_loss.detach().clone()
        self.seen.append((loss, dict(state.batch), dict(state.losses)))


def test_grids_of_widths():
    assert width_grid(12, 0.25, 4) == (3, 6, 9, 12)
    assert width_grid(1536, 0.25, 4, 32) == (384, 768, 1152, 1536)
    assert width_grid(4, 0.1, 9) == (1, 2, 3, 4)
    assert width_grid(48, 0.3, 3, 32) == (32, 48)
    assert width_grid(1, 0.5, 4) == (1,)


def test_draws_are_a_sandwich_and_depend_on_the_step_alone():
    grids = {"heads": (3, 6, 9, 12), "neurons": (384, 768, 1536)}
    drawn = [draw_widths(grids, seed=0, step=step) for step in range(60)]
    assert drawn[::3] == [{"heads": 12, "neurons": 1536}] * 20
    assert drawn[1::3] == [{"heads": 3, "neurons": 384}] * 20
    between = drawn[2::3]
    assert {one["heads"] for one in between} == {3, 6, 9, 12}
    assert {one["neurons"] for one in between} == {384, 768, 1536}
    assert draw_widths(grids, seed=0, step=50) == drawn[50]
    assert [draw_widths(grids, seed=1, step=step) for step in range(60)] != drawn


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
def test_the_order_changes_nothing_but_the_order(family):
    model = tiny_teacher(family)
    rows = tiny_rows(model)
    ordered = order_by_importance(model, rows, TASK)
    batch = inputs_of(some_batch(rows))
    with torch.no_grad():
        assert_close(ordered(**batch).logits, model(**batch).logits, atol=1e-5, rtol=1e-5)
    before, after = (gate_gradients(one, rows, TASK) for one in (model, ordered))
    for part in ("heads", "neurons"):
        for a, b in zip(getattr(before, part), getattr(after, part), strict=True):
            assert_close(b, a.sort(descending=True).values, atol=1e-6, rtol=1e-3)
    assert widths_of(ordered.encoder) == widths_of(model.encoder)
    assert [op["op"] for op in ordered.surgery.ops].count("order_heads") == 4


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("taught", [False, True])
def test_a_step_has_the_losses_of_all_depths_of_models_that_are_cut(pooling, taught, tmp_path):
    model, teacher, watch = with_pooling(pooling), trained_teacher(seed=1), Watch()
    soft = SoftTargets(SoftTargetsConfig(alpha=0.7), teacher) if taught else None
    options = tiny_training(max_steps=3, keep_best=False, lr=1e-12)
    hooks = [Elastic(SIZES, soft), watch]
    train(model, tiny_rows(model), None, task=TASK, config=options, hooks=hooks, run_dir=tmp_path)
    model.load_state_dict(watch.before)
    model.eval()
    for step, (found, batch, told) in enumerate(watch.seen):
        widths = draw_widths(GRIDS, seed=options.seed, step=step)
        assert told["elastic/heads"] == widths["heads"]
        assert told["elastic/neurons"] == widths["neurons"]
        expected = []
        for depth in (1, 2, 3, 4):
            size = cut(model, depth, widths["heads"], widths["neurons"])
            with torch.no_grad():
                logits, z = size(**inputs_of(batch)).logits, teacher(**inputs_of(batch)).logits
            loss = torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")
            if taught:
                p, q = (z / 2).softmax(dim=1), (logits / 2).softmax(dim=1)
                loss = 0.3 * loss + 0.7 * 4 * (p * (p / q).log()).sum(dim=1)
            expected.append(loss)
        assert_close(found, torch.stack(expected).mean(dim=0), atol=1e-4, rtol=1e-3)
        assert not torch.allclose(expected[0], expected[-1], atol=1e-3), "depths differ"


def test_small_sizes_know_the_task_after_it_and_did_not_before(tmp_path):
    teacher = trained_teacher(seed=1)
    rows = tiny_rows(teacher, 96)
    batch = some_batch(rows, 96)

    def score(model):
        with torch.no_grad():
            found = model(**inputs_of(batch)).logits.argmax(dim=1)
        return float((found == batch["labels"]).float().mean())

    elastic, result = train_elastic(
        teacher,
        teacher,
        rows,
        rows,
        config=SIZES,
        methods=[SoftTargetsConfig()],
        training=tiny_training(epochs=12, lr=3e-3, batch_size=16),
        run_dir=tmp_path / "run",
        cache_folder=tmp_path / "cache",
    )
    assert result.steps == 72 and score(elastic) > 0.9
    for size in ((1, 1, 16), (2, 4, 48), (3, 2, 32), (4, 1, 16)):
        assert score(cut(elastic, *size)) > 0.85
    assert score(cut(teacher, 1, 1, 16)) < 0.75


def run(folder, *, resume=False):
    model = trained_teacher()
    rows = tiny_rows(model)
    return train_elastic(
        model,
        None,
        rows,
        rows,
        config=SIZES,
        training=tiny_training(epochs=2, checkpoint_steps=1),
        run_dir=folder,
        resume=resume,
    )[0]


def test_a_killed_run_ends_with_the_same_weights(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        kill_at_step(patch, 7)
        run(tmp_path / "killed")
    resumed = run(tmp_path / "killed", resume=True)
    assert same_weights(weights(whole), weights(resumed))


def test_what_it_cannot_do_is_refused_with_the_reason(tmp_path):
    model = trained_teacher()
    rows = tiny_rows(model)
    options = {"training": tiny_training(max_steps=1), "run_dir": tmp_path / "run"}
    with pytest.raises(UsageError, match="every depth is"):
        methods = [HiddenMatchingConfig()]
        train_elastic(model, model, rows, None, config=SIZES, methods=methods, **options)
    with pytest.raises(ConfigError, match="at most 4"):
        train_elastic(model, None, rows, None, config=ElasticConfig(layers=5), **options)
    uneven = copy_with_widths(model, neurons={0: range(8)})
    with pytest.raises(UsageError, match="neurons"):
        train_elastic(uneven, None, rows, None, config=SIZES, **options)
    for family in ("mpnet", "albert"):
        other = tiny_teacher(family)
        with pytest.raises(UnsupportedFamilyError, match=family):
            train_elastic(other, None, tiny_rows(other), None, config=SIZES, **options)
    several = with_pooling("weighted-layers")
    with pytest.raises(UsageError, match="several layers"):
        train_elastic(several, None, tiny_rows(several), None, config=SIZES, **options)
    assert not (tmp_path / "run").exists(), "refused before anything is written"
    for wrong in ({"layers": 0}, {"heads": 0.0}, {"neurons": 1.5}, {"widths": 1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ElasticConfig(**wrong)
