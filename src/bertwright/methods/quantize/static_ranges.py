"""Ranges of activations for int8 by looking at real rows, and scales that make them narrower.

Shapes: B batch, L length, N tokens or texts, I inputs of a linear layer, K bins of a histogram.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import UsageError
from bertwright.methods.prune.vocabulary import refuse_unknown_pieces
from bertwright.methods.quantize.qat import refuse_unknown_inputs, round_inputs
from bertwright.models.quantized import refuse_quantized
from bertwright.models.ranges import LearnedRanges
from bertwright.models.task_model import TaskModel
from bertwright.registry import register_method
from bertwright.tasks.forward import forward_batches

__all__ = [
    "StaticRanges",
    "StaticRangesConfig",
    "best_range",
    "central_range",
    "smooth_values",
]

BINS = 4096
SHRUNK = np.linspace(0.05, 1.0, 39)
"""Shares of each end that `best_range` tries."""
SCALE_MIN = 1e-5
"""Least scale of a channel in `smooth_values`."""


def central_range(counts: np.ndarray, edges: np.ndarray, percentile: float) -> tuple[float, float]:
    """Return the range outside of which, on either side, lie 100 - percentile of the numbers.

    It contains 0.

    Args:
        counts: [K], how many numbers fell into each bin.
        edges: [K + 1], increasing.
        percentile: such as 99.99.
    """
    total = np.concatenate([[0], counts.cumsum()]).astype(float)
    beyond = (1 - percentile / 100) * total[-1]
    low, high = np.interp([beyond, total[-1] - beyond], total, edges)
    return min(float(low), 0.0), max(float(high), 0.0)


def best_range(counts: np.ndarray, edges: np.ndarray) -> tuple[float, float]:
    """Return the range whose 8-bit grid has the least mean squared error.

    Both ends are tried at 39 shares of what was seen, each with each. Numbers count as the middles
    of their bins; what is outside of the range is clipped to its end. Arguments are those of
    `central_range`.
    """
    middles, weights = (torch.from_numpy(one) for one in ((edges[1:] + edges[:-1]) / 2, counts))
    seen = min(float(edges[0]), 0.0), max(float(edges[-1]), 0.0)
    best, least = seen, np.inf
    for low in SHRUNK * seen[0] if seen[0] < 0 else [0.0]:
        for high in SHRUNK * seen[1] if seen[1] > 0 else [0.0]:
            rounded = round_inputs(middles, torch.tensor([low, high]))
            error = float((weights * (middles - rounded).square()).sum())
            if error < least:
                best, least = (float(low), float(high)), error
    return best


@torch.no_grad()
def smooth_values(model: TaskModel, rows: EncodedRows, alpha: float = 0.5) -> None:
    """Even out the channels that enter the projections of attention, in place; answers stay.

    s_j = max|X_j|^alpha / max|W_:,j|^(1 - alpha) divides channel j of the values (rows of W_V and
    b_V) and multiplies column j of W_O: attention mixes tokens and leaves channels apart, so the
    product is the same. In encoders with norms after the sum (BERT) it is the only place where such
    a scale can be folded away: what leaves a norm goes into the sum too, and between the layers of
    the feed-forward network stands a GELU.

    Args:
        model: changed.
        rows: what |X| is taken from.
        alpha: how much of the unevenness goes into the weights, 0 to 1.

    Source: Xiao et al. 2023, arXiv:2211.10438.
    """
    roles = model.roles
    largest: dict[int, Tensor] = {}

    def note(index: int) -> Callable[[Tensor], None]:
        def see(inputs: Tensor) -> None:
            most = inputs.abs().amax(dim=0)
            largest[index] = torch.maximum(largest.get(index, most), most)

        return see

    places: Any = {roles.part(i, "attention_output"): note(i) for i in range(roles.num_layers)}
    for _ in _watched(model, rows, places):
        pass
    for index, most in largest.items():
        value: Any = roles.part(index, "value")
        output: Any = roles.part(index, "attention_output")
        weights = output.weight.abs().amax(dim=0)
        scale = (most**alpha / weights.clamp(min=SCALE_MIN) ** (1 - alpha)).clamp(min=SCALE_MIN)
        value.weight.div_(scale.unsqueeze(1))
        if value.bias is not None:
            value.bias.div_(scale)
        output.weight.mul_(scale)


@dataclass(frozen=True, kw_only=True)
class StaticRangesConfig:
    """Options of static ranges."""

    by: Literal["min-max", "percentile", "mse"] = "percentile"
    """What a range is: all that was seen, all but a few of the largest, or the one with the least
    squared error of rounding."""
    percentile: float = 99.99
    """Of by=percentile: this share of the numbers, in hundredths, is inside on either side."""
    rows: int = 300
    """How many rows are looked at, drawn at random."""
    smooth: float | None = None
    """Even out the channels that enter attention's projection first (SmoothQuant), with this
    exponent: 0.5. None: do not."""

    def __post_init__(self) -> None:
        inside = 50 < self.percentile <= 100
        require(inside, "percentile", self.percentile, "above 50, at most 100")
        require(self.rows >= 1, "rows", self.rows, "at least 1")
        fine = self.smooth is None or 0 <= self.smooth <= 1
        require(fine, "smooth", self.smooth, "from 0 to 1")


CARD = MethodCard(
    name="static_ranges",
    kind="quantize",
    summary="Find the ranges of activations for int8 on real rows: min-max, percentile or MSE.",
    paper="Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation",
    year=2020,
    citation=(
        "Wu et al. 2020, arXiv:2004.09602 (calibration); Xiao et al. 2023, arXiv:2211.10438 "
        "(SmoothQuant)"
    ),
    equation=(
        "min-max: (min x, max x) of what enters a linear layer at real tokens, 0 between\n"
        "percentile p: quantiles 1 - p and p; mse: argmin over (a min x, b max x) of\n"
        "sum (x - S (clip(round(x / S) + Z, 0, 255) - Z))^2, S = (high - low) / 255\n"
        "smooth: s_j = max|X_j|^alpha / max|W_O[:, j]|^(1 - alpha); W_V[j] / s_j, W_O[:, j] s_j"
    ),
    needs=(
        "A trained model, some hundred rows without labels. Families bert, roberta, xlm-roberta, "
        "electra, distilbert; smooth: the roles value and attention_output."
    ),
    cost="Two passes over the rows; nothing at run time.",
    expected_effect=(
        "With a well chosen range every network that its authors tried, BERT-large too, stays "
        "within 1% of fp32."
    ),
    expected_source="Abstract of Wu et al. 2020; not measured here.",
    when_to_use="When int8 by NNCF costs score: try percentile and mse before sparing parts.",
    when_not_to_use="For ONNX Runtime, which finds ranges at each call; after qat.",
    siblings="int8_ptq is the arithmetic; qat learns the ranges with the weights.",
    departures=(
        "Asymmetric grids. Products inside attention stay float. Scales that have no place to go "
        "in an encoder with norms after the sum are left out (see smooth)."
    ),
)


@register_method(config=StaticRangesConfig, card=CARD)
class StaticRanges:
    """Gives a finished model ranges; trains nothing, so it is not a hook."""

    def __init__(self, config: StaticRangesConfig | None = None) -> None:
        self.config = config or StaticRangesConfig()

    def apply(self, model: TaskModel, rows: EncodedRows) -> TaskModel:
        """Return a copy with ranges, for OpenVINO's int8; smoothed, if that is asked for.

        Raises:
            UsageError: the model has been quantized, or has factorised embeddings.
            UnsupportedFamilyError: what enters its matrix products is not known.
        """
        refuse_quantized(model, "its ranges are those of rounded weights")
        refuse_unknown_inputs(model, "ranges of its own")
        refuse_unknown_pieces(model, rows)
        if not len(rows):
            raise UsageError("ranges are found on rows, and there are none")
        copied = copy.deepcopy(model)
        copied.token_drop = None  # so that every layer is seen with all tokens
        count = min(self.config.rows, len(rows))
        chosen = np.random.default_rng(0).choice(len(rows), size=count, replace=False)
        some = rows.select(sorted(chosen.tolist()))
        if self.config.smooth is not None:
            smooth_values(copied, some, self.config.smooth)
        inputs = {
            path: self._range(counts, edges)
            for path, (counts, edges) in histograms(copied, some).items()
        }
        tables = tuple(p for p, one in copied.named_modules() if type(one) is nn.Embedding)
        copied.ranges = LearnedRanges(inputs=inputs, tables=tables)
        copied.token_drop = model.token_drop
        return copied

    def _range(self, counts: np.ndarray, edges: np.ndarray) -> tuple[float, float]:
        if self.config.by == "mse":
            return best_range(counts, edges)
        if self.config.by == "percentile":
            return central_range(counts, edges, self.config.percentile)
        return min(float(edges[0]), 0.0), max(float(edges[-1]), 0.0)


def histograms(model: TaskModel, rows: EncodedRows) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return counts [K] and edges [K + 1] of what enters each linear layer that is used.

    Padding does not count. Two passes: for the ends, and for the counts between them.
    """
    layers = {p: one for p, one in model.named_modules() if type(one) is nn.Linear}
    ends: dict[str, tuple[float, float]] = {}
    counts: dict[str, Tensor] = {}

    def note_ends(path: str) -> Callable[[Tensor], None]:
        def see(inputs: Tensor) -> None:
            low, high = (float(one) for one in inputs.aminmax())
            before = ends.get(path, (low, high))
            ends[path] = min(before[0], low), max(before[1], high)

        return see

    def count(path: str) -> Callable[[Tensor], None]:
        def see(inputs: Tensor) -> None:
            low, high = ends[path]
            found = torch.histc(inputs.flatten(), BINS, low, high).double()
            counts[path] = counts[path] + found if path in counts else found

        return see

    for note in (note_ends, count):
        for _ in _watched(model, rows, {one: note(path) for path, one in layers.items()}):
            pass
    return {
        path: (counts[path].cpu().numpy(), np.linspace(*ends[path], BINS + 1)) for path in counts
    }


def _watched(
    model: TaskModel, rows: EncodedRows, see: dict[nn.Module, Callable[[Tensor], None]]
) -> Iterator[None]:
    """Run the rows; show what enters each module, [N, I] of the real tokens (or of the texts)."""
    mask: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs = args[0].detach().float()
        real = mask[0].bool()
        by_token = inputs.ndim > 2 and inputs.shape[:2] == real.shape
        see[module](inputs[real] if by_token else inputs.reshape(-1, inputs.shape[-1]))

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask[:] = [kwargs["attention_mask"]]

    handles = [module.register_forward_pre_hook(hook) for module in see]
    handles.append(model.register_forward_pre_hook(before, with_kwargs=True))
    try:
        for _ in forward_batches(model, rows):
            yield
    finally:
        for handle in handles:
            handle.remove()
