from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from bertwright.errors import ConfigError
from bertwright.methods.distil.student_init import init_student
from bertwright.methods.replace.theseus import (
    Theseus,
    TheseusConfig,
    apply_theseus,
    finish_theseus,
    freeze_predecessor,
    replacement_rate,
    split_groups,
    theseus_groups,
)
from bertwright.models.export import export_transformers
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.tasks import find_task
from bertwright.training.loop import train
from methods.cases import (
    inputs_of,
    same_weights,
    some_batch,
    tiny_rows,
    tiny_teacher,
    tiny_training,
    weights,
)
from tiny import FAMILY_NAMES


def logits_of(model: TaskModel, batch, *, seed: int = 0) -> torch.Tensor:
    """Logits with dropout, if the model is in train mode, drawn from the seed."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model(**inputs_of(batch)).logits


def set_replaced(model: TaskModel, flags: list[bool]) -> None:
    for group, flag in zip(theseus_groups(model), flags, strict=True):
        group.use_successor = flag


def shake(modules, scale: float = 0.05) -> None:
    """Make weights different from what they were copied from."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter += scale * torch.randn(parameter.shape, generator=generator)


def test_groups_are_equal_and_contiguous():
    assert [list(g) for g in split_groups(6, 3)] == [[0, 1], [2, 3], [4, 5]]
    assert [list(g) for g in split_groups(4, 1)] == [[0, 1, 2, 3]]
    with pytest.raises(ConfigError, match="choose from 1, 2, 3, 6"):
        split_groups(6, 4)


def test_schedules():
    constant = [replacement_rate(t, 100, schedule="constant", rate=0.5) for t in (0, 50, 99)]
    assert constant == [0.5] * 3

    def paper(step: int) -> float:
        return replacement_rate(step, 5000, schedule="linear", base_rate=0.3, slope=6e-4)

    assert paper(0) == 0.3
    assert paper(500) == pytest.approx(0.6)
    assert paper(1166) < 1.0
    assert paper(1167) == paper(4999) == 1.0
    fitted = [replacement_rate(t, 101, schedule="linear", base_rate=0.3) for t in (0, 50, 100)]
    assert fitted == pytest.approx([0.3, 0.65, 1.0])
    assert replacement_rate(0, 1, schedule="linear") == 0.3


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_family_runs_as_predecessor_successor_and_between(family, tmp_path):
    teacher = tiny_teacher(family)
    rows = tiny_rows(teacher)
    batch = some_batch(rows)
    model = copy.deepcopy(teacher)
    groups = apply_theseus(model, 2)
    assert [len(g.predecessor) for g in groups] == [2, 2]
    shake(dict.fromkeys(g.successor for g in groups))  # albert shares one

    model.train()
    teacher.train()
    expected = logits_of(teacher, batch)
    set_replaced(model, [False, False])
    assert torch.equal(logits_of(model, batch), expected)  # p = 0, the same dropout masks
    set_replaced(model, [True, True])
    all_new = logits_of(model, batch)
    set_replaced(model, [True, False])
    mixed = logits_of(model, batch)
    assert not torch.allclose(all_new, expected) and not torch.allclose(mixed, expected)
    assert not torch.allclose(mixed, all_new)
    model.eval()
    teacher.eval()
    in_eval = logits_of(model, batch)  # the drawn flags do not count: all successors

    twin = copy.deepcopy(model)
    assert torch.equal(logits_of(twin, batch), in_eval)
    student = finish_theseus(model)
    assert student.roles.num_layers == 2 and theseus_groups(student) == []
    assert torch.equal(logits_of(student, batch), in_eval)
    assert all(p.requires_grad for p in student.parameters())
    student.train()
    assert torch.equal(logits_of(student, batch), all_new)  # p = 1
    student.eval()
    student.save(tmp_path / "student")
    loaded = TaskModel.load(tmp_path / "student")
    assert torch.equal(logits_of(loaded, batch), in_eval)
    assert model.roles.num_layers == 4
    assert torch.equal(logits_of(model, batch), logits_of(teacher, batch))


def test_exports_as_a_stock_model(tmp_path):
    model = tiny_teacher()
    groups = apply_theseus(model, 2)
    shake([g.successor for g in groups])
    student = finish_theseus(model)
    batch = inputs_of(some_batch(tiny_rows(student)))
    export_transformers(student, tmp_path / "stock")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "stock").eval()
    with torch.no_grad():
        expected = student(**batch).logits
        torch.testing.assert_close(stock(**batch).logits, expected, atol=1e-5, rtol=0)


def test_successors_that_copy_their_group_make_the_draw_irrelevant():
    model = tiny_teacher().eval()
    batch = some_batch(tiny_rows(model))
    expected = logits_of(model, batch)
    apply_theseus(model, 4)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    for flags in ([True] * 4, [False] * 4, [True, False, True, False]):
        set_replaced(model, flags)
        torch.testing.assert_close(logits_of(model, batch), expected, atol=1e-6, rtol=1e-5)


