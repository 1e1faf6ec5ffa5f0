"""Affine 8-bit integers: the arithmetic, its error, and a float model that behaves as int8 would.

The engines quantize for speed with their own kernels. This is the arithmetic that they share, to
look at before: how large the error of each matrix is, and what rounding alone costs in score.

Shape letters: B batch (and all leading axes), I inputs, O outputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.models.quantized import refuse_quantized
from bertwright.models.task_model import TaskModel
from bertwright.registry import register_method

__all__ = [
    "Granularity",
    "Int8",
    "Int8Config",
    "QuantizationError",
    "Quantized",
    "compute_sqnr_db",
    "dequantize",
    "int8_linear",
    "measure_weight_errors",
    "quantize_asymmetric",
    "quantize_symmetric",
    "simulate_int8",
]

Granularity = Literal["per-channel", "per-tensor"]
SCALE_MIN = 1e-12


@dataclass(frozen=True)
class Quantized:
    """Integers with what turns them back into numbers: x ~ scale (q - zero_point)."""

    values: Tensor
    """int8 or uint8, of the shape of what was quantized."""
    scale: Tensor
    """Broadcasts against `values`."""
    zero_point: Tensor
    """int32, broadcasts against `values`; 0 when symmetric."""


def quantize_symmetric(x: Tensor, granularity: Granularity = "per-tensor") -> Quantized:
    """Return int8 in -127..127 with zero point 0 and scale max|x| / 127.

    Args:
        x: any shape; per-channel takes one scale for each index of the first axis.
        granularity: one scale for all of `x`, or one for each output channel.
    """
    axes = tuple(range(1, x.ndim)) if granularity == "per-channel" else tuple(range(x.ndim))
    largest = x.detach().abs().amax(dim=axes, keepdim=True).float()
    scale = (largest / 127).clamp_min(SCALE_MIN)
    values = (x.detach().float() / scale).round().clamp(-127, 127).to(torch.int8)
    return Quantized(values, scale, torch.zeros_like(scale, dtype=torch.int32))


def quantize_asymmetric(x: Tensor, *, per_row: bool = False) -> Quantized:
    """Return uint8 in 0..255; the range always contains 0, which is then exact.

    Args:
        x: [..., I], activations.
        per_row: a range for each row of I numbers (a token) instead of one for all.
    """
    axes = (-1,) if per_row else tuple(range(x.ndim))
    x = x.detach().float()
    low = x.amin(dim=axes, keepdim=True).clamp_max(0)
    high = x.amax(dim=axes, keepdim=True).clamp_min(0)
    scale = ((high - low) / 255).clamp_min(SCALE_MIN)
    zero_point = (-low / scale).round().clamp(0, 255)
    values = ((x / scale).round() + zero_point).clamp(0, 255).to(torch.uint8)
    return Quantized(values, scale, zero_point.to(torch.int32))


def dequantize(quantized: Quantized) -> Tensor:
    """Return scale (q - zero_point), float32."""
    return quantized.scale * (quantized.values.to(torch.int32) - quantized.zero_point).float()


def int8_linear(x: Quantized, weight: Quantized, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + bias computed in integers, as int8 kernels do.

    Y = S_x S_w[o] (q_x q_w^T - Z_x rowsum(q_w)) + bias, with the products summed in integers.

    Args:
        x: activations [B, I], of `quantize_asymmetric`.
        weight: [O, I], of `quantize_symmetric`.
        bias: [O] or None, float.

    Returns:
        [B, O], float32.
    """
    q_w = weight.values.to(torch.int32)
    products = x.values.to(torch.int32) @ q_w.T
    exact = products - x.zero_point * q_w.sum(dim=1)
    out = x.scale * weight.scale.reshape(1, -1) * exact.float()
    return out if bias is None else out + bias


def compute_sqnr_db(exact: Tensor, approximate: Tensor) -> float:
    """Return the signal to quantization noise ratio, 10 log10(sum x² / sum (x - x^)²), in dB.

    Infinite when the two agree.
    """
    noise = (exact.double() - approximate.double()).square().sum().item()
    signal = exact.double().square().sum().item()
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


@dataclass(frozen=True)
class QuantizationError:
    """What int8 does to one weight matrix."""

    module: str
    shape: tuple[int, ...]
    sqnr_db: float
    max_abs: float


def measure_weight_errors(
    model: nn.Module, granularity: Granularity = "per-channel"
) -> list[QuantizationError]:
    """Return the error of each linear layer's weights under symmetric int8, the worst first."""
    errors = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            weight = module.weight.detach().float()
            rounded = dequantize(quantize_symmetric(weight, granularity))
            largest = (weight - rounded).abs().max().item()
            sqnr = compute_sqnr_db(weight, rounded)
            errors.append(QuantizationError(name, tuple(weight.shape), sqnr, largest))
    return sorted(errors, key=lambda error: error.sqnr_db)


