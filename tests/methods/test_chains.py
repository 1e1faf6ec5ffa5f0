"""Methods one after the other: orders that make sense end in an engine, others are refused.

Each step's result is saved and loaded before the next one, as commands do it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from bertwright.data.tokenise import EncodedRows
from bertwright.engines.compile import compile_model
from bertwright.engines.opening import open_session
from bertwright.engines.parity import encoded_batches, label_agreement
from bertwright.engines.torch_engine import TorchSession
from bertwright.methods.distil.hidden_matching import HiddenMatchingConfig
from bertwright.methods.distil.relations import RelationsConfig
from bertwright.methods.distil.small_student import SmallStudentConfig, make_small_student
from bertwright.methods.distil.soft_targets import SoftTargetsConfig
from bertwright.methods.distil.student_init import init_student
from bertwright.methods.distil.train import train_distilled
from bertwright.methods.finetune.layer_drop import LayerDrop, LayerDropConfig
from bertwright.methods.prune.embedding_factors import EmbeddingFactors, EmbeddingFactorsConfig
from bertwright.methods.prune.gradual import GradualPruningConfig
from bertwright.methods.prune.heads import HeadPruning, HeadPruningConfig
from bertwright.methods.prune.layers import LayerPruning, LayerPruningConfig
from bertwright.methods.prune.neurons import NeuronPruning, NeuronPruningConfig
from bertwright.methods.prune.train import train_pruned
from bertwright.methods.prune.vocabulary import VocabularyTrimming, VocabularyTrimmingConfig
from bertwright.methods.prune.width import WidthPruning, WidthPruningConfig
from bertwright.methods.quantize.int8 import simulate_int8
from bertwright.methods.quantize.qat import Qat, QatConfig
from bertwright.methods.replace.theseus import TheseusConfig
from bertwright.methods.replace.train import train_theseus
from bertwright.models.export import export_transformers
from bertwright.models.task_model import TaskModel
from bertwright.models.widths import widths_of
from bertwright.tasks import find_task
from bertwright.training.loop import train
from methods.cases import (
    inputs_of,
    some_batch,
    tiny_rows,
    tiny_training,
    trained_teacher,
    weights,
)
from methods.orders import REFUSED, teacher

TASK = find_task("classify")
FP32 = 1e-3
"""What `compile_model` promises of a logit, times the largest if that is above 1."""
AGREEMENT = 0.97
"""What it promises of int8: 3 points of torch's own labels may change."""
BATCHES = {"batch_tokens": 256, "batch_size": 16, "pad_multiple": 8}
SOFT = SoftTargetsConfig(alpha=1.0, temperature=1.0)


def logits_of(model: TaskModel) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs_of(some_batch(tiny_rows(model)))).logits


