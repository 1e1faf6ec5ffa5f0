"""One row for each method: options to try it with. `test_settings.py` sweeps this table.

A new method is its module, its test, and one row here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bertwright.methods.distil.fitted_head import FittedHeadConfig
from bertwright.methods.distil.hidden_matching import HiddenMatchingConfig
from bertwright.methods.distil.relations import RelationsConfig
from bertwright.methods.distil.several_teachers import SeveralTeachersConfig
from bertwright.methods.distil.small_student import SmallStudentConfig
from bertwright.methods.distil.soft_targets import SoftTargetsConfig
from bertwright.methods.distil.student_init import StudentInitConfig
from bertwright.methods.distil.transfer_set import TransferSetConfig
from bertwright.methods.exit.early_exit import EarlyExitConfig
from bertwright.methods.exit.token_dropping import TokenDroppingConfig
from bertwright.methods.finetune.layer_drop import LayerDropConfig
from bertwright.methods.prune.elastic import ElasticConfig
from bertwright.methods.prune.embedding_factors import EmbeddingFactorsConfig
from bertwright.methods.prune.gradual import GradualPruningConfig
from bertwright.methods.prune.heads import HeadPruningConfig
from bertwright.methods.prune.layers import LayerPruningConfig
from bertwright.methods.prune.learned import LearnedGatesConfig
from bertwright.methods.prune.neurons import NeuronPruningConfig
from bertwright.methods.prune.vocabulary import VocabularyTrimmingConfig
from bertwright.methods.prune.width import WidthPruningConfig
from bertwright.methods.quantize.int8 import Int8Config
from bertwright.methods.quantize.qat import QatConfig
from bertwright.methods.quantize.static_ranges import StaticRangesConfig
from bertwright.methods.replace.theseus import TheseusConfig

__all__ = ["SETTINGS", "Setting"]


@dataclass(frozen=True)
class Setting:
    """A method's options, and another set that must give other weights."""

    config: Any
    other: Any
    overrides: dict[str, Any] = field(default_factory=dict)
    """Changes of the tiny model's configuration."""


SETTINGS: dict[str, Setting] = {
    "soft_targets": Setting(SoftTargetsConfig(), SoftTargetsConfig(entropy=0.5)),
    "hidden_matching": Setting(
        HiddenMatchingConfig(attention_weight=1.0, embeddings=True),
        HiddenMatchingConfig(hidden_loss="cosine", layers="last"),
    ),
    "relations": Setting(
        RelationsConfig(weight=100.0, num_relation_heads=8, teacher_layer=3),
        RelationsConfig(weight=100.0, kind="attention-value"),
    ),
    "theseus": Setting(
        TheseusConfig(num_layers=2), TheseusConfig(num_layers=2, schedule="constant", rate=0.9)
    ),
    "student_init": Setting(
        StudentInitConfig(num_layers=2), StudentInitConfig(num_layers=2, choice="last")
    ),
    "several_teachers": Setting(SeveralTeachersConfig(), SeveralTeachersConfig(average="logits")),
    "small_student": Setting(
        SmallStudentConfig(kind="lstm", layers=2, ngrams=2, buckets=97),
        SmallStudentConfig(kind="lstm", layers=2, ngrams=2, buckets=97, start="words"),
    ),
    "fitted_head": Setting(FittedHeadConfig(), FittedHeadConfig(penalty=30.0)),
    "transfer_set": Setting(TransferSetConfig(copies=2), TransferSetConfig(replace=0.9)),
    "layer_drop": Setting(LayerDropConfig(), LayerDropConfig(rate=0.5)),
    "head_pruning": Setting(HeadPruningConfig(), HeadPruningConfig(by="random", seed=1)),
    "neuron_pruning": Setting(
        NeuronPruningConfig(multiple=8), NeuronPruningConfig(by="magnitude", multiple=8)
    ),
    "gradual_pruning": Setting(
        GradualPruningConfig(heads=0.5, multiple=8, times=3),
        GradualPruningConfig(neurons=0.25, multiple=8),
    ),
    "learned_gates": Setting(
        LearnedGatesConfig(neurons=0.5, multiple=8), LearnedGatesConfig(gate_lr=1.0)
    ),
    "elastic": Setting(ElasticConfig(multiple=8), ElasticConfig(layers=3, heads=0.5, multiple=8)),
    "width_pruning": Setting(
        WidthPruningConfig(multiple=8), WidthPruningConfig(by="random", multiple=8, seed=1)
    ),
    "embedding_factors": Setting(
        EmbeddingFactorsConfig(rank=8), EmbeddingFactorsConfig(rank=8, by="equal")
    ),
    "layer_pruning": Setting(
        LayerPruningConfig(num_layers=2), LayerPruningConfig(num_layers=2, by="search")
    ),
    "early_exit": Setting(
        EarlyExitConfig(agreement=0.9), EarlyExitConfig(layers=(1, 3), measure="entropy")
    ),
    "token_dropping": Setting(
        TokenDroppingConfig(share=0.5, least=2), TokenDroppingConfig(layer=3, share=0.3, least=2)
    ),
    "vocabulary_trimming": Setting(
        VocabularyTrimmingConfig(), VocabularyTrimmingConfig(characters=False)
    ),
    "qat": Setting(QatConfig(), QatConfig(decay=0.5, tables=False)),
    "static_ranges": Setting(
        StaticRangesConfig(), StaticRangesConfig(by="mse", smooth=0.5, rows=20)
    ),
    "int8_ptq": Setting(Int8Config(), Int8Config(granularity="per-tensor", embeddings=True)),
}
