"""What turns a pooled vector into logits: a family's own head, a linear layer, or an MLP."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedConfig

from bertwright.models.heads.classification import ClassificationHead, HeadConfig
from bertwright.models.heads.stock import StockHead

__all__ = ["ClassificationHead", "HeadConfig", "StockHead", "build_head"]


def build_head(config: PreTrainedConfig, num_outputs: int, head: HeadConfig) -> nn.Module:
    """Return a new head for an encoder with this `config`: [B, D] -> [B, num_outputs]."""
    if head.head == "stock":
        return StockHead(config, num_outputs, head.head_dropout)
    return ClassificationHead(int(config.hidden_size), num_outputs, head)
