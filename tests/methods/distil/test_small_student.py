from __future__ import annotations

import numpy as np
import pytest
import torch

from bertwright.data.batching import MODEL_INPUTS
from bertwright.engines.compile import compile_model
from bertwright.engines.opening import open_session
from bertwright.engines.torch_engine import TorchSession
from bertwright.errors import ConfigError, UsageError
from bertwright.methods.distil.hidden_matching import HiddenMatchingConfig
from bertwright.methods.distil.small_student import (
    SmallStudent,
    SmallStudentConfig,
    frequency_weights,
    piece_vectors,
    reduce_width,
)
from bertwright.methods.distil.soft_targets import SoftTargetsConfig
from bertwright.methods.distil.train import train_distilled
from bertwright.methods.prune.vocabulary import VocabularyTrimming, VocabularyTrimmingConfig
from bertwright.methods.quantize.int8 import simulate_int8
from bertwright.models.build import build_task_model
from bertwright.models.task_model import ModelConfig, TaskModel
from bertwright.tasks import find_task
from bertwright.training.evaluation import compute_logits
from engines_models import inputs_of
from methods.cases import LABELS, tiny_rows, tiny_teacher, tiny_training, trained_teacher
from tiny import FAMILY_NAMES, tiny_encoder

KINDS = ["static", "cnn", "lstm"]
WITH_RUNS = {"ngrams": 3, "buckets": 211, "positions": True}


def student_of(teacher, rows, **options) -> TaskModel:
    return SmallStudent(SmallStudentConfig(**options)).apply(teacher, rows)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_vectors_of_pieces_are_the_teachers_of_each_alone(family):
    teacher = tiny_teacher(family)
    found = piece_vectors(teacher, outputs=True)
    assert found.shape == (teacher.encoder.config.vocab_size, 32) and found.std() > 0
    tokenizer = teacher.tokenizer
    for word in ("film", "good"):
        batch = tokenizer(word, return_tensors="pt")
        inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
        with torch.no_grad():
            states = teacher(**inputs, output_hidden_states=True).hidden_states[-1]
        id_ = tokenizer.convert_tokens_to_ids(word)
        torch.testing.assert_close(found[id_], states[0].mean(dim=0), atol=1e-5, rtol=1e-4)
        assert (found[id_] - states[0, 0]).abs().max() > 1e-3


def test_fewer_numbers_keep_the_most_of_the_spread():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(200, 6, generator=generator) * torch.tensor([5, 4, 3, 1, 0.5, 0.1])
    vectors = vectors + 7
    found = reduce_width(vectors, 3)
    centred = (vectors - vectors.mean(dim=0)).double().numpy()
    singular = np.linalg.svd(centred, compute_uv=False)
    lost = (centred**2).sum() - (found.double().numpy() ** 2).sum()
    np.testing.assert_allclose(lost, (singular[3:] ** 2).sum(), rtol=1e-4)
    gram = (found.T @ found).numpy()
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-2)
    assert torch.equal(reduce_width(vectors, 6), vectors)
    assert (centred**2).sum() - (centred[:, :3] ** 2).sum() > 0


def test_frequent_pieces_weigh_less():
    teacher = tiny_teacher()
    rows = tiny_rows(teacher, 12)
    found = frequency_weights(rows, teacher.encoder.config.vocab_size).numpy()
    tokens = np.concatenate(rows.tokens(np.arange(12)))
    for id_ in (int(tokens[0]), int(tokens[3])):
        share = (tokens == id_).mean()
        assert found[id_] == pytest.approx(1e-3 / (1e-3 + share), rel=1e-5) and share > 0
    unused = set(range(len(found))) - set(tokens.tolist())
    assert all(found[id_] == 1 for id_ in unused) and unused


def test_before_training_a_static_student_is_a_weighted_sum_of_vectors():
    teacher = trained_teacher()
    rows = tiny_rows(teacher)
    student = student_of(teacher, rows)
    assert student.roles.num_layers == 0
    table = piece_vectors(teacher, outputs=True)
    weights = frequency_weights(rows, len(table))
    batch = rows.collate(np.arange(3))
    with torch.no_grad():
        pooled = student(batch["input_ids"], batch["attention_mask"]).pooled
    for row in range(3):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        wanted = (table[ids] * weights[ids, None]).mean(dim=0)
        torch.testing.assert_close(pooled[row], wanted, atol=1e-5, rtol=1e-4)
        assert (pooled[row] - table[ids].mean(dim=0)).abs().max() > 1e-2


