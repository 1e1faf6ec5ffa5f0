"""Encoders that students of their depth start from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bertwright.compress.candidates import StudentPlan
from bertwright.compress.starts import starts_by_depth
from bertwright.compress.students import StudentContext, _student_of, _untrained, train_whole
from bertwright.data.tokenise import tokenise
from bertwright.errors import ConfigError, UsageError
from bertwright.methods.distil.soft_targets import SoftTargetsConfig
from bertwright.methods.prune.vocabulary import VocabularyTrimming, VocabularyTrimmingConfig
from bertwright.models.build import copy_with_layers
from bertwright.models.encoder import load_encoder
from bertwright.models.task_model import TaskModel
from bertwright.models.vocabulary import copy_with_vocabulary
from bertwright.training.config import TrainingConfig
from tiny import tiny_encoder

TRAINING = TrainingConfig(
    epochs=2, lr=3e-3, evals_per_epoch=1, precision="fp32", threads=1, max_length=16
)


@pytest.fixture(scope="module")
def teacher(teacher_dir) -> TaskModel:
    return TaskModel.load(teacher_dir)


@pytest.fixture(scope="module")
def start(teacher, tmp_path_factory) -> str:
    """A two-layer model with the teacher's vocabulary and weights of its own."""
    folder = tmp_path_factory.mktemp("start") / "model"
    student = copy_with_layers(teacher, [0, 1])
    with torch.no_grad():
        for parameter in student.encoder.parameters():
            parameter.add_(0.01)
    student.save(folder)
    return str(folder)


def make_context(teacher, rows, folder, starts) -> StudentContext:
    return StudentContext(
        teacher=teacher,
        base_model=teacher.lineage["base_model"],
        train_rows=tokenise(rows.train, teacher.tokenizer, max_length=16),
        dev_rows=tokenise(rows.dev, teacher.tokenizer, max_length=16),
        distil_methods=[SoftTargetsConfig()],
        training=TRAINING,
        folder=folder,
        starts=starts,
    )


def test_students_of_its_depth_start_from_it_and_others_do_not(teacher, start, rows, tmp_path):
    starts = starts_by_depth([start], teacher)
    assert starts == {2: start}
    context = make_context(teacher, rows, tmp_path, starts)
    own = load_encoder(start)[0].state_dict()
    for plan, expected in (
        (StudentPlan(2, "distil", 0), True),
        (StudentPlan(3, "distil", 0), False),
    ):
        student = _student_of(teacher, plan, context).encoder.state_dict()
        key = "encoder.layer.0.attention.self.query.weight"
        assert torch.equal(student[key], own[key]) is expected
    narrow = _student_of(teacher, replace(StudentPlan(2, "distil", 0), heads=0.5), context)
    assert narrow.encoder.state_dict()[key].shape != own[key].shape


@pytest.mark.parametrize("method", ["distil", "control"])
def test_both_kinds_of_students_are_trained_from_it(method, teacher, start, rows, tmp_path):
    plan = StudentPlan(2, method, 0)
    scores = {}
    for name, starts in (("with", {2: start}), ("without", {})):
        done = train_whole(plan, make_context(teacher, rows, tmp_path / name, starts))
        scores[name] = TaskModel.load(done.model_dir).encoder.state_dict()
    key = "encoder.layer.1.output.dense.weight"
    assert not torch.equal(scores["with"][key], scores["without"][key])


def test_what_cannot_be_a_start_is_refused_with_the_reason(teacher, teacher_dir, start, tmp_path):
    with pytest.raises(ConfigError, match="it has 4 layers and the teacher 4"):
        starts_by_depth([str(teacher_dir)], teacher)
    with pytest.raises(ConfigError, match="both have 2 layers"):
        starts_by_depth([start, start], teacher)
    encoder, tokenizer = tiny_encoder("roberta", num_hidden_layers=1)
    encoder.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="its vocabulary is not the teacher's"):
        starts_by_depth([str(tmp_path)], teacher)


def test_students_of_a_trimmed_teacher_read_with_its_pieces(teacher, start, rows, tmp_path):
    """A control that looked the teacher's ids up in the whole table would read other words."""
    encoded = tokenise(rows.train, teacher.tokenizer, max_length=16)
    options = VocabularyTrimmingConfig(characters=False)
    trimmed = VocabularyTrimming(options).apply(teacher, encoded)
    assert len(trimmed.tokenizer) < len(teacher.tokenizer)
    starts = starts_by_depth([start], trimmed)
    context = make_context(trimmed, rows, tmp_path, starts)
    texts, read = rows.train.texts()[:8], ("input_ids", "attention_mask")
    for encoder in (context.base_model, starts[2]):
        logits = []
        for one in (trimmed, teacher):
            model = _untrained(encoder, one, 0)
            assert model.tokenizer.get_vocab() == one.tokenizer.get_vocab()
            inputs = one.tokenizer(texts, padding=True, return_tensors="pt")
            with torch.no_grad():
                logits.append(model(**{name: inputs[name] for name in read}).logits)
        assert torch.equal(*logits)
    control = train_whole(StudentPlan(2, "control", 0), context)
    assert len(TaskModel.load(control.model_dir).tokenizer) == len(trimmed.tokenizer)
    with pytest.raises(UsageError, match="not a part of that of"):
        copy_with_vocabulary(trimmed, teacher.tokenizer)