def test_frozen_predecessor_stores_no_gradient_and_lets_it_through():
    model = tiny_teacher()
    groups = apply_theseus(model, 2)
    freeze_predecessor(model)
    model.train()
    set_replaced(model, [True, False])
    batch = some_batch(tiny_rows(model))
    model(**inputs_of(batch)).logits.square().sum().backward()
    trained = {id(p) for g in groups for p in g.successor.parameters()}
    with_gradient = [p for p in model.parameters() if p.grad is not None]
    assert with_gradient and all(id(p) in trained for p in with_gradient)
    assert any(p.grad.abs().max() > 0 for p in groups[0].successor.parameters())
    assert all(p.grad is None for p in groups[1].successor.parameters())
    assert all(not p.requires_grad for g in groups for p in g.predecessor.parameters())
    assert all(not p.requires_grad for p in model.head.parameters())
    freeze_predecessor(model, train_rest=True)
    assert all(p.requires_grad for p in model.head.parameters())
    assert all(not p.requires_grad for g in groups for p in g.predecessor.parameters())


@pytest.mark.parametrize("rate", [0.3, 0.5])
def test_share_of_replaced_modules(rate):
    hook = Theseus(TheseusConfig(num_layers=4, schedule="constant", rate=rate))
    model = tiny_teacher()
    hook._groups = apply_theseus(model, 4)
    generator = torch.Generator().manual_seed(0)
    state = SimpleNamespace(step=0, total_steps=10, generator=generator, losses={})
    patterns = set()
    for _ in range(2500):
        hook.on_batch(state)  # type: ignore[arg-type]
        patterns.add(tuple(g.use_successor for g in hook._groups))
    assert hook.draws == 10_000
    assert hook.replaced / hook.draws == pytest.approx(rate, abs=0.02)
    assert len(patterns) == 16  # the groups are drawn apart from each other


def test_training_replaces_and_leaves_the_teacher_and_the_predecessor_alone(tmp_path):
    teacher = tiny_teacher()
    rows = tiny_rows(teacher)
    before = weights(teacher)
    model = copy.deepcopy(teacher)
    hook = Theseus(TheseusConfig(num_layers=2))
    train(
        model,
        rows,
        rows,
        task=find_task("classify"),
        config=tiny_training(keep_best=False),
        hooks=[hook],
        run_dir=tmp_path,
    )
    groups = theseus_groups(model)
    originals = teacher.roles.layers
    for group, members in zip(groups, split_groups(4, 2), strict=True):
        for layer, i in zip(group.predecessor, members, strict=True):
            assert same_weights(weights(layer), weights(originals[i]))
        assert not same_weights(weights(group.successor), weights(originals[group.source]))
    assert same_weights(weights(model.roles.embeddings), weights(teacher.roles.embeddings))
    assert same_weights(weights(model.head), weights(teacher.head))
    assert same_weights(weights(teacher), before)
    assert 0.3 < hook.replaced / hook.draws < 1


def test_a_batch_with_nothing_replaced_changes_nothing_much(tmp_path):
    model = tiny_teacher()
    rows = tiny_rows(model)
    config = TheseusConfig(num_layers=1, schedule="linear", base_rate=0.0, slope=0.0)
    before = weights(model.roles.layers[0])
    train(
        model,
        rows,
        rows,
        task=find_task("classify"),
        config=tiny_training(epochs=1, keep_best=False, weight_decay=0.0),
        hooks=[Theseus(config)],
        run_dir=tmp_path,
    )
    assert same_weights(weights(theseus_groups(model)[0].successor), before)


@pytest.mark.parametrize(
    ("field", "value"),
    [("rate", 0.0), ("base_rate", 1.5), ("slope", -1.0), ("replace_share", 1.0), ("num_layers", 0)],
)
def test_options_out_of_range(field, value):
    with pytest.raises(ConfigError, match="--" + field.replace("_", "-")):
        TheseusConfig(**{"num_layers": 2, field: value})


def test_starting_from_other_layers():
    model = tiny_teacher()
    originals = [weights(layer) for layer in model.roles.layers]
    groups = apply_theseus(model, 2, init="last")
    assert [g.source for g in groups] == [2, 3]
    for group, index in zip(groups, [2, 3], strict=True):
        assert same_weights(weights(group.successor), originals[index])
    student = finish_theseus(model)
    reference = init_student(tiny_teacher(), [2, 3])
    assert same_weights(weights(student), weights(reference))
    assert student.surgery == reference.surgery
    assert np.isfinite(logits_of(student, some_batch(tiny_rows(student))).numpy()).all()


def test_a_pooling_of_inner_layers_is_refused():
    model = tiny_teacher("bert")
    config = ModelConfig(pooling="weighted-layers")
    other = TaskModel(
        model.encoder, task="classify", labels=model.labels, config=config, max_length=16
    )
    with pytest.raises(ConfigError, match="weighted-layers reads inner layers"):
        apply_theseus(other, 2)
    assert not theseus_groups(other)