class Chain:
    """Runs methods in a folder; each result is saved, loaded, and compared with what was saved."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count()
        self.steps: list[TaskModel] = []

    def place(self, what: str) -> Path:
        return self.folder / f"{next(self._numbers)}-{what}"

    def kept(self, model: TaskModel) -> TaskModel:
        """Return what is loaded of the saved model, which is the same bit for bit."""
        place = self.place("model")
        model.save(place)
        loaded = TaskModel.load(place)
        before, after = weights(model), weights(loaded)
        assert before.keys() == after.keys() and len(before) > 2
        assert all(torch.equal(before[name], after[name]) for name in before)
        logits = logits_of(model)
        assert logits.isfinite().all() and logits.std() > 1e-3
        assert torch.equal(logits_of(loaded), logits)
        assert loaded.surgery.to_json() == model.surgery.to_json()
        self.steps.append(loaded)
        return loaded

    def distil(
        self, student: TaskModel, teacher: TaskModel, *methods: Any, rows: Any = None
    ) -> TaskModel:
        before = weights(student)
        rows = tiny_rows(student, 96) if rows is None else rows
        train_distilled(
            student,
            teacher,
            rows,
            None,
            methods=list(methods or (SOFT,)),
            training=tiny_training(max_steps=20, lr=3e-3, batch_size=16),
            run_dir=self.place("run"),
            cache_folder=self.folder / "caches",
        )
        assert any(not torch.equal(before[name], now) for name, now in weights(student).items())
        return self.kept(student)

    def theseus(self, teacher: TaskModel, num_layers: int = 2) -> TaskModel:
        student, _ = train_theseus(
            teacher,
            tiny_rows(teacher, 96),
            None,
            config=TheseusConfig(num_layers=num_layers),
            training=tiny_training(max_steps=16, lr=3e-3, batch_size=16),
            run_dir=self.place("run"),
        )
        return self.kept(student)

    def gradually(self, model: TaskModel, teacher: TaskModel) -> TaskModel:
        narrow, _ = train_pruned(
            model,
            teacher,
            tiny_rows(model, 96),
            None,
            config=GradualPruningConfig(heads=0.5, neurons=0.5, multiple=8, times=3),
            methods=[SOFT],
            training=tiny_training(max_steps=20, lr=3e-3, batch_size=16),
            run_dir=self.place("run"),
            cache_folder=self.folder / "caches",
        )
        assert narrow.num_parameters < model.num_parameters
        return self.kept(narrow)

    def pruned(self, maker: Any, model: TaskModel) -> TaskModel:
        smaller = maker.apply(model, tiny_rows(model, 96), TASK)
        assert smaller.num_parameters < model.num_parameters
        return self.kept(smaller)

    def trimmed(self, model: TaskModel) -> TaskModel:
        rows = tiny_rows(model, 96)
        trimmed = VocabularyTrimming(VocabularyTrimmingConfig(characters=False)).apply(model, rows)
        assert trimmed.encoder.config.vocab_size < model.encoder.config.vocab_size
        assert torch.equal(logits_of(trimmed), logits_of(model))  # the same texts, other ids
        return self.kept(trimmed)

    def compiled(self, model: TaskModel, spec: str) -> None:
        """Compile the model; the engine's logits are as near to torch's as is promised."""
        rows = tiny_rows(model, 48, seed=1)
        self.kept(model).save(self.folder / "last")
        out = self.place("engine")
        compile_model(self.folder / "last", spec, out, calibration=rows, parity=rows, threads=1)
        session = open_session(out, threads=1)
        earlier = next(
            step for step in self.steps if not same_answers(step, model) and fits(step, rows)
        )
        reference, other = (TorchSession(one, "fp32", 1) for one in (model, earlier))
        batches = [batch for _, batch in encoded_batches(rows, **BATCHES)]
        ours, torchs, others = (
            np.concatenate([run(**batch) for batch in batches])
            for run in (session, reference, other)
        )
        assert ours.shape == (48, 3) and np.isfinite(ours).all() and ours.std() > 1e-3
        if spec.endswith("fp32"):
            allowed = FP32 * max(1.0, float(np.abs(torchs).max()))
            assert np.abs(ours - torchs).max() <= allowed < np.abs(ours - others).max()
        else:
            assert label_agreement(torchs, ours) >= AGREEMENT
            assert np.abs(ours - torchs).mean() < 0.5 * np.abs(ours - others).mean()


def same_answers(a: TaskModel, b: TaskModel) -> bool:
    return torch.equal(logits_of(a), logits_of(b))


def fits(model: TaskModel, rows: EncodedRows) -> bool:
    """Return whether the model has a vector for every piece, so that it can be run on the rows."""
    return max(int(rows.tokens([i])[0].max()) for i in range(len(rows))) < int(
        model.encoder.config.vocab_size
    )


def prune_heads_then_distil(chain: Chain) -> TaskModel:
    teacher = chain.kept(trained_teacher())
    narrow = chain.pruned(HeadPruning(HeadPruningConfig(share=0.4, scope="global")), teacher)
    return chain.distil(narrow, teacher, SOFT, RelationsConfig())


def theseus_then_heads_then_distil(chain: Chain) -> TaskModel:
    teacher = chain.kept(trained_teacher())
    shallow = chain.theseus(teacher)
    assert shallow.roles.num_layers == 2
    narrow = chain.pruned(HeadPruning(HeadPruningConfig(share=0.5)), shallow)
    matched = HiddenMatchingConfig(tokens="cls", hidden_loss="cosine", last_layer=False)
    return chain.distil(narrow, teacher, SOFT, matched)


def layer_drop_then_cut_then_trim(chain: Chain) -> TaskModel:
    model = chain.kept(trained_teacher())
    before = weights(model)
    train(
        model,
        tiny_rows(model, 96),
        None,
        task=TASK,
        config=tiny_training(max_steps=16, batch_size=16),
        hooks=[LayerDrop(LayerDropConfig(rate=0.3))],
        run_dir=chain.place("run"),
    )
    assert any(not torch.equal(before[name], now) for name, now in weights(model).items())
    cut = chain.pruned(LayerPruning(LayerPruningConfig(num_layers=2)), chain.kept(model))
    trimmed = chain.trimmed(cut)
    export_transformers(trimmed, chain.folder / "stock")
    stock = AutoModelForSequenceClassification.from_pretrained(chain.folder / "stock").eval()
    with torch.no_grad():
        theirs = stock(**inputs_of(some_batch(tiny_rows(trimmed)))).logits
    torch.testing.assert_close(theirs, logits_of(trimmed), atol=1e-5, rtol=0)
    return trimmed


def factors_then_gradually_then_trim(chain: Chain) -> TaskModel:
    teacher = chain.kept(trained_teacher())
    thin = chain.pruned(EmbeddingFactors(EmbeddingFactorsConfig(rank=8)), teacher)
    return chain.trimmed(chain.gradually(thin, teacher))


def small_student_then_trim(chain: Chain) -> TaskModel:
    teacher = chain.kept(trained_teacher())
    rows = tiny_rows(teacher, 96)
    small = make_small_student(
        teacher, rows, SmallStudentConfig(kind="cnn", ngrams=2, buckets=97, positions=True)
    )
    return chain.trimmed(chain.distil(small, teacher))


def everything(chain: Chain) -> TaskModel:
    teacher = chain.kept(trained_teacher())
    model = chain.theseus(teacher)
    for maker in (
        HeadPruning(HeadPruningConfig(share=0.5)),
        NeuronPruning(NeuronPruningConfig(share=0.5, multiple=8)),
        WidthPruning(WidthPruningConfig(share=0.5, multiple=8)),
        EmbeddingFactors(EmbeddingFactorsConfig(rank=8)),
    ):
        model = chain.pruned(maker, model)
    matched = HiddenMatchingConfig(embeddings=True, share=0.5)
    return chain.trimmed(chain.distil(model, teacher, SOFT, matched))


CHAINS: list[Callable[[Chain], TaskModel]] = [
    prune_heads_then_distil,
    theseus_then_heads_then_distil,
    layer_drop_then_cut_then_trim,
    factors_then_gradually_then_trim,
    small_student_then_trim,
    everything,
]
FAST = {
    "prune_heads_then_distil": "onnxruntime:int8",
    "small_student_then_trim": "onnxruntime:int8",
}


def name_of(chain: Callable[..., Any]) -> str:
    return chain.__name__


@pytest.mark.parametrize("steps", CHAINS, ids=name_of)
def test_the_chain_ends_in_onnx_runtime(steps, tmp_path):
    chain = Chain(tmp_path)
    chain.compiled(steps(chain), FAST.get(steps.__name__, "onnxruntime:fp32"))


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["onnxruntime:int8", "openvino:fp32", "openvino:int8"])
@pytest.mark.parametrize("steps", CHAINS, ids=name_of)
def test_the_chain_ends_in_every_engine(steps, spec, tmp_path):
    chain = Chain(tmp_path)
    chain.compiled(steps(chain), spec)


def test_theseus_then_heads_then_rounding_ends_in_real_int8(tmp_path):
    chain = Chain(tmp_path)
    shallow = chain.theseus(chain.kept(trained_teacher()))
    narrow = chain.pruned(HeadPruning(HeadPruningConfig(share=0.5)), shallow)
    train(
        narrow,
        tiny_rows(narrow, 96),
        None,
        task=TASK,
        config=tiny_training(max_steps=30, lr=3e-3, batch_size=16),
        hooks=[Qat(QatConfig(decay=0.5))],
        run_dir=chain.place("run"),
    )
    rounded = chain.kept(narrow)
    assert rounded.ranges is not None and widths_of(rounded.encoder).heads == (2, 2)
    chain.compiled(rounded, "openvino:int8")


def test_a_quantized_model_may_teach(tmp_path):
    chain = Chain(tmp_path)
    teacher = trained_teacher()
    rounded = simulate_int8(teacher)
    assert not same_answers(rounded, teacher)
    by_exact, by_rounded = (
        chain.distil(init_student(teacher, [0, 1]), one) for one in (teacher, rounded)
    )
    assert not same_answers(by_exact, by_rounded)


@pytest.mark.parametrize("name", REFUSED)
def test_a_senseless_order_is_refused_with_the_reason(name, tmp_path):
    run, error, reason = REFUSED[name]
    before = weights(teacher())
    with pytest.raises(error, match=reason) as caught:
        run(tmp_path)
    assert len(str(caught.value)) > 30
    assert all(torch.equal(before[key], now) for key, now in weights(teacher()).items())
