"""Training with rounding: the model learns weights and ranges that 8-bit kernels can use as is.

Shape letters: B batch, L length, O outputs (or table rows), I inputs (or features of a row).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.errors import UnsupportedFamilyError, UsageError
from bertwright.models.quantized import refuse_quantized
from bertwright.models.ranges import (
    LEVELS,
    LearnedRanges,
    WeightBits,
    input_grid,
    largest_step,
    row_scales,
)
from bertwright.models.task_model import TaskModel
from bertwright.registry import register_method
from bertwright.training.hooks import Hook, RunState

__all__ = [
    "FakeQuantization",
    "Qat",
    "QatConfig",
    "move_range",
    "refuse_unknown_inputs",
    "round_inputs",
    "round_rows",
    "rounding",
]

RANGE = "input_range"
"""Name of the buffer that a linear layer has while ranges are learned."""
_FAMILIES = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")
_REASONS = {
    "albert": "its layers share their modules, and one range would stand for all of them",
    "xlnet": "its projections are raw parameters, not linear layers",
}


def round_inputs(x: Tensor, ends: Tensor) -> Tensor:
    """Return x on the unsigned 8-bit grid of a range: S (clip(round(x / S) + Z, 0, 255) - Z).

    The gradient is 1 where x falls on the grid and 0 where it is clipped (straight-through).

    Args:
        x: any shape.
        ends: [2], least and largest; see `input_grid`.

    Source: Jacob et al. 2018.
    """
    scale, zero_point = input_grid(ends)
    rounded = torch.fake_quantize_per_tensor_affine(x.float(), scale, zero_point, 0, LEVELS)
    return rounded.to(x.dtype)


def round_rows(weight: Tensor, bits: WeightBits = 8) -> Tensor:
    """Return S[o] clip(round(w / S[o]), -M, M) with S[o] = max|w[o]| / M, of [O, I].

    M = 127 in 8 bits, 63 in 7. The gradient is 1: with this scale nothing is clipped, and the scale
    counts as a constant.
    """
    most = largest_step(bits)
    zeros = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    rounded = torch.fake_quantize_per_channel_affine(
        weight.float(), row_scales(weight, bits), zeros, 0, -most, most
    )
    return rounded.to(weight.dtype)


def move_range(ends: Tensor, x: Tensor, decay: float) -> Tensor:
    """Return the range [2] moved towards that of x: decay ends + (1 - decay) (min x, max x).

    The range of x always contains 0. The first one, where `ends` is (0, 0), is taken whole.
    """
    low, high = x.detach().float().aminmax()
    seen = torch.stack([low.clamp_max(0), high.clamp_min(0)])
    return torch.where(ends.any(), decay * ends + (1 - decay) * seen, seen)


class _RoundedLinear:
    """Stands in the place of a linear layer's `forward`."""

    def __init__(self, layer: nn.Linear, decay: float, bits: WeightBits) -> None:
        self.layer = layer
        self.decay = decay
        self.bits: WeightBits = bits
        self.may_move = False

    def __call__(self, x: Tensor) -> Tensor:
        ends = self.layer.get_buffer(RANGE)
        if self.may_move and self.layer.training:
            ends.copy_(move_range(ends, x, self.decay))
            self.may_move = False
        weight = round_rows(self.layer.weight, self.bits)
        return linear(round_inputs(x, ends), weight, self.layer.bias)


class _RoundedTable:
    """Stands in the place of an embedding's `forward`; rounds only the rows that are looked up."""

    def __init__(self, table: nn.Embedding) -> None:
        self.table = table

    def __call__(self, ids: Tensor) -> Tensor:
        rows = nn.Embedding.forward(self.table, ids)
        return round_rows(rows.flatten(0, -2)).view_as(rows)


