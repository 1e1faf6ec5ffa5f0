from __future__ import annotations

import pytest
import torch

from bertwright.errors import ConfigError
from bertwright.methods.distil.student_init import (
    StudentInit,
    StudentInitConfig,
    choose_layers,
    init_student,
)
from bertwright.models.task_model import TaskModel
from methods.cases import inputs_of, same_weights, some_batch, tiny_rows, tiny_teacher, weights


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("uniform", (0, 2, 4, 7, 9, 11)),  # DistilBERT's
        ("first", (0, 1, 2, 3, 4, 5)),
        ("last", (6, 7, 8, 9, 10, 11)),
        ("alternate", (1, 3, 5, 7, 9, 11)),
        ((0, 1, 2, 9, 10, 11), (0, 1, 2, 9, 10, 11)),
    ],
)
def test_six_of_twelve(choice, expected):
    assert choose_layers(12, 6, choice) == expected


def test_one_layer_and_all_layers():
    assert [choose_layers(6, 1, c) for c in ("uniform", "first", "last", "alternate")] == [
        (0,),
        (0,),
        (5,),
        (5,),
    ]
    for choice in ("uniform", "first", "last", "alternate"):
        assert choose_layers(4, 4, choice) == (0, 1, 2, 3)


@pytest.mark.parametrize("teacher", range(1, 25))
def test_rules_always_give_ascending_layers(teacher):
    for student in range(1, teacher + 1):
        for choice in ("uniform", "first", "last", "alternate"):
            layers = choose_layers(teacher, student, choice)
            assert len(layers) == student
            assert list(layers) == sorted(set(layers))
            assert 0 <= layers[0] <= layers[-1] < teacher


@pytest.mark.parametrize("choice", [(0,), (1, 0), (0, 6), (-1, 2), "middle"])
def test_bad_choices_are_refused(choice):
    with pytest.raises(ConfigError, match="--layer-choice"):
        choose_layers(6, 2, choice)


def test_more_layers_than_the_teacher():
    with pytest.raises(ConfigError, match="the teacher has 6 layers"):
        choose_layers(6, 7)


def test_student_is_a_copy_of_the_chosen_layers():
    teacher = tiny_teacher()
    before = weights(teacher)
    student = init_student(teacher, [0, 3])
    assert student.roles.num_layers == 2
    for mine, theirs in zip(student.roles.layers, [0, 3], strict=True):
        assert same_weights(weights(mine), weights(teacher.roles.layers[theirs]))
    assert same_weights(weights(student.roles.embeddings), weights(teacher.roles.embeddings))
    assert same_weights(weights(student.head), weights(teacher.head))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert same_weights(before, weights(teacher))


def test_all_layers_are_the_identity(tmp_path):
    teacher = tiny_teacher()
    batch = inputs_of(some_batch(tiny_rows(teacher)))
    student = StudentInit(StudentInitConfig(num_layers=4)).apply(teacher)
    with torch.no_grad():
        assert torch.equal(student(**batch).logits, teacher(**batch).logits)
        other = StudentInit(StudentInitConfig(num_layers=2)).apply(teacher)
        assert not torch.allclose(other(**batch).logits, teacher(**batch).logits)
        other.save(tmp_path / "student")
        loaded = TaskModel.load(tmp_path / "student")
        assert torch.equal(loaded(**batch).logits, other(**batch).logits)