def _round_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (dequantize(quantize_asymmetric(args[0])).to(args[0].dtype), *args[1:])


def simulate_int8(
    model: TaskModel,
    *,
    granularity: Granularity = "per-channel",
    embeddings: bool = False,
    activations: bool = True,
    keep: Collection[str] = (),
) -> TaskModel:
    """Return a float copy of the model that rounds as dynamic int8 does.

    Weights of linear layers are rounded once, their inputs at each call (one asymmetric range for
    the whole input); norms, softmax and biases stay exact. The copy is for measuring: it is not
    smaller or faster, and methods that change or train a model refuse it.

    Args:
        model: left unchanged.
        granularity: of the weights' scales.
        embeddings: round embedding tables too.
        activations: round the inputs of linear layers.
        keep: names of modules (as in `named_modules`) that stay exact, with all that is in them.

    Raises:
        UsageError: the model rounds already.
    """
    refuse_quantized(model, "it rounds already")
    copied = copy.deepcopy(model)
    kinds = (nn.Linear, nn.Embedding) if embeddings else (nn.Linear,)
    for name, module in copied.named_modules():
        if not isinstance(module, kinds) or _is_kept(name, keep):
            continue
        weight = module.weight.data
        rounded = dequantize(quantize_symmetric(weight, granularity))
        module.weight.data = rounded.to(weight.dtype)
        if activations and isinstance(module, nn.Linear):
            module.register_forward_pre_hook(_round_input)
    copied.lineage = {**copied.lineage, "quantized": "int8 (simulated)"}
    return copied


def _is_kept(name: str, keep: Collection[str]) -> bool:
    return any(name == kept or name.startswith(f"{kept}.") for kept in keep)


@dataclass(frozen=True, kw_only=True)
class Int8Config:
    """Options of the int8 simulation."""

    granularity: Literal["per-channel", "per-tensor"] = "per-channel"
    """Scales of the weights: one for each output channel, or one for the matrix."""
    embeddings: bool = False
    """Round embedding tables too."""
    activations: bool = True
    """Round the inputs of linear layers at each call."""
    keep: tuple[str, ...] = ()
    """Modules that stay exact, by their names."""


CARD = MethodCard(
    name="int8_ptq",
    kind="quantize",
    summary="Compute matrix products in 8-bit integers, after training and without more of it.",
    paper="Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only "
    "Inference",
    year=2018,
    citation="Jacob et al. 2018, arXiv:1712.05877; for BERT: Zafrir et al. 2019, arXiv:1910.06188",
    equation=(
        "q = clip(round(x / S) + Z), x ~ S (q - Z).\n"
        "weights, for each output channel o: S_w[o] = max|W[o]| / 127, Z = 0, q in -127..127\n"
        "activations, one range for the tensor: S = (max - min) / 255, min <= 0 <= max, "
        "Z = round(-min / S)\n"
        "Y = S_x S_w[o] (q_x q_w^T - Z_x rowsum(q_w)) + b, summed in int32"
    ),
    needs=(
        "A trained model. Dynamic ranges need no data; static ones (OpenVINO, NNCF) some hundred "
        "training rows without labels. No roles."
    ),
    cost="Minutes at most; nothing at run time. Memory of the weights falls to about a quarter.",
    expected_effect=(
        "BERT-base on MRPC: F1 90.42 -> 89.97 with dynamic int8, size 418 -> 174 MB (linear "
        "layers only). With integer dot products (VNNI) the fast engines gain most; a processor "
        "without gains less."
    ),
    expected_source="Published tables of Intel Neural Compressor (PyTorch dynamic).",
    when_to_use="Last, on the finished student, when the engine and processor have int8 kernels.",
    when_not_to_use=(
        "Before pruning, replacement or training. Where a few features of the FFN outputs are far "
        "larger than the rest and one range for all of them loses points: keep those layers exact."
    ),
    siblings="Comes after theseus, soft_targets and hidden_matching, and adds to their savings.",
    departures=(
        "This module computes the arithmetic in float to predict its cost; `export` and "
        "`compress` run it through the engines' own kernels and check the result on real rows."
    ),
)


@register_method(config=Int8Config, card=CARD)
class Int8:
    """Rounds a finished model; runs after training, so it is not a hook."""

    def __init__(self, config: Int8Config | None = None) -> None:
        self.config = config or Int8Config()

    def apply(self, model: TaskModel) -> TaskModel:
        """Return the float copy that rounds as int8 does."""
        return simulate_int8(
            model,
            granularity=self.config.granularity,
            embeddings=self.config.embeddings,
            activations=self.config.activations,
            keep=self.config.keep,
        )
