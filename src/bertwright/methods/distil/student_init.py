"""Start a student from chosen layers of its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.errors import ConfigError
from bertwright.models.build import copy_with_layers
from bertwright.models.quantized import refuse_quantized
from bertwright.models.roles import get_roles
from bertwright.models.task_model import TaskModel
from bertwright.registry import register_method

__all__ = [
    "LayerChoice",
    "StudentInit",
    "StudentInitConfig",
    "choose_layers",
    "init_student",
    "read_layer_choice",
]

LayerChoice = Literal["uniform", "first", "last", "alternate"]


def choose_layers(
    num_layers_t: int, num_layers_s: int, choice: LayerChoice | Sequence[int] = "uniform"
) -> tuple[int, ...]:
    """Return which layers of the teacher (from 0) the student starts from, in ascending order.

    Of 12 layers for 6: uniform 0 2 4 7 9 11 (first and last kept, as DistilBERT), first 0-5,
    last 6-11, alternate 1 3 5 7 9 11 (the last of each equal group). One layer: uniform and first
    take the lowest, last and alternate the highest.

    Args:
        num_layers_t: the teacher's depth.
        num_layers_s: the student's, at most the teacher's.
        choice: a rule, or the layers themselves.

    Raises:
        ConfigError: the numbers do not fit, or explicit layers are not ascending and in range.
    """
    if num_layers_t == 0:
        raise ConfigError(
            "the teacher has no layers, so no student can start from them",
            hint="--student static, or another teacher",
        )
    if not 1 <= num_layers_s <= num_layers_t:
        raise ConfigError(
            f"--layers {num_layers_s}: the teacher has {num_layers_t} layers",
            hint=f"choose from 1 to {num_layers_t}",
        )
    if choice == "uniform":
        gaps = max(num_layers_s - 1, 1)
        return tuple(round(i * (num_layers_t - 1) / gaps) for i in range(num_layers_s))
    if choice == "first":
        return tuple(range(num_layers_s))
    if choice == "last":
        return tuple(range(num_layers_t - num_layers_s, num_layers_t))
    if choice == "alternate":
        return tuple((i + 1) * num_layers_t // num_layers_s - 1 for i in range(num_layers_s))
    if isinstance(choice, str):
        raise ConfigError(
            f"--layer-choice {choice}: not a rule", hint="uniform, first, last, alternate, or 0+2+4"
        )
    layers = tuple(int(layer) for layer in choice)
    ascending = all(a < b for a, b in pairwise(layers))
    if len(layers) != num_layers_s or not ascending or layers[0] < 0 or layers[-1] >= num_layers_t:
        raise ConfigError(
            f"--layer-choice {'+'.join(map(str, layers))}: must be {num_layers_s} ascending "
            f"layers from 0 to {num_layers_t - 1}"
        )
    return layers


def read_layer_choice(words: str, *, more_rules: Sequence[str] = ()) -> Any:
    """Return what `--layer-choice` says: a rule's name, or the layers themselves.

    Args:
        words: what was given, such as uniform or 0+2+5.
        more_rules: names of rules beside those of `choose_layers`.

    Raises:
        ConfigError: it is neither.
    """
    rules = (*get_args(LayerChoice), *more_rules)
    if words in rules:
        return words
    try:
        return tuple(int(number) for number in words.replace(",", "+").split("+"))
    except ValueError:
        raise ConfigError(
            f"--layer-choice {words}: not a rule and not layers",
            hint=f"{', '.join(rules)}, or layers from 0 such as 0+2+5",
        ) from None


def init_student(teacher: TaskModel, indices: Sequence[int]) -> TaskModel:
    """Return a student made of copies of these teacher layers, embeddings, pooling and head.

    The teacher is unchanged and shares no weight with the student.

    Raises:
        UsageError: the teacher has been quantized; its weights are rounded.
    """
    refuse_quantized(teacher, "a student cannot start from it")
    return copy_with_layers(teacher, list(indices))


@dataclass(frozen=True, kw_only=True)
class StudentInitConfig:
    """Options of student initialisation."""

    num_layers: int
    """Layers of the student."""
    choice: Literal["uniform", "first", "last", "alternate"] | tuple[int, ...] = "uniform"
    """Which teacher layers it starts from: a rule, or layers from 0 as 0+2+4."""

    def __post_init__(self) -> None:
        require(self.num_layers >= 1, "num_layers", self.num_layers, "at least 1")


CARD = MethodCard(
    name="student_init",
    kind="distil",
    summary="Start the student from a choice of the teacher's own layers instead of at random.",
    paper="DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter",
    year=2019,
    citation="Sanh, Debut, Chaumond, Wolf 2019, arXiv:1910.01108",
    equation=(
        "theta_s[j] = theta_t[I(j)], j = 0..K_s-1; embeddings, pooling and head copied whole.\n"
        "uniform: I(j) = round(j (K_t - 1) / (K_s - 1)); first: j; last: K_t - K_s + j;\n"
        "alternate: floor((j + 1) K_t / K_s) - 1."
    ),
    needs="A teacher of the same family and width. Roles: layers, embeddings. No labels, no data.",
    cost="A copy of weights; the student costs K_s / K_t of the teacher's layers from then on.",
    expected_effect=(
        "Without it (random start) DistilBERT loses 3.7 points of the GLUE macro score. Kept "
        "layers of a fine-tuned teacher need far fewer steps than a new student."
    ),
    expected_source="Ablation table of Sanh et al. 2019, quoted from memory: about ±0.5 points.",
    when_to_use="Always, for a student that is shallower and just as wide; then distil or theseus.",
    when_not_to_use=(
        "When the student is narrower or of another family: weights do not fit. Without further "
        "training the cut model is usually poor."
    ),
    siblings=(
        "Comes before soft_targets and hidden_matching (match with the same map). theseus starts "
        "its successors so itself, from the first layers."
    ),
    departures=(
        "The teacher is the fine-tuned one and its head is copied too; DistilBERT starts from the "
        "pre-trained one and drops token types and pooler."
    ),
)


@register_method(config=StudentInitConfig, card=CARD)
class StudentInit:
    """Makes students; runs before training, so it is not a hook."""

    def __init__(self, config: StudentInitConfig) -> None:
        self.config = config

    def apply(self, teacher: TaskModel) -> TaskModel:
        """Return the student of this teacher."""
        depth = get_roles(teacher.encoder).num_layers
        return init_student(
            teacher, choose_layers(depth, self.config.num_layers, self.config.choice)
        )
