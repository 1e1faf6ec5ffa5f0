from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.data.tokenise import tokenise
from bertwright.errors import UsageError
from bertwright.methods.distil.hidden_matching import HiddenMatchingConfig
from bertwright.methods.distil.relations import RelationsConfig
from bertwright.methods.distil.several_teachers import (
    JointTeacher,
    SeveralTeachers,
    SeveralTeachersConfig,
    ask_teachers,
    average_answers,
)
from bertwright.methods.distil.soft_targets import SoftTargetsConfig, soft_target_loss
from bertwright.methods.distil.teacher_source import LiveTeacher
from bertwright.methods.distil.train import train_distilled
from bertwright.models.build import build_task_model
from bertwright.models.outputs import Outputs
from bertwright.training.evaluation import compute_logits
from methods.cases import LABELS, some_batch, tiny_rows, tiny_teacher, tiny_training
from tiny import tiny_encoder

A = torch.tensor([[0.0, math.log(3.0)], [2.0, 0.0]])
B = torch.tensor([[0.0, 0.0], [0.0, 2.0]])


def test_the_mean_of_probabilities_is_worked_out_by_hand():
    found = average_answers([A, B], Outputs(2), "probabilities").softmax(dim=1)
    torch.testing.assert_close(found[0], torch.tensor([(0.25 + 0.5) / 2, (0.75 + 0.5) / 2]))
    torch.testing.assert_close(found[1], torch.tensor([0.5, 0.5]))
    geometric = average_answers([A, B], Outputs(2), "logits").softmax(dim=1)
    root = math.sqrt(3.0)
    torch.testing.assert_close(geometric[0], torch.tensor([1 / (1 + root), root / (1 + root)]))
    assert (geometric[0] - found[0]).abs().max() > 0.005


def test_one_teacher_answers_as_itself():
    for outputs in (Outputs(2), Outputs(2, kind="labels"), Outputs(2, kind="numbers")):
        found = average_answers([A], outputs, "probabilities")
        if outputs.kind == "classes":
            found, wanted = found.softmax(dim=1), A.softmax(dim=1)
        else:
            wanted = A
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_labels_numbers_and_vectors_have_means_of_their_own():
    labels = average_answers([A, B], Outputs(2, kind="labels"), "probabilities").sigmoid()
    torch.testing.assert_close(labels, (A.sigmoid() + B.sigmoid()) / 2)
    numbers = average_answers([A, B], Outputs(2, kind="numbers"), "probabilities")
    torch.testing.assert_close(numbers, (A + B) / 2)
    units = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
    vectors = average_answers(units, Outputs(2, kind="vectors"), "probabilities")
    torch.testing.assert_close(vectors, torch.full((1, 2), 0.5**0.5))
    with pytest.raises(UsageError, match="token by token"):
        average_answers([A[None]], Outputs(2, level="token"), "probabilities")


def test_teachers_with_their_labels_in_another_order_agree():
    teacher = tiny_teacher()
    encoder, tokenizer = tiny_encoder()
    turned = build_task_model(
        encoder, task="classify", labels=LABELS[::-1], max_length=32, tokenizer=tokenizer
    )
    turned.load_state_dict(teacher.state_dict())
    with torch.no_grad():
        for parameter in turned.head.out.parameters():
            parameter.copy_(parameter.flip(0))
    batch = some_batch(tiny_rows(teacher))
    alone = LiveTeacher(teacher).logits(batch).softmax(dim=1)
    joint = JointTeacher([LiveTeacher(teacher), LiveTeacher(turned)], teacher.outputs)
    assert joint.labels == LABELS
    torch.testing.assert_close(joint.logits(batch).softmax(dim=1), alone, atol=1e-6, rtol=1e-5)
    assert (alone - alone.flip(1)).abs().max() > 1e-3
    other = build_task_model(encoder, task="classify", labels=["x", "y", "z"], tokenizer=tokenizer)
    with pytest.raises(UsageError, match="different labels"):
        JointTeacher([LiveTeacher(teacher), LiveTeacher(other)], teacher.outputs)
    with pytest.raises(UsageError, match="no teacher"):
        JointTeacher([], teacher.outputs)


