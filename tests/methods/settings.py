"""One row for each method: options to try it with. `test_settings.py` sweeps this table.

A new method is its module, its test, and one row here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bertwright.methods.distil.hidden_matching import HiddenMatchingConfig
from bertwright.methods.distil.soft_targets import SoftTargetsConfig
from bertwright.methods.distil.student_init import StudentInitConfig
from bertwright.methods.prune.heads import HeadPruningConfig
from bertwright.methods.prune.neurons import NeuronPruningConfig
from bertwright.methods.prune.vocabulary import VocabularyTrimmingConfig
from bertwright.methods.quantize.int8 import Int8Config
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
    "theseus": Setting(
        TheseusConfig(num_layers=2), TheseusConfig(num_layers=2, schedule="constant", rate=0.9)
    ),
    "student_init": Setting(
        StudentInitConfig(num_layers=2), StudentInitConfig(num_layers=2, choice="last")
    ),
    "head_pruning": Setting(HeadPruningConfig(), HeadPruningConfig(by="random", seed=1)),
    "neuron_pruning": Setting(
        NeuronPruningConfig(multiple=8), NeuronPruningConfig(by="magnitude", multiple=8)
    ),
    "vocabulary_trimming": Setting(
        VocabularyTrimmingConfig(), VocabularyTrimmingConfig(characters=False)
    ),
    "int8_ptq": Setting(Int8Config(), Int8Config(granularity="per-tensor", embeddings=True)),
}
