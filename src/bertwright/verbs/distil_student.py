"""What the student of `distil` is before it is trained, by the options that say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bertwright.config import config_from_strings
from bertwright.data.tokenise import EncodedRows
from bertwright.methods.distil.small_student import SmallStudent, SmallStudentConfig
from bertwright.methods.distil.student_init import (
    choose_layers,
    init_student,
    read_layer_choice,
)
from bertwright.models.build import build_task_model, copy_with_pooling
from bertwright.models.task_model import TaskModel
from bertwright.registry import find_method, split_spec
from bertwright.tasks import Task

if TYPE_CHECKING:
    from bertwright.verbs.distil import DistilConfig

__all__ = [
    "PRUNINGS",
    "chosen_layers",
    "load_start",
    "new_student",
    "pruning_methods",
    "read_amount",
    "small_student",
]

PRUNINGS = {
    "heads": "head_pruning",
    "neurons": "neuron_pruning",
    "width": "width_pruning",
    "embeddings": "embedding_factors",
}
"""Option -> method, in the order in which they are done."""


def read_amount(option: str, given: str, config_type: type, first: str) -> Any:
    """Return the options of `0.5`, or of `share=0.5,by=random`, as a config.

    Args:
        option: what it was given with.
        given: the value.
        config_type: the config's type.
        first: the option that a value alone stands for.

    Raises:
        ConfigError: an option is unknown or its value is out of range.
    """
    words = given if "=" in given else f"{first}={given}"
    _, options = split_spec(f":{words}", f"--{option}")
    return config_from_strings(config_type, options, source=f"--{option} {given}")


def pruning_methods(config: DistilConfig) -> list[Any]:
    """Return the methods that make the student narrower, heads first.

    Raises:
        ConfigError: an option is unknown or its value is out of range.
    """
    found = []
    for option, name in PRUNINGS.items():
        given = getattr(config, option)
        if given is not None:
            entry = find_method(name)
            amount = read_amount(option, given, entry.config_type, _amount(option, given))
            found.append(entry.apply(amount))
    return found


def _amount(option: str, given: str) -> str:
    """Return what a number alone says: a share, of the table's energy, or its columns."""
    if option != "embeddings":
        return "share"
    return "rank" if given.strip().isdigit() else "energy"


def small_student(config: DistilConfig) -> SmallStudent | None:
    """Return what makes a student without attention; None where none is asked for.

    Raises:
        ConfigError: an option is unknown or its value is out of range.
    """
    if config.student is None:
        return None
    kind, options = split_spec(config.student, "--student")
    source = f"--student {config.student}"
    return SmallStudent(
        config_from_strings(SmallStudentConfig, {"kind": kind, **options}, source=source)
    )


def chosen_layers(config: DistilConfig, depth: int) -> tuple[int, ...]:
    """Return which of so many layers the student starts from.

    Raises:
        ConfigError: they are no rule and no layers, or there are not so many.
    """
    return choose_layers(
        depth, config.layers or depth, read_layer_choice(config.layer_choice or "uniform")
    )


def load_start(start: str, teacher: TaskModel, task: Task, *, seed: int) -> TaskModel:
    """Return another encoder than the teacher's for its task, with a head that is new.

    It is read with its own tokenizer.

    Raises:
        ModelLoadError: it cannot be loaded.
        ConfigError: the teacher's pooling or length does not fit it.
    """
    return build_task_model(
        start,
        task=task.spec,
        labels=teacher.labels,
        config=teacher.config,
        max_length=teacher.max_length,
        seed=seed,
        outputs=teacher.outputs,
    )


def new_student(
    config: DistilConfig,
    parent: TaskModel,
    layers: Sequence[int],
    rows: EncodedRows,
    task: Task,
) -> TaskModel:
    """Return the student as it is before training, made of parts of `parent`."""
    maker, seed = small_student(config), config.training.seed
    if maker is not None:
        return maker.apply(parent, rows, seed=seed)
    for pruning in pruning_methods(config):
        parent = pruning.apply(parent, rows, task)
    student = init_student(parent, layers)
    if config.pooling is not None:
        student = copy_with_pooling(student, config.pooling, seed=seed)
    return student
