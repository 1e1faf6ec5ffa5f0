from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bertwright.errors import ConfigError, UsageError
from bertwright.methods.distil.hidden_matching import (
    HiddenMatching,
    HiddenMatchingConfig,
    make_projection,
)
from bertwright.methods.distil.soft_targets import (
    SoftTargets,
    SoftTargetsConfig,
    soft_target_loss,
)
from bertwright.methods.distil.student_init import StudentInitConfig, init_student
from bertwright.methods.distil.teacher_cache import LiveTeacher, TeacherCache
from bertwright.methods.distil.train import ask_teacher, distil_hooks, train_distilled
from bertwright.models.build import build_task_model
from bertwright.tasks import find_task
from bertwright.training.loop import train
from methods.cases import (
    LABELS,
    KilledError,
    kill_at_step,
    same_weights,
    tiny_rows,
    tiny_teacher,
    tiny_training,
    trained_teacher,
    weights,
)
from tiny import tiny_encoder


def fresh_student():
    return init_student(tiny_teacher(), [0, 1])


def narrow_student():
    encoder, tokenizer = tiny_encoder(
        "bert", hidden_size=16, intermediate_size=24, num_hidden_layers=2
    )
    return build_task_model(
        encoder, task="classify", labels=LABELS, max_length=32, tokenizer=tokenizer
    )


def distil(student, teacher, rows, folder, methods, **options):
    training = tiny_training(**options.pop("training", {}))
    return train_distilled(
        student,
        teacher,
        rows,
        rows,
        methods=methods,
        training=training,
        run_dir=folder / "run",
        cache_folder=folder / "caches",
        **options,
    )


def test_alpha_zero_is_plain_training_bit_for_bit(tmp_path):
    teacher = tiny_teacher()
    rows = tiny_rows(teacher)
    plain, distilled = fresh_student(), fresh_student()
    task = find_task("classify")
    train(plain, rows, rows, task=task, config=tiny_training(), run_dir=tmp_path / "p")
    distil(distilled, teacher, rows, tmp_path, [SoftTargetsConfig(alpha=0.0)])
    assert same_weights(weights(plain), weights(distilled))
    other = fresh_student()
    distil(other, teacher, rows, tmp_path, [SoftTargetsConfig(alpha=0.5)])
    assert not same_weights(weights(plain), weights(other))


def test_student_comes_near_to_the_teachers_answers(tmp_path):
    teacher = trained_teacher()
    rows = tiny_rows(teacher, num_rows=96)
    student = init_student(teacher, [0, 1])
    methods = [SoftTargetsConfig(alpha=1.0, temperature=1.0), HiddenMatchingConfig()]
    training = {"epochs": 8, "batch_size": 16, "keep_best": False}
    distil(student, teacher, rows, tmp_path, methods, training=training)
    lines = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    third = len(lines) // 3
    for name in ("soft_targets/soft", "hidden_matching/hidden"):
        values = [line[name] for line in lines]
        assert values[0] > 0.01
        assert sum(values[-third:]) < 0.6 * sum(values[:third]), name
    assert "soft_targets/hard" in lines[0]


