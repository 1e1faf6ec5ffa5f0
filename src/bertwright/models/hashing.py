"""A name for weights: the same for the same numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

__all__ = ["settings_of", "weights_hash"]

_ELSEWHERE = ("_name_or_path", "architectures", "dtype", "transformers_version")
"""What a configuration says that changes no output (weights tell their type themselves)."""


def settings_of(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what of a configuration can make a difference, wherever the model was loaded from."""
    return {name: value for name, value in config.to_dict().items() if name not in _ELSEWHERE}


def weights_hash(module: nn.Module, settings: Mapping[str, Any]) -> str:
    """Return a hash of every weight and buffer, its name, type and shape, and of the settings.

    Args:
        module: any.
        settings: what else makes its outputs what they are; plain values, others by their `str`.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()
