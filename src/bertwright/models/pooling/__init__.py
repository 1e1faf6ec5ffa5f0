"""From the states of an encoder to one vector a text; see `Pooling`."""

from __future__ import annotations

from bertwright.errors import ConfigError
from bertwright.models.pooling.attention import AttentionPooling
from bertwright.models.pooling.base import EncoderShape, Pooling, States
from bertwright.models.pooling.branches import HierarchicalPooling, ParallelPooling
from bertwright.models.pooling.cls import ClsPooling
from bertwright.models.pooling.cls_layer import ClsLayerPooling, ConcatLastPooling
from bertwright.models.pooling.conv1d import Conv1dPooling
from bertwright.models.pooling.dense import DensePooling
from bertwright.models.pooling.max import MaxPooling, MeanMaxPooling
from bertwright.models.pooling.mean import MeanPooling
from bertwright.models.pooling.pooler import PoolerPooling
from bertwright.models.pooling.recurrent import GruPooling, LstmPooling
from bertwright.models.pooling.weighted_layers import WeightedLayersPooling
from bertwright.models.pooling.wk import WkPooling
from bertwright.models.pooling.words import SifPooling, TfidfPooling, WordWeights
from bertwright.registry import Choices

__all__ = [
    "POOLINGS",
    "EncoderShape",
    "Pooling",
    "States",
    "WordWeights",
    "build_pooling",
    "check_pooling",
]

_KINDS: tuple[type[Pooling], ...] = (
    *(ClsPooling, PoolerPooling, MeanPooling, MaxPooling, MeanMaxPooling),
    *(Conv1dPooling, DensePooling, TfidfPooling, SifPooling),
    *(ClsLayerPooling, ConcatLastPooling, WeightedLayersPooling),
    *(LstmPooling, GruPooling, AttentionPooling, WkPooling),
    *(ParallelPooling, HierarchicalPooling),
)
POOLINGS: Choices[type[Pooling]] = Choices("pooling", {kind.card.name: kind for kind in _KINDS})


def check_pooling(spec: str) -> tuple[type[Pooling], int | None]:
    """Return what `name` or `name:number` means.

    Raises:
        UnknownChoiceError: there is no such pooling.
        ConfigError: the number is none, or the pooling takes none.
    """
    name, colon, number = spec.partition(":")
    kind = POOLINGS[name]
    if not colon:
        return kind, None
    if kind.number_is is None:
        raise ConfigError(f"--pooling {spec}: {name} takes no number", hint=f"--pooling {name}")
    if not number.isdecimal():
        raise ConfigError(
            f"--pooling {spec}: {number!r} is not a number ({kind.number_is})",
            hint=f"--pooling {name}:4, or {name} alone",
        )
    return kind, int(number)


def build_pooling(spec: str, shape: EncoderShape) -> Pooling:
    """Return a new pooling for an encoder of this shape; errors are those of `check_pooling`.

    Raises:
        ConfigError: the number does not fit the encoder.
    """
    kind, number = check_pooling(spec)
    return kind(shape, number)