def test_cache_and_live_teacher_train_the_same_student(tmp_path):
    teacher = tiny_teacher()
    rows = tiny_rows(teacher)
    cached, live = fresh_student(), fresh_student()
    distil(cached, teacher, rows, tmp_path, [SoftTargetsConfig()], training={"max_steps": 3})
    distil(
        live, LiveTeacher(teacher), rows, tmp_path, [SoftTargetsConfig()], training={"max_steps": 3}
    )
    for (name, a), b in zip(weights(cached).items(), weights(live).values(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3, msg=name)


def test_the_cheapest_source_is_chosen(tmp_path):
    teacher, student = tiny_teacher(), fresh_student()
    rows = tiny_rows(teacher)

    def source(*methods):
        return ask_teacher(teacher, student, rows, methods, cache_folder=tmp_path)

    soft = source(SoftTargetsConfig())
    assert isinstance(soft, TeacherCache)
    matching = source(SoftTargetsConfig(), HiddenMatchingConfig(embeddings=True))
    assert isinstance(matching, TeacherCache)
    matching.hidden({"indices": [0], "attention_mask": torch.ones(1, int(rows.lengths[0]))}, 2)
    assert sorted(matching._hidden) == [0, 2, 4] and not soft._hidden
    live = source(HiddenMatchingConfig(hidden_weight=0.0, attention_weight=1.0))
    assert isinstance(live, LiveTeacher)


@pytest.mark.parametrize("attention_weight", [0.0, 1.0])
def test_narrower_student_learns_through_a_projection_and_resumes(
    tmp_path, monkeypatch, attention_weight
):
    teacher = tiny_teacher()
    rows = tiny_rows(teacher)
    methods = [SoftTargetsConfig(), HiddenMatchingConfig(attention_weight=attention_weight)]
    options = {"training": {"checkpoint_steps": 1}}
    unbroken = narrow_student()
    distil(unbroken, teacher, rows, tmp_path / "a", methods, **options)
    assert not same_weights(weights(unbroken), weights(narrow_student()))
    assert set(weights(unbroken)) == set(weights(narrow_student()))  # the projection is dropped
    mend = kill_at_step(monkeypatch, 7)
    with pytest.raises(KilledError):
        distil(narrow_student(), teacher, rows, tmp_path / "b", methods, **options)
    mend()
    resumed = narrow_student()
    distil(resumed, teacher, rows, tmp_path / "b", methods, resume=True, **options)
    assert same_weights(weights(resumed), weights(unbroken))


def test_projection_is_trained_and_kept_in_the_hooks_state(tmp_path):
    teacher = tiny_teacher()
    rows = tiny_rows(teacher)
    student = narrow_student()
    hook = HiddenMatching(HiddenMatchingConfig(), teacher)
    config = tiny_training(max_steps=3)
    task = find_task("classify")
    train(student, rows, rows, task=task, config=config, hooks=[hook], run_dir=tmp_path)
    assert hook.projection is not None
    start = make_projection(16, 32, config.seed)
    assert not torch.equal(hook.projection.weight, start.weight)
    saved = {"projection": {k: v.clone() for k, v in hook.state_dict()["projection"].items()}}
    trained = hook.projection
    with torch.no_grad():
        trained.weight.zero_()
    hook.load_state_dict(saved)
    assert hook.projection is trained and trained.weight.abs().max() > 0


def test_attention_dropout_comes_back(tmp_path):
    teacher, student = tiny_teacher(), fresh_student()
    rows = tiny_rows(teacher)
    rates = [m.p for m in student.modules() if isinstance(m, torch.nn.Dropout)]
    assert 0.1 in rates
    methods = [HiddenMatchingConfig(attention_weight=1.0)]
    distil(student, teacher, rows, tmp_path, methods, training={"max_steps": 2})
    assert [m.p for m in student.modules() if isinstance(m, torch.nn.Dropout)] == rates


def test_teacher_is_left_as_it_was(tmp_path):
    teacher = tiny_teacher()
    before = weights(teacher)
    rows = tiny_rows(teacher)
    methods = [SoftTargetsConfig(), HiddenMatchingConfig(attention_weight=1.0)]
    distil(fresh_student(), teacher, rows, tmp_path, methods)
    assert same_weights(before, weights(teacher))
    assert all(p.grad is None for p in teacher.parameters())


def test_other_labels_heads_tokenizers_and_methods_are_refused(tmp_path):
    teacher, student = tiny_teacher(), fresh_student()
    rows = tiny_rows(teacher)
    student.labels = LABELS[::-1]
    with pytest.raises(UsageError, match="teacher's labels"):
        distil(student, teacher, rows, tmp_path, [SoftTargetsConfig()])
    encoder, tokenizer = tiny_encoder("bert", num_attention_heads=2, num_hidden_layers=2)
    two_heads = build_task_model(
        encoder, task="classify", labels=LABELS, max_length=32, tokenizer=tokenizer
    )
    with pytest.raises(UsageError, match="2 attention heads"):
        distil(two_heads, teacher, rows, tmp_path, [HiddenMatchingConfig(attention_weight=1.0)])
    with pytest.raises(UsageError, match="tokenizer"):
        distil(tiny_teacher("xlnet"), teacher, rows, tmp_path, [SoftTargetsConfig()])
    with pytest.raises(UsageError, match="student_init"):
        distil_hooks([StudentInitConfig(num_layers=2)], LiveTeacher(teacher))
    with pytest.raises(ConfigError, match="twice"):
        distil(fresh_student(), teacher, rows, tmp_path, [SoftTargetsConfig()] * 2)


def test_hooks_run_replacing_before_adding():
    hooks = distil_hooks([HiddenMatchingConfig(), SoftTargetsConfig()], LiveTeacher(tiny_teacher()))
    assert [type(h) for h in sorted(hooks, key=lambda h: h.order)] == [SoftTargets, HiddenMatching]


def test_five_lines(tmp_path):
    logits_t, logits_s = torch.randn(4, 3), torch.randn(4, 3, requires_grad=True)
    loss = soft_target_loss(logits_s, logits_t, temperature=2.0).mean()
    loss.backward()
    assert np.isfinite(loss.item()) and logits_s.grad is not None
