"""AdamW and the groups of parameters that it treats alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from bertwright.errors import ConfigError
from bertwright.training.config import TrainingConfig

__all__ = ["build_optimizer", "parameter_groups"]


def _is_norm(module: nn.Module) -> bool:
    """Return whether the module is a normalisation: LayerNorm, RMSNorm, NoNorm, ..."""
    return (
        isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm))
        or "Norm" in type(module).__name__
    )


def _named_roles(
    parts: Iterable[nn.Module | nn.Parameter],
) -> Iterator[tuple[nn.Parameter, bool]]:
    """Yield each parameter of `parts`, and whether it is a norm's or a bias."""
    for part in parts:
        if isinstance(part, nn.Parameter):
            yield part, part.ndim < 2
            continue
        for module in part.modules():
            for name, parameter in module.named_parameters(recurse=False):
                bias = name == "bias" or name.endswith("_bias")
                yield parameter, bias or parameter.ndim < 2 or _is_norm(module)


def parameter_groups(
    parts: Iterable[nn.Module | nn.Parameter], *, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return optimizer groups with every trainable parameter in exactly one.

    Norms are told by the type of their module, not by the name it happens to have (lists of names
    miss `norm1.weight` and the like). Biases, vectors and norms have no decay.

    Args:
        parts: modules and single parameters; what is shared between them is taken once.
        lr: peak learning rate of all groups.
        weight_decay: of the group that has it.

    Returns:
        One or two groups, decayed first, without empty ones.

    Raises:
        ConfigError: no parameter is trainable.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    seen: set[int] = set()
    for parameter, exempt in _named_roles(parts):
        if parameter.requires_grad and id(parameter) not in seen:
            seen.add(id(parameter))
            (plain if exempt else decayed).append(parameter)
    groups = [
        {"params": decayed, "lr": lr, "weight_decay": weight_decay},
        {"params": plain, "lr": lr, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ConfigError("nothing to train: every parameter is frozen")
    return groups


def build_optimizer(
    parts: Iterable[nn.Module | nn.Parameter], config: TrainingConfig
) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov & Hutter 2019) with bias correction and the fused step.

    Args:
        parts: the model and whatever hooks train besides it.
        config: lr, weight_decay, adam_beta2, adam_eps.
    """
    groups = parameter_groups(parts, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.AdamW(
        groups, betas=(0.9, config.adam_beta2), eps=config.adam_eps, fused=True
    )