def test_teachers_of_other_families_are_asked_with_their_own_tokens(tmp_path):
    teachers = [tiny_teacher("bert"), tiny_teacher("roberta", seed=1)]
    rows = tiny_rows(teachers[0])
    pairs = [(teacher, tiny_rows(teacher)) for teacher in teachers]
    method = SeveralTeachers(SeveralTeachersConfig())
    joint = method.apply(pairs, rows, cache_folder=tmp_path)
    found = joint.logits({"indices": np.arange(len(rows))}).softmax(dim=1).numpy()
    answers = [
        torch.from_numpy(compute_logits(teacher, own, precision="fp32")).softmax(dim=1).numpy()
        for teacher, own in pairs
    ]
    np.testing.assert_allclose(found, (answers[0] + answers[1]) / 2, atol=1e-5)
    assert np.abs(found - answers[0]).max() > 1e-3
    student = tiny_teacher(seed=5)
    result = train_distilled(
        student,
        joint,
        rows,
        None,
        methods=[SoftTargetsConfig()],
        training=tiny_training(max_steps=4),
        run_dir=tmp_path / "run",
    )
    assert result.steps == 4


def test_what_needs_tokens_that_correspond_is_refused(tmp_path):
    teacher = tiny_teacher()
    rows = tiny_rows(teacher)
    joint = ask_teachers([(teacher, rows)], rows, cache_folder=tmp_path)
    for number, method in enumerate(
        (HiddenMatchingConfig(layers=(1, 2, 3, 4)), RelationsConfig(teacher_layer=1))
    ):
        with pytest.raises(UsageError):
            train_distilled(
                tiny_teacher(seed=1),
                joint,
                rows,
                None,
                methods=[method],
                training=tiny_training(max_steps=1),
                run_dir=tmp_path / str(number),
            )
    with pytest.raises(UsageError, match="row by row"):
        ask_teachers([(teacher, rows.select(range(5)))], rows, cache_folder=tmp_path)


def test_a_teacher_may_read_a_column_that_the_student_does_not(tmp_path):
    teacher = tiny_teacher()
    records = [
        {"text": "a good film", "text_b": f"the {word}", "label": "film"}
        for word in ("cat", "dog", "house", "book")
    ]
    names = LabelSet(tuple(LABELS))
    pairs = tokenise(load_rows(records, labels=names), teacher.tokenizer, max_length=32)
    alone = [{key: row[key] for key in ("text", "label")} for row in records]
    rows = tokenise(load_rows(alone, labels=names), teacher.tokenizer, max_length=32)
    joint = ask_teachers([(teacher, pairs)], rows, cache_folder=tmp_path)
    found = joint.logits({"indices": np.arange(4)}).softmax(dim=1)
    assert len({tuple(row) for row in found.numpy().round(6).tolist()}) == 4
    wanted = torch.from_numpy(compute_logits(teacher, pairs, precision="fp32")).softmax(dim=1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def logistic(x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the weights [d] that imitate these probabilities of class 1 by our loss at T = 1."""
    weight = torch.zeros(x.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=60, line_search_fn="strong_wolfe")
    logits_t = torch.stack([(1 - targets), targets], dim=1).clamp_min(1e-6).log()

    def closure():
        optimizer.zero_grad()
        z = x @ weight
        loss = soft_target_loss(torch.stack([torch.zeros_like(z), z], 1), logits_t, 1.0).mean()
        loss = loss + 1e-6 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach()


def generalized_distillation(repeats: int) -> tuple[float, float, float]:
    """Return mean test accuracies: of a teacher that sees the clean labels, none, and with it.

    200 rows of 50 numbers, 10,000 to test; the clean label is the distance to the plane.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    scores = []
    for _ in range(repeats):
        plane = draw(50)
        x, x_test = draw(200, 50), draw(10_000, 50)
        distance, far = x @ plane, x_test @ plane
        y = (distance + draw(200) > 0).float()
        y_test = far + draw(10_000) > 0
        slope = logistic(distance[:, None], y)
        soft = torch.sigmoid(distance * slope)
        privileged = ((far * slope > 0) == y_test).float().mean()
        regular, distilled = (
            ((x_test @ logistic(x, target) > 0) == y_test).float().mean() for target in (y, soft)
        )
        scores.append(torch.stack([privileged, regular, distilled]))
    return tuple((100 * torch.stack(scores).mean(dim=0)).tolist())


def test_clean_labels_seen_by_the_teacher_alone_help_as_published():
    """Lopez-Paz et al. 2016, experiment 1: 96, 88 and 95% (100 repetitions)."""
    privileged, regular, distilled = generalized_distillation(15)
    assert privileged == pytest.approx(96, abs=2)
    assert regular == pytest.approx(88, abs=2)
    assert distilled == pytest.approx(95, abs=2)