def test_vectors_may_begin_as_they_are():
    teacher = trained_teacher()
    student = student_of(teacher, tiny_rows(teacher), start="words", weighted=False)
    table = teacher.encoder.get_input_embeddings().weight
    assert torch.equal(student.encoder.get_input_embeddings().weight, table)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_learns_from_its_teacher(kind, tmp_path):
    teacher = trained_teacher(seed=1)
    rows = tiny_rows(teacher, 96)
    student = student_of(teacher, rows, kind=kind, **WITH_RUNS)
    train_distilled(
        student,
        teacher,
        rows,
        None,
        methods=[SoftTargetsConfig()],
        training=tiny_training(epochs=15, lr=1e-2),
        run_dir=tmp_path / "run",
        cache_folder=tmp_path / "cache",
    )
    same = compute_logits(student, rows).argmax(1) == compute_logits(teacher, rows).argmax(1)
    assert same.mean() > 0.95


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", KINDS)
def test_graphs_of_the_engines_agree_with_torch(kind, engine, tmp_path):
    teacher = tiny_teacher()
    student = student_of(teacher, tiny_rows(teacher), kind=kind, start="random", **WITH_RUNS)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    student.save(tmp_path / "m")
    compile_model(tmp_path / "m", f"{engine}:fp32", tmp_path / "out", threads=1)
    session = open_session(tmp_path / "out", threads=1)
    reference = TorchSession(TaskModel.load(tmp_path / "m"), "fp32", 1)
    for batch in (inputs_of([1]), inputs_of([7]), inputs_of([7], width=16), inputs_of([30, 1, 7])):
        wanted = reference(**batch)
        np.testing.assert_allclose(session(**batch), wanted, atol=2e-4, rtol=1e-3)
        assert np.abs(wanted).max() > 0.05


def test_hidden_states_of_a_small_student_can_be_matched_if_it_has_layers(tmp_path):
    teacher = trained_teacher()
    rows = tiny_rows(teacher, 24)
    arguments = {
        "methods": [HiddenMatchingConfig()],
        "training": tiny_training(max_steps=2),
        "cache_folder": tmp_path / "cache",
    }
    student = student_of(teacher, rows, kind="cnn", width=16, layers=2)
    train_distilled(student, teacher, rows, None, run_dir=tmp_path / "a", **arguments)
    with pytest.raises(UsageError, match="no layers"):
        train_distilled(
            student_of(teacher, rows), teacher, rows, None, run_dir=tmp_path / "b", **arguments
        )


def test_its_vocabulary_can_be_trimmed_bit_for_bit(tmp_path):
    teacher = tiny_teacher()
    rows = tiny_rows(teacher)
    student = student_of(teacher, rows, **WITH_RUNS)
    torch.nn.init.normal_(student.encoder.embeddings.run_embeddings.weight)
    method = VocabularyTrimming(VocabularyTrimmingConfig(characters=False))
    trimmed = method.apply(student, rows)
    assert trimmed.num_parameters < student.num_parameters
    trimmed.save(tmp_path / "m")
    loaded = TaskModel.load(tmp_path / "m")
    before = compute_logits(student, rows, precision="fp32")
    np.testing.assert_array_equal(
        compute_logits(loaded, tiny_rows(loaded), precision="fp32"), before
    )


@pytest.mark.parametrize("task", ["tag", "embed", "regress", "span"])
def test_other_tasks(task):
    encoder, tokenizer = tiny_encoder()
    how = find_task(task)
    labels = ["O", "B-x", "I-x"] if task == "tag" else []
    teacher = build_task_model(
        encoder,
        task=task,
        labels=labels,
        tokenizer=tokenizer,
        max_length=32,
        outputs=how.outputs(labels),
    )
    rows = tiny_rows(tiny_teacher())
    student = student_of(teacher, rows, kind="cnn", width=8)
    batch = rows.collate(np.arange(4))
    inputs = (batch["input_ids"], batch["attention_mask"])
    with torch.no_grad():
        found, wanted = student(*inputs).logits, teacher(*inputs).logits
    assert found.shape == wanted.shape and found.isfinite().all()


def test_options_that_do_not_fit_are_refused():
    teacher = tiny_teacher()
    rows = tiny_rows(teacher)
    with pytest.raises(ConfigError, match="32 numbers"):
        student_of(teacher, rows, width=64)
    assert student_of(teacher, rows, width=64, start="random").roles.hidden_size == 64
    with pytest.raises(ConfigError, match="start=words"):
        student_of(tiny_teacher("electra"), rows, start="words")
    with pytest.raises(UsageError, match="quantized"):
        student_of(simulate_int8(teacher), rows)
    for bad in ({"kernel": 2}, {"ngrams": 0}, {"width": 1}, {"dropout": 1.0}, {"layers": 0}):
        with pytest.raises(ConfigError):
            SmallStudentConfig(**bad)


def test_a_crf_stays_on_a_small_tagger():
    encoder, tokenizer = tiny_encoder()
    labels = ["O", "B-x", "I-x"]
    teacher = build_task_model(
        encoder,
        task="tag",
        labels=labels,
        tokenizer=tokenizer,
        config=ModelConfig(head_crf=True),
        outputs=find_task("tag").outputs(labels),
    )
    student = student_of(teacher, tiny_rows(tiny_teacher()), kind="lstm")
    assert student.config.head_crf and student.labels == labels != LABELS