class FakeQuantization:
    """Rounds in every linear layer of a model, and in its embedding tables, until removed.

    Each linear layer has a buffer `input_range` [2] meanwhile, so that best weights and
    checkpoints hold the ranges that belong to them. Modules keep their names and parameters.
    """

    def __init__(
        self,
        model: TaskModel,
        *,
        tables: bool = True,
        decay: float = 0.99,
        weight_bits: WeightBits = 8,
    ) -> None:
        """Take over `forward` of the layers and tables, from another `FakeQuantization` too.

        Raises:
            UnsupportedFamilyError: inputs of this family's matrix products are not known here.
            UsageError: the model has been quantized, or has factorised embeddings.
        """
        refuse_quantized(model, "it cannot be trained")
        refuse_unknown_inputs(model, "training with rounding")
        self._weight_bits: WeightBits = weight_bits
        self._layers: dict[str, _RoundedLinear] = {}
        self._tables: dict[str, _RoundedTable] = {}
        for path, module in model.named_modules():
            if type(module) is nn.Linear:
                if RANGE not in dict(module.named_buffers()):
                    module.register_buffer(RANGE, torch.zeros(2, device=module.weight.device))
                rounded: Any = _RoundedLinear(module, decay, weight_bits)
                self._layers[path] = rounded
            elif tables and type(module) is nn.Embedding:
                rounded = _RoundedTable(module)
                self._tables[path] = rounded
            else:
                continue
            module.forward = rounded

    def let_move(self, moving: bool = True) -> None:
        """Let each range move once, at the next call of its layer in train mode; or not."""
        for layer in self._layers.values():
            layer.may_move = moving

    def ranges(self) -> LearnedRanges:
        """Return the ranges of the layers that were used."""
        ends = {path: one.layer.get_buffer(RANGE).tolist() for path, one in self._layers.items()}
        used = {path: (low, high) for path, (low, high) in ends.items() if low or high}
        return LearnedRanges(inputs=used, tables=tuple(self._tables), weight_bits=self._weight_bits)

    def set_ranges(self, ranges: LearnedRanges) -> None:
        """Take these ranges in place of what was seen."""
        for path, ends in ranges.inputs.items():
            buffer = self._layers[path].layer.get_buffer(RANGE)
            buffer.copy_(torch.tensor(ends))

    def remove(self) -> None:
        """Give the modules back what they had."""
        for layer in self._layers.values():
            del layer.layer.forward
            del layer.layer._buffers[RANGE]
        for table in self._tables.values():
            del table.table.forward
        self._layers, self._tables = {}, {}


def refuse_unknown_inputs(model: TaskModel, what: str) -> None:
    """Check that what enters the matrix products of the model is known.

    Raises:
        UnsupportedFamilyError: not of this family; `what` cannot be done.
        UsageError: it has factorised embeddings.
    """
    family = model.roles.family
    if family not in _FAMILIES:
        reason = _REASONS.get(family, "what enters its matrix products was not tried here")
        raise UnsupportedFamilyError(
            f"no {what} for {family}: {reason}",
            hint=f"families with it: {', '.join(_FAMILIES)}; int8 after training works for all",
        )
    words = model.encoder.get_input_embeddings()
    if type(words) is not nn.Embedding:
        raise UsageError(
            f"no {what}: the word embeddings are a {type(words).__name__}",
            hint="leave --embeddings out, or this",
        )


@contextlib.contextmanager
def rounding(model: TaskModel, *, weight_bits: WeightBits | None = None) -> Iterator[None]:
    """Let the model round inside the block as it did in training, by the ranges that it learned.

    Args:
        model: has ranges.
        weight_bits: of the linear layers' weights; None: as many as in training.

    Raises:
        UsageError: it has no ranges.
    """
    if model.ranges is None:
        raise UsageError(
            "the model was not trained with rounding", hint="train it with --method qat"
        )
    fake = FakeQuantization(
        model,
        tables=bool(model.ranges.tables),
        weight_bits=weight_bits or model.ranges.weight_bits,
    )
    fake.set_ranges(model.ranges)
    try:
        yield
    finally:
        fake.remove()


@dataclass(frozen=True, kw_only=True)
class QatConfig:
    """Options of training with rounding."""

    decay: float = 0.99
    """How slowly the ranges of inputs follow those of the batches."""
    moving_share: float = 0.5
    """Share of the training after which the ranges stay as they are."""
    tables: bool = True
    """Round the rows of embedding tables too."""
    weight_bits: WeightBits = 8
    """Of linear layers. 7: what x86 processors without VNNI can add exactly."""

    def __post_init__(self) -> None:
        require(0 <= self.decay < 1, "decay", self.decay, "at least 0, below 1")
        inside = 0 < self.moving_share <= 1
        require(inside, "moving_share", self.moving_share, "above 0, at most 1")


