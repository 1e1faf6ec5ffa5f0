"""Every registered method, swept: it trains, resumes, copies, exports, and refuses what it must."""

from __future__ import annotations

import copy
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from bertwright.card import render_card_markdown
from bertwright.config import config_from_dict, config_to_dict
from bertwright.data.labels import LabelSet
from bertwright.data.load import load_rows
from bertwright.data.tokenise import EncodedRows, tokenise
from bertwright.errors import UsageError
from bertwright.methods.distil.several_teachers import SeveralTeachers
from bertwright.methods.distil.small_student import SmallStudent
from bertwright.methods.distil.soft_targets import SoftTargetsConfig
from bertwright.methods.distil.student_init import init_student
from bertwright.methods.distil.teacher_source import LiveTeacher
from bertwright.methods.distil.train import train_distilled
from bertwright.methods.distil.transfer_set import (
    TransferSet,
    TransferSetConfig,
    write_transfer_set,
)
from bertwright.methods.prune.train import train_pruned
from bertwright.methods.prune.train_elastic import train_elastic
from bertwright.methods.quantize.int8 import simulate_int8
from bertwright.methods.replace.theseus import TheseusConfig
from bertwright.methods.replace.train import train_theseus
from bertwright.models.build import copy_with_pooling
from bertwright.models.export import export_transformers
from bertwright.models.task_model import TaskModel
from bertwright.registry import find_method, list_methods, parse_method_spec
from bertwright.tasks import find_task
from bertwright.training.loop import train
from methods.cases import (
    KilledError,
    inputs_of,
    kill_at_step,
    same_weights,
    some_batch,
    tiny_rows,
    tiny_teacher,
    tiny_training,
    weights,
)
from methods.settings import SETTINGS

NAMES = sorted(SETTINGS)
PRUNING = ["embedding_factors", "head_pruning", "neuron_pruning", "width_pruning"]
IN_TRAINING = ["gradual_pruning", "learned_gates"]
NOT_STOCK = {
    "early_exit": "early exits",
    "embedding_factors": "two factors",
    "fitted_head": "cannot pool by",
    "gradual_pruning": "no configuration",
    "head_pruning": "no configuration",
    "learned_gates": "no configuration",
    "small_student": "no classification head",
    "token_dropping": "leaves tokens out",
    "width_pruning": "narrower than the heads",
}
FINETUNED = ["layer_drop", "qat"]
MAKING = ["several_teachers", "small_student", "transfer_set"]
"""They make a student, its rows or its teacher, and soft_targets then trains."""
TRAINED = [
    "elastic",
    "hidden_matching",
    "relations",
    "several_teachers",
    "small_student",
    "soft_targets",
    "student_init",
    "theseus",
    "transfer_set",
    *PRUNING,
    *IN_TRAINING,
    *FINETUNED,
]


def run_method(
    name: str,
    folder: Path,
    *,
    resume: bool = False,
    other: bool = False,
    family: str = "bert",
    **training: Any,
) -> TaskModel:
    """Make a two-layer student of a tiny teacher by the method, and train it."""
    setting = SETTINGS[name]
    config = setting.other if other else setting.config
    teacher = tiny_teacher(family, **setting.overrides)
    rows = tiny_rows(teacher)
    options = tiny_training(**({"epochs": 2, "checkpoint_steps": 1} | training))
    if isinstance(config, TheseusConfig):
        arguments = {"config": config, "training": options, "run_dir": folder, "resume": resume}
        return train_theseus(teacher, rows, rows, **arguments)[0]
    if name in IN_TRAINING:
        arguments = {"config": config, "training": options, "run_dir": folder, "resume": resume}
        return train_pruned(teacher, None, rows, rows, **arguments)[0]
    if name == "elastic":
        arguments = {"config": config, "training": options, "run_dir": folder, "resume": resume}
        return train_elastic(teacher, None, rows, rows, **arguments)[0]
    if name == "int8_ptq":
        return find_method(name).apply(config).apply(teacher)
    if name in ("vocabulary_trimming", "static_ranges"):
        return find_method(name).apply(config).apply(teacher, rows)
    if name == "fitted_head":
        student = copy_with_pooling(init_student(teacher, [0, 1]), "mean", seed=0)
        return find_method(name).apply(config).apply(student, LiveTeacher(teacher), rows)
    if name == "layer_pruning":
        return find_method(name).apply(config).apply(teacher, rows, find_task("classify"))
    if name == "token_dropping":
        return find_method(name).apply(config).apply(teacher)[0]
    if name == "early_exit":
        return find_method(name).apply(config).apply(teacher, rows, tiny_rows(teacher, seed=1))[0]
    if name in FINETUNED:
        train(
            teacher,
            rows,
            rows,
            task=find_task("classify"),
            config=options,
            hooks=[find_method(name).apply(config)],
            run_dir=folder,
            resume=resume,
        )
        return teacher
    if name == "student_init" or name in PRUNING:
        maker: Any = find_method(name).apply(config)
        task = find_task("classify")
        student = maker.apply(teacher, rows, task) if name in PRUNING else maker.apply(teacher)
        train(
            student,
            rows,
            rows,
            task=task,
            config=options,
            run_dir=folder,
            resume=resume,
        )
        return student
    student = (
        SmallStudent(config).apply(teacher, rows)
        if name == "small_student"
        else init_student(teacher, [0, 1])
    )
    learned = with_generated(rows, teacher, config, folder) if name == "transfer_set" else rows
    source: Any = teacher
    if name == "several_teachers":
        pairs = [(one, rows) for one in (teacher, tiny_teacher(family, seed=1))]
        source = SeveralTeachers(config).apply(pairs, rows, cache_folder=folder.parent / "caches")
    train_distilled(
        student,
        source,
        learned,
        rows,
        methods=[SoftTargetsConfig() if name in MAKING else config],
        training=options,
        run_dir=folder,
        resume=resume,
        cache_folder=folder.parent / "caches",
    )
    return student


