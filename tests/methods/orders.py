"""Orders of methods that make no sense: what is tried, and the reason that must come back."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertwright.data.tokenise import EncodedRows
from bertwright.errors import BertwrightError, ConfigError, UnsupportedRoleError, UsageError
from bertwright.methods.distil.hidden_matching import HiddenMatchingConfig
from bertwright.methods.distil.relations import RelationsConfig
from bertwright.methods.distil.small_student import SmallStudentConfig, make_small_student
from bertwright.methods.distil.soft_targets import SoftTargetsConfig
from bertwright.methods.distil.student_init import StudentInit, StudentInitConfig, init_student
from bertwright.methods.distil.teacher_source import LiveTeacher
from bertwright.methods.distil.train import distil_hooks, train_distilled
from bertwright.methods.finetune.layer_drop import LayerDrop, LayerDropConfig
from bertwright.methods.prune.embedding_factors import EmbeddingFactors, EmbeddingFactorsConfig
from bertwright.methods.prune.heads import HeadPruning, HeadPruningConfig
from bertwright.methods.prune.layers import LayerPruning, LayerPruningConfig
from bertwright.methods.prune.neurons import NeuronPruning, NeuronPruningConfig
from bertwright.methods.prune.vocabulary import VocabularyTrimming, VocabularyTrimmingConfig
from bertwright.methods.prune.width import WidthPruning, WidthPruningConfig
from bertwright.methods.quantize.int8 import simulate_int8
from bertwright.methods.replace.theseus import Theseus, TheseusConfig, apply_theseus
from bertwright.methods.replace.train import train_theseus
from bertwright.models.build import copy_with_layers, copy_with_widths
from bertwright.models.export import export_transformers
from bertwright.models.task_model import TaskModel
from bertwright.tasks import find_task
from bertwright.training.hooks import Hook
from bertwright.training.loop import train
from methods.cases import (
    tiny_rows,
    tiny_teacher,
    tiny_training,
)

__all__ = ["REFUSED", "teacher"]

TASK = find_task("classify")
SOFT = SoftTargetsConfig()


@functools.cache
def _plain() -> tuple[TaskModel, EncodedRows]:
    teacher = tiny_teacher()
    return teacher, tiny_rows(teacher)


def teacher() -> TaskModel:
    return _plain()[0]


def rows() -> EncodedRows:
    return _plain()[1]


def quantized() -> TaskModel:
    return simulate_int8(teacher())


def saved_quantized(folder: Path) -> TaskModel:
    quantized().save(folder / "rounded")
    return TaskModel.load(folder / "rounded")


def half_of_the_heads() -> TaskModel:
    return copy_with_widths(teacher(), heads={layer: [0, 2] for layer in range(4)})


def uneven() -> TaskModel:
    return copy_with_widths(teacher(), heads={1: [2], 3: [0, 1, 3]}, neurons={0: range(7)})


def small(kind: Any = "cnn", layers: int = 2) -> TaskModel:
    return make_small_student(
        teacher(), rows(), SmallStudentConfig(kind=kind, layers=layers), seed=0
    )


def trimmed() -> TaskModel:
    return VocabularyTrimming(VocabularyTrimmingConfig(characters=False)).apply(teacher(), rows())


def replacing() -> TaskModel:
    model = copy.deepcopy(teacher())
    apply_theseus(model, 2)
    return model


def distil(
    folder: Path, student: TaskModel, *methods: Any, by: TaskModel | None = None, data: Any = None
) -> None:
    train_distilled(
        student,
        by or teacher(),
        data or tiny_rows(student),
        None,
        methods=list(methods or (SOFT,)),
        training=tiny_training(max_steps=1),
        run_dir=folder / "run",
        cache_folder=folder / "caches",
    )


def theseus(folder: Path, model: TaskModel, num_layers: int = 2, data: Any = None) -> None:
    train_theseus(
        model,
        data or tiny_rows(model),
        None,
        config=TheseusConfig(num_layers=num_layers),
        training=tiny_training(max_steps=2),
        run_dir=folder / "run",
    )


def with_hooks(folder: Path, model: TaskModel, *hooks: Hook) -> None:
    config = tiny_training(max_steps=1)
    train(model, rows(), None, task=TASK, config=config, hooks=hooks, run_dir=folder / "run")


def matching_hook(config: Any) -> Hook:
    return distil_hooks([config], LiveTeacher(teacher()))[0]


def student() -> TaskModel:
    return init_student(teacher(), [0, 1])


def of_family(name: str, config: Any, folder: Path) -> None:
    model = tiny_teacher(name)
    distil(folder, init_student(model, [0, 1]), config, by=model)


def prune(config: Any, maker: Any, model: TaskModel, data: Any = None) -> TaskModel:
    return maker(config).apply(model, data or tiny_rows(model), TASK)


MAPS = HiddenMatchingConfig(attention_weight=1.0)
SCORES = HiddenMatchingConfig(attention_weight=1.0, attention_loss="scores")
HEADS, NEURONS, WIDTH = HeadPruningConfig(), NeuronPruningConfig(), WidthPruningConfig()
FACTORS, TRIM = EmbeddingFactorsConfig(rank=8), VocabularyTrimmingConfig()
ONE_LAYER = LayerPruningConfig(num_layers=1)
DROP = LayerDropConfig(rate=0.9)

REFUSED: dict[str, tuple[Callable[[Path], Any], type[BertwrightError], str]] = {
    "heads after int8": (
        lambda _: prune(HEADS, HeadPruning, quantized()),
        UsageError,
        "quantize last",
    ),
    "neurons after int8": (
        lambda _: prune(NEURONS, NeuronPruning, quantized()),
        UsageError,
        "quantize last",
    ),
    "width after int8": (
        lambda _: prune(WIDTH, WidthPruning, quantized()),
        UsageError,
        "quantize last",
    ),
    "factors after int8": (
        lambda _: prune(FACTORS, EmbeddingFactors, quantized()),
        UsageError,
        "quantize last",
    ),
    "cut after int8": (
        lambda _: prune(ONE_LAYER, LayerPruning, quantized()),
        UsageError,
        "quantize last",
    ),
    "trim after int8": (
        lambda _: VocabularyTrimming(TRIM).apply(quantized(), rows()),
        UsageError,
        "quantize last",
    ),
    "trim after int8, saved and loaded": (
        lambda folder: VocabularyTrimming(TRIM).apply(saved_quantized(folder), rows()),
        UsageError,
        "quantize last",
    ),
    "distil after int8": (
        lambda folder: distil(folder, quantized()),
        UsageError,
        "cannot be trained",
    ),
    "layer_drop after int8": (
        lambda folder: with_hooks(folder, quantized(), LayerDrop(DROP)),
        UsageError,
        "cannot be trained",
    ),
    "theseus after int8": (
        lambda folder: theseus(folder, quantized()),
        UsageError,
        "cannot be replaced",
    ),
    "student_init from int8": (
        lambda _: StudentInit(StudentInitConfig(num_layers=2)).apply(quantized()),
        UsageError,
        "cannot start from it",
    ),
    "small_student from int8": (
        lambda _: make_small_student(quantized(), rows(), SmallStudentConfig()),
        UsageError,
        "cannot start from it",
    ),
    "attention maps after head pruning": (
        lambda folder: distil(folder, half_of_the_heads(), MAPS),
        UsageError,
        "2 attention heads in layer 1, the teacher 4",
    ),
    "attention scores after head pruning": (
        lambda folder: distil(folder, half_of_the_heads(), SCORES),
        UsageError,
        "does not correspond",
    ),
    "attention maps of a pruned teacher": (
        lambda folder: distil(folder, student(), MAPS, by=uneven()),
        UsageError,
        "teacher 1 in layer 2",
    ),
    "attention-value after head pruning": (
        lambda folder: distil(folder, half_of_the_heads(), RelationsConfig(kind="attention-value")),
        UsageError,
        "query-key-value",
    ),
    "theseus where layers do not divide": (
        lambda folder: theseus(folder, uneven(), 3),
        ConfigError,
        "do not divide",
    ),
    "theseus of a cut model that does not divide": (
        lambda folder: theseus(folder, copy_with_layers(teacher(), [0, 1, 3])),
        ConfigError,
        "3 layers do not divide into 2",
    ),
    "theseus inside theseus": (
        lambda _: apply_theseus(replacing(), 1),
        UsageError,
        "being replaced already",
    ),
    "theseus of a small student": (
        lambda folder: theseus(folder, small()),
        UnsupportedRoleError,
        "keeps its layers",
    ),
    "theseus beside layer_drop": (
        lambda folder: with_hooks(
            folder, copy.deepcopy(teacher()), LayerDrop(DROP), Theseus(TheseusConfig(num_layers=2))
        ),
        UsageError,
        "layer_drop",
    ),
    "attention maps beside layer_drop": (
        lambda folder: with_hooks(folder, student(), LayerDrop(DROP), matching_hook(MAPS)),
        UsageError,
        "layer_drop",
    ),
    "attention scores beside layer_drop": (
        lambda folder: with_hooks(folder, student(), LayerDrop(DROP), matching_hook(SCORES)),
        UsageError,
        "layer_drop",
    ),
    "relations beside layer_drop": (
        lambda folder: with_hooks(
            folder, student(), LayerDrop(DROP), matching_hook(RelationsConfig())
        ),
        UsageError,
        "layer_drop",
    ),
    "heads while layers are replaced": (
        lambda _: prune(HEADS, HeadPruning, replacing(), rows()),
        UnsupportedRoleError,
        "TheseusGroup",
    ),
    "cut while layers are replaced": (
        lambda _: copy_with_layers(replacing(), [0]),
        UnsupportedRoleError,
        "TheseusGroup",
    ),
    "hidden states of a static student": (
        lambda folder: distil(folder, small("static"), HiddenMatchingConfig()),
        UsageError,
        "student has no layers",
    ),
    "hidden states of a static teacher": (
        lambda folder: distil(folder, student(), HiddenMatchingConfig(), by=small("static")),
        UsageError,
        "teacher has no layers",
    ),
    "attention maps of a cnn": (
        lambda folder: distil(folder, small(), MAPS),
        UsageError,
        "no attention to match",
    ),
    "relations of a cnn": (
        lambda folder: distil(folder, small(), RelationsConfig()),
        UnsupportedRoleError,
        "without attention",
    ),
    **{
        f"relations of {name}": (
            functools.partial(of_family, name, RelationsConfig()),
            UnsupportedRoleError,
            reason,
        )
        for name, reason in {"modernbert": "fuses", "xlnet": "raw", "albert": "shares"}.items()
    },
    "scores of deberta-v2": (
        functools.partial(of_family, "deberta-v2", SCORES),
        UnsupportedRoleError,
        "relative",
    ),
    "a student deeper than its teacher": (
        lambda _: StudentInit(StudentInitConfig(num_layers=9)).apply(teacher()),
        ConfigError,
        "has 4 layers",
    ),
    "cut deeper than the model": (
        lambda _: prune(LayerPruningConfig(num_layers=9), LayerPruning, teacher()),
        ConfigError,
        "has 4 layers",
    ),
    "cut all": (lambda _: copy_with_layers(teacher(), []), UsageError, "keep at least one"),
    "cut layers that are gone": (
        lambda _: copy_with_layers(copy_with_layers(teacher(), [0, 3]), [0, 3]),
        UsageError,
        "no layer 3",
    ),
    "cut a cnn": (lambda _: copy_with_layers(small(), [0]), UnsupportedRoleError, "keeps its"),
    "search the layers of an lstm": (
        lambda _: prune(ONE_LAYER, LayerPruning, small("lstm")),
        UnsupportedRoleError,
        "keeps its",
    ),
    "layers of a static model": (
        lambda _: StudentInit(StudentInitConfig(num_layers=1)).apply(small("static")),
        ConfigError,
        "no layers",
    ),
    "layer_drop of a static model": (
        lambda folder: with_hooks(folder, small("static"), LayerDrop(DROP)),
        UsageError,
        "no layers to drop",
    ),
    "heads of a cnn": (
        lambda _: prune(HEADS, HeadPruning, small()),
        UnsupportedRoleError,
        "keeps its heads",
    ),
    "neurons of a cnn": (
        lambda _: prune(NEURONS, NeuronPruning, small()),
        UnsupportedRoleError,
        "keeps its neurons",
    ),
    "width of a cnn": (
        lambda _: prune(WIDTH, WidthPruning, small()),
        UnsupportedRoleError,
        "keeps the width",
    ),
    "distil a trimmed student by an untrimmed teacher": (
        lambda folder: distil(folder, trimmed()),
        UsageError,
        "tokenizer",
    ),
    "distil a trimmed student on old rows": (
        lambda folder: distil(folder, trimmed(), by=trimmed(), data=rows()),
        UsageError,
        "tokenised for another",
    ),
    "theseus of a trimmed model on old rows": (
        lambda folder: theseus(folder, trimmed(), data=rows()),
        UsageError,
        "tokenised for another",
    ),
    "heads of a trimmed model by old rows": (
        lambda _: prune(HEADS, HeadPruning, trimmed(), rows()),
        UsageError,
        "tokenised for another",
    ),
    "factors of a trimmed model by old rows": (
        lambda _: prune(FACTORS, EmbeddingFactors, trimmed(), rows()),
        UsageError,
        "tokenised for another",
    ),
    "trim a trimmed model to old rows": (
        lambda _: VocabularyTrimming(TRIM).apply(trimmed(), rows()),
        UsageError,
        "tokenised for another",
    ),
    "factors that are no smaller": (
        lambda _: prune(EmbeddingFactorsConfig(rank=31), EmbeddingFactors, teacher()),
        UsageError,
        "no smaller",
    ),
    "stock format after head pruning": (
        lambda folder: export_transformers(uneven(), folder / "stock"),
        UnsupportedRoleError,
        "no configuration",
    ),
}