CARD = MethodCard(
    name="qat",
    kind="quantize",
    summary="Train with the rounding of 8-bit kernels, which then use the ranges learned.",
    paper="Q8BERT: Quantized 8Bit BERT",
    year=2019,
    citation="Zafrir et al. 2019, arXiv:1910.06188; Jacob et al. 2018, arXiv:1712.05877",
    equation=(
        "y = x^ W^^T + b in every linear layer, and W^ in embedding tables\n"
        "W^[o] = S[o] round(W[o] / S[o]), S[o] = max|W[o]| / M, M = 127 (7 bits: 63), anew each "
        "call\n"
        "x^ = S (clip(round(x / S) + Z, 0, 255) - Z), S = (max - min) / 255, Z = round(-min / S)\n"
        "(min, max) <- decay (min, max) + (1 - decay) (min x, max x) at each batch, 0 between them;"
        "\nthe first batch's whole; fixed after `moving_share` of the steps\n"
        "gradient of x^: 1 on the grid, 0 where clipped; of W^: 1; none to S and Z"
    ),
    needs=(
        "Nothing besides what the training needs; together with soft_targets and others. Families "
        "bert, roberta, xlm-roberta, electra, distilbert. No calibration rows afterwards."
    ),
    cost="Rounding at each step, some time; two numbers a linear layer. Nothing at run time.",
    expected_effect=(
        "BERT-base: GLUE tasks within 1 point of fp32 (MRPC 89.56 of 90.0, RTE 68.78 of 69.7), "
        "where int8 after training loses 1 to 6 (MRPC 87.88, RTE 63.32)."
    ),
    expected_source="Table of Zafrir et al. 2019, quoted from memory; not measured here.",
    when_to_use=(
        "When int8 after training costs score, or needs parts in higher precision. Train a "
        "fine-tuned model for some epochs more, or the student while it is distilled."
    ),
    when_not_to_use=(
        "Where int8_ptq keeps the score: it costs nothing. Before surgery: what takes parts out, "
        "or trains again, gives a model without ranges. ONNX Runtime finds its own at each call."
    ),
    siblings=(
        "int8_ptq rounds a finished model, without training. Comes last: with soft_targets and "
        "the like, after pruning."
    ),
    departures=(
        "Inputs are rounded asymmetrically by moving minima and maxima, weights by output channel "
        "and tables by row (the paper: symmetric, one scale a matrix). The products inside "
        "attention stay float. Padding counts in the ranges. After training the model computes in "
        "float again; int8 begins in OpenVINO."
    ),
)


@register_method(config=QatConfig, card=CARD)
class Qat(Hook):
    """Rounds while it trains; the model ends in float, with its ranges in `model.ranges`.

    The scores of the run, and with them the choice of the best weights, are those with rounding.
    """

    order = 10

    def __init__(self, config: QatConfig | None = None) -> None:
        self.config = config or QatConfig()

    def on_start(self, state: RunState) -> None:
        """Begin to round.

        Raises:
            UsageError: the run trains nothing, or the model cannot be trained with rounding.
        """
        if not state.task.trains:
            raise UsageError(
                "--method qat learns in training, and with these options nothing is trained"
            )
        config = self.config
        self._fake = FakeQuantization(
            state.model,
            tables=config.tables,
            decay=config.decay,
            weight_bits=config.weight_bits,
        )

    def on_batch(self, state: RunState) -> None:
        """Let the ranges move with this batch, in the first part of the training."""
        moving = state.step < self.config.moving_share * state.total_steps
        self._fake.let_move(moving)
        state.losses["qat/moving"] = float(moving)

    def on_end(self, state: RunState) -> None:
        """Give the model its ranges, and its float layers back."""
        state.model.ranges = self._fake.ranges()
        self._fake.remove()
