"""What turns a pooled vector into logits: a family's own head, a linear layer, or an MLP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn
from transformers import PreTrainedConfig

from bertwright.errors import ConfigError
from bertwright.models.heads.bag import BagHead
from bertwright.models.heads.classification import ClassificationHead, HeadConfig
from bertwright.models.heads.fitted import FittedHead, NeighbourHead, TreesHead
from bertwright.models.heads.stock import StockHead
from bertwright.models.heads.tokens import TokenHead
from bertwright.models.heads.vectors import VectorHead
from bertwright.models.outputs import Outputs

__all__ = [
    "BagHead",
    "ClassificationHead",
    "FittedHead",
    "HeadConfig",
    "NeighbourHead",
    "StockHead",
    "TokenHead",
    "TreesHead",
    "VectorHead",
    "build_head",
]


def build_head(
    config: PreTrainedConfig,
    outputs: Outputs,
    head: HeadConfig,
    names: Sequence[str] = (),
    *,
    width: int | None = None,
) -> nn.Module:
    """Return a new head for an encoder with this `config`, and pooled vectors of this `width`.

    Without a width it is the encoder's own. The head's forward is [B, D] -> [B, C], or of a token
    head ([B, L, D], mask [B, L]) -> [B, L, C]. Heads of vectors do both.

    Raises:
        ConfigError: options of token heads for a head that is none.
    """
    width = width or int(config.hidden_size)
    _check_fitted(outputs, head)
    if outputs.kind == "vectors":
        return VectorHead(width, head)
    if outputs.level == "token":
        return TokenHead(config, outputs.count, head, names)
    for option in ("head_lstm", "head_crf"):
        if getattr(head, option):
            raise ConfigError(
                f"--{option.replace('_', '-')} is for tasks with one answer a token",
                hint="leave it out",
            )
    if head.head_bags > 1:
        alone = replace(head, head_bags=1)
        parts = [
            build_head(config, outputs, alone, names, width=width) for _ in range(head.head_bags)
        ]
        return BagHead(parts, outputs)
    if head.head == "nearest":
        return NeighbourHead(width, outputs)
    if head.head == "trees":
        return TreesHead(outputs)
    num_outputs = outputs.count
    if head.head == "stock":
        return StockHead(config, num_outputs, head.head_dropout, width=width)
    return ClassificationHead(width, num_outputs, head)


def _check_fitted(outputs: Outputs, head: HeadConfig) -> None:
    """Raise a ConfigError where there is no such head for these outputs."""
    many = outputs.level == "token" or outputs.kind == "vectors"
    if many and (head.head in ("nearest", "trees") or head.head_bags > 1):
        what = f"--head {head.head}" if head.head_bags == 1 else f"--head-bags {head.head_bags}"
        raise ConfigError(f"{what} is for tasks with one answer a text", hint="leave it out")
