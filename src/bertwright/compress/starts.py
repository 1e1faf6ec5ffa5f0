"""Shallow encoders that students of their depth start from, in place of the teacher's layers."""

from __future__ import annotations

from collections.abc import Sequence

from bertwright.errors import ConfigError
from bertwright.models.encoder import load_encoder
from bertwright.models.roles import get_roles
from bertwright.models.task_model import TaskModel
from bertwright.models.vocabulary import ids_of_pieces

__all__ = ["starts_by_depth"]


def starts_by_depth(starts: Sequence[str], teacher: TaskModel) -> dict[int, str]:
    """Return which of the encoders students of a depth start from.

    Args:
        starts: Hub names or folders.
        teacher: must read with the same vocabulary, or with what trimming left of it.

    Raises:
        ModelLoadError: one cannot be loaded.
        ConfigError: one is as deep as the teacher, reads with another vocabulary, or has the depth
            of another.
    """
    found: dict[int, str] = {}
    depth = get_roles(teacher.encoder).num_layers
    for start in starts:
        encoder, tokenizer = load_encoder(start)
        layers = get_roles(encoder).num_layers
        if layers >= depth:
            raise ConfigError(
                f"--start {start}: it has {layers} layers and the teacher {depth}",
                hint="give a shallower one, distilled from raw text (docs/students.md)",
            )
        own = teacher.tokenizer
        if tokenizer is None or own is None or ids_of_pieces(tokenizer, own) is None:
            raise ConfigError(
                f"--start {start}: its vocabulary is not the teacher's",
                hint="distil it from the encoder that the teacher was made from",
            )
        if layers in found:
            raise ConfigError(f"--start: {found[layers]} and {start} both have {layers} layers")
        found[layers] = start
    return found
