"""A head fitted to the teacher's answers: what early exits fit at the same layer, and no more."""

from __future__ import annotations

import pytest
import torch

from bertwright.errors import ConfigError
from bertwright.methods.distil.fitted_head import FittedHead, FittedHeadConfig, read_pooled
from bertwright.methods.distil.student_init import init_student
from bertwright.methods.distil.teacher_source import LiveTeacher
from bertwright.methods.exit.heads import exit_readings, fit_soft_head
from bertwright.models.build import build_task_model, copy_with_pooling
from bertwright.tasks import find_task
from methods.cases import inputs_of, some_batch, tiny_rows, trained_teacher
from tiny import tiny_encoder


def make_student(teacher, layers: int, pooling: str = "mean"):
    return copy_with_pooling(init_student(teacher, list(range(layers))), pooling, seed=0)


@pytest.mark.parametrize("layers", [1, 3])
def test_it_is_the_softmax_regression_on_what_early_exits_read_after_the_same_layer(layers):
    teacher = trained_teacher()
    rows = tiny_rows(teacher, 96)
    fitted = FittedHead().apply(make_student(teacher, layers), LiveTeacher(teacher), rows)
    (readings,), logits = exit_readings(teacher, rows, (layers,))
    mean = readings[:, readings.shape[1] // 2 :]
    expected = torch.nn.functional.linear(mean, *fit_soft_head(mean, logits.softmax(dim=1)))
    pooled, logits_t = read_pooled(fitted, LiveTeacher(teacher), rows)
    with torch.no_grad():
        found = fitted.head(pooled)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    agreement = (found.argmax(dim=1) == logits_t.argmax(dim=1)).float().mean()
    untrained = make_student(teacher, layers).head
    assert agreement > 0.9 and not isinstance(untrained, type(fitted.head))


def test_the_layers_stay_and_nothing_is_random():
    teacher = trained_teacher()
    rows, student = tiny_rows(teacher, 48), make_student(teacher, 2)
    before = student.encoder.state_dict()
    batch = inputs_of(some_batch(rows))
    first, again = (FittedHead().apply(student, LiveTeacher(teacher), rows) for _ in range(2))
    assert all(torch.equal(before[name], one) for name, one in first.encoder.state_dict().items())
    with torch.no_grad():
        assert torch.equal(first(**batch).logits, again(**batch).logits)
        assert not torch.allclose(first(**batch).logits, student(**batch).logits, atol=1e-2)
    stronger = FittedHead(FittedHeadConfig(penalty=100.0))
    other = stronger.apply(student, LiveTeacher(teacher), rows)
    norms = [sum(p.square().sum() for p in one.head.parameters()) for one in (first, other)]
    assert norms[1] < norms[0]


def test_what_it_cannot_fit_is_refused_with_the_reason():
    teacher = trained_teacher()
    rows = tiny_rows(teacher)
    with pytest.raises(ConfigError, match="a pooling without weights of its own"):
        FittedHead().apply(make_student(teacher, 2, "pooler"), LiveTeacher(teacher), rows)
    encoder, tokenizer = tiny_encoder("bert")
    numbers = build_task_model(
        encoder,
        task="regress",
        labels=[],
        tokenizer=tokenizer,
        outputs=find_task("regress").outputs([]),
    )
    with pytest.raises(ConfigError, match="the task regress is not"):
        FittedHead().apply(numbers, LiveTeacher(teacher), rows)
    with pytest.raises(ConfigError, match="penalty"):
        FittedHeadConfig(penalty=-1)