def with_generated(
    rows: EncodedRows, teacher: TaskModel, config: TransferSetConfig, folder: Path
) -> EncodedRows:
    """Return the rows and those made of them, answered by the teacher."""
    path = folder.parent / f"{folder.name}.jsonl"
    more = TransferSet(config).apply(teacher, rows.rows, seed=0)
    task = find_task("classify")
    assert write_transfer_set(path, rows.rows, more, teacher=teacher, task=task) == len(more) > 0
    return tokenise(
        load_rows(path, labels=LabelSet(tuple(teacher.labels))), teacher.tokenizer, max_length=32
    )


def losses_of(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_the_table_has_every_method_and_no_other():
    registered = {entry.name: entry for entry in list_methods()}
    assert sorted(registered) == NAMES
    for name, entry in registered.items():
        assert isinstance(SETTINGS[name].config, entry.config_type)


@pytest.mark.parametrize("name", NAMES)
def test_card_and_options_explain_themselves(name):
    entry = find_method(name)
    for item in fields(entry.card):
        assert str(getattr(entry.card, item.name)).strip()
    assert "TODO" not in render_card_markdown(entry.card)
    for config in (SETTINGS[name].config, SETTINGS[name].other):
        assert config_from_dict(entry.config_type, config_to_dict(config)) == config
    source = Path(__import__(entry.config_type.__module__, fromlist=["x"]).__file__).read_text()
    body = source.split(f"class {entry.config_type.__name__}", 1)[1].split("def ", 1)[0]
    for item in fields(entry.config_type):
        after = body.split(f"    {item.name}:", 1)[1].splitlines()[1]
        assert after.strip().startswith('"""'), f"{item.name} has no help"


def test_options_can_be_written_on_the_command_line():
    config = parse_method_spec("hidden_matching:layers=2+4,attention_weight=0.5")
    assert (config.layers, config.attention_weight) == ((2, 4), 0.5)
    assert parse_method_spec("theseus:num_layers=3,schedule=constant").num_layers == 3
    assert parse_method_spec("soft_targets:entropy=none").entropy is None


@pytest.mark.parametrize("name", TRAINED)
def test_trains_with_falling_loss_and_the_options_matter(name, tmp_path):
    student = run_method(name, tmp_path / "run", epochs=6)
    losses = losses_of(tmp_path / "run")
    assert len(losses) >= 4 and all(loss == loss and loss >= 0 for loss in losses)
    half = len(losses) // 2
    assert sum(losses[half:]) / len(losses[half:]) < sum(losses[:half]) / half
    whole = name in ("elastic", *PRUNING, *IN_TRAINING, *FINETUNED)
    assert student.roles.num_layers == (4 if whole else 2) and not student.training
    other = run_method(name, tmp_path / "other", epochs=6, other=True)
    assert not same_weights(weights(student), weights(other))


@pytest.mark.parametrize("name", TRAINED)
def test_runs_alike_twice_and_killed_and_resumed_equals_unbroken(name, tmp_path, monkeypatch):
    unbroken = weights(run_method(name, tmp_path / "a"))
    mend = kill_at_step(monkeypatch, 4)
    with pytest.raises(KilledError):
        run_method(name, tmp_path / "b")
    mend()
    assert same_weights(weights(run_method(name, tmp_path / "b", resume=True)), unbroken)


@pytest.mark.parametrize("name", NAMES)
def test_result_survives_deepcopy_saving_and_export(name, tmp_path):
    model = run_method(name, tmp_path / "run", max_steps=2)
    batch = inputs_of(some_batch(tiny_rows(model)))
    with torch.no_grad():
        logits = model(**batch).logits
        assert logits.isfinite().all() and logits.std() > 0
        assert torch.equal(copy.deepcopy(model)(**batch).logits, logits)
        if name == "int8_ptq":  # rounds at each call; what is stored is the rounded weights
            return
        model.save(tmp_path / "model")
        assert torch.equal(TaskModel.load(tmp_path / "model")(**batch).logits, logits)
        if name in NOT_STOCK:
            with pytest.raises(UsageError, match=NOT_STOCK[name]):
                export_transformers(model, tmp_path / "stock")
            return
        export_transformers(model, tmp_path / "stock")
        stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "stock").eval()
        torch.testing.assert_close(stock(**batch).logits, logits, atol=1e-5, rtol=0)


def test_training_after_quantization_is_refused_with_the_reason(tmp_path):
    rounded = simulate_int8(tiny_teacher())
    rows = tiny_rows(rounded)
    options = tiny_training(max_steps=1)
    with pytest.raises(UsageError, match="quantize last"):
        train_theseus(
            rounded,
            rows,
            rows,
            config=TheseusConfig(num_layers=2),
            training=options,
            run_dir=tmp_path,
        )
    with pytest.raises(UsageError, match="quantize last"):
        train_distilled(rounded, tiny_teacher(), rows, rows, training=options, run_dir=tmp_path)
