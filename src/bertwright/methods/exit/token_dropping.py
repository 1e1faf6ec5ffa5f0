"""Leaving tokens out on the way, as many as a promise allows.

Shapes: N rows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import ConfigError, UsageError
from bertwright.models.agreement import agreement_bound
from bertwright.models.in_parts import check_runs_in_parts
from bertwright.models.quantized import refuse_quantized
from bertwright.models.task_model import TaskModel
from bertwright.models.token_drop import TokenDrop
from bertwright.registry import register_method
from bertwright.training.evaluation import compute_logits

__all__ = ["DropCalibration", "TokenDropping", "TokenDroppingConfig", "calibrate_drop"]

SHARES = tuple(round(0.95 - 0.05 * step, 2) for step in range(18))
"""From safe to greedy: 0.95 to 0.1 of the tokens go on."""


@dataclass(frozen=True, kw_only=True)
class TokenDroppingConfig:
    """Options of token dropping."""

    layer: int | None = None
    """After how many layers tokens are left out. Without it, after a third of them."""
    share: float | None = None
    """Share of a text's tokens that go on. Without it, the smallest that keeps the promise."""
    least: int = 16
    """So many tokens go on in any case."""
    agreement: float = 0.99
    """Promised share of rows that are answered as by the whole model."""
    confidence: float = 0.95
    """That the promise holds, over draws of the calibration rows."""

    def __post_init__(self) -> None:
        fine = self.layer is None or self.layer >= 1
        require(fine, "layer", self.layer, "at least 1")
        fine = self.share is None or 0 < self.share <= 1
        require(fine, "share", self.share, "above 0, at most 1")
        require(self.least >= 1, "least", self.least, "at least 1")
        for name in ("agreement", "confidence"):
            value = getattr(self, name)
            require(0.5 <= value < 1, name, value, "at least 0.5, below 1")


@dataclass(frozen=True, kw_only=True)
class DropCalibration:
    """The share that was found, and what it does on the calibration rows."""

    share: float | None
    """None: no share was shown to be safe, and all tokens go on."""
    num_rows: int
    num_agreeing: int
    bound: float
    """Lower bound of the agreement, one-sided, at the stated confidence."""
    num_tested: int


def calibrate_drop(
    model: TaskModel,
    rows: EncodedRows,
    drops: Iterable[TokenDrop],
    *,
    agreement: float,
    confidence: float,
) -> DropCalibration:
    """Return the last of these ways that is shown to keep the promise; the first failure ends it.

    As `calibrate_threshold` explains: the order is fixed beforehand, so each is tested at the full
    level.

    Args:
        model: for classify; left as it is.
        rows: labels are not asked.
        drops: from safe to greedy.
        agreement: promised share of rows answered as by the whole model.
        confidence: that the promise holds.

    Raises:
        UsageError: there are no rows.
    """
    if not len(rows):
        raise UsageError("token dropping: there are no rows")
    whole = np.argmax(compute_logits(model, rows, precision="fp32"), axis=1)
    found = DropCalibration(
        share=None, num_rows=len(rows), num_agreeing=len(rows), bound=1.0, num_tested=0
    )
    fewer = copy.copy(model)
    for tested, drop in enumerate(drops, start=1):
        fewer.token_drop = drop
        answers = np.argmax(compute_logits(fewer, rows, precision="fp32"), axis=1)
        agreeing = int((answers == whole).sum())
        bound = agreement_bound(agreeing, len(rows), confidence)
        if bound < agreement:
            return replace(found, num_tested=tested)
        found = DropCalibration(
            **{"share": drop.share, "num_rows": len(rows), "num_agreeing": agreeing},
            **{"bound": bound, "num_tested": tested},
        )
    return found


CARD = MethodCard(
    name="token_dropping",
    kind="exit",
    summary="Tokens that the others hardly look at skip the upper layers; for long texts.",
    paper="PoWER-BERT: Accelerating BERT Inference via Progressive Word-vector Elimination",
    year=2020,
    citation=(
        "Goyal et al. 2020, arXiv:2001.08950; the promise: Angelopoulos et al. 2021, "
        "arXiv:2110.01052"
    ),
    equation=(
        "r_t = sum over heads and tokens u of softmax_t(q_u k_t / sqrt(H)) in layer l\n"
        "of a text of n the max(least, ceil(share n)) tokens with the largest r_t go on, the first "
        "always;\nthe others keep the state of layer l. share: 0.95, 0.9, ... 0.1, the last before "
        "the lower\nbound (Clopper-Pearson) of P(answer = the whole model's) is below the promise"
    ),
    needs=(
        "A trained model; for the promise the task classify, and texts without labels. Roles: "
        "query, key. Families: bert, roberta, xlm-roberta, electra, distilbert."
    ),
    cost="The products of queries and keys of one layer once more, and a sort; nothing is trained.",
    expected_effect=(
        "PoWER-BERT, which trains how many tokens each layer keeps: up to 4.5 times the speed of "
        "BERT-base at less than 1% lost."
    ),
    expected_source="Abstract of Goyal et al. 2020; not measured here.",
    when_to_use="For texts of hundreds of tokens, in every engine; after training, before int8.",
    when_not_to_use=(
        "For short texts: `least` tokens go on in any case, so there is little to save. With "
        "poolings that read inner layers."
    ),
    siblings="early_exit lets whole texts leave; layer_pruning takes layers out for all.",
    departures=(
        "One place and one share, chosen after training by a promise, where the paper learns a "
        "number a layer. What is left out joins again after the last layer where each token has "
        "an answer; a text's vector is made of what went on."
    ),
)


@register_method(config=TokenDroppingConfig, card=CARD)
class TokenDropping:
    """Lets a trained model leave tokens out; trains nothing, so it is not a hook."""

    def __init__(self, config: TokenDroppingConfig | None = None) -> None:
        self.config = config or TokenDroppingConfig()

    def check(self, model: TaskModel) -> TokenDrop:
        """Return the way that is asked for (share 1 where it is to be found); raises as `apply`."""
        refuse_quantized(model, "it cannot leave tokens out")
        check_runs_in_parts(model.roles, "token dropping")
        if model.exits is not None:
            raise UsageError(
                "the model has early exits, which read all tokens",
                hint="take the model that the exits were put on",
            )
        if model.pooling is not None and model.pooling.reads_layers:
            raise UsageError(
                f"the pooling {model.pooling.name} reads inner layers, where tokens would be "
                "missing",
                hint="use a pooling of the last layer, as cls or mean",
            )
        depth = model.roles.num_layers
        layer = self.config.layer or max(1, depth // 3)
        if layer >= depth:
            raise ConfigError(
                f"--layer {layer}: the model has {depth} layers, and none is left after it",
                hint=f"from 1 to {depth - 1}" if depth > 1 else "a model of one layer has none",
            )
        if self.config.share is None and model.task.partition(":")[0] != "classify":
            raise UsageError(
                f"what is promised is one label of a text, and this model is for {model.task}",
                hint="say how many tokens go on with --share",
            )
        return TokenDrop(layer=layer, share=self.config.share or 1.0, least=self.config.least)

    def apply(
        self, model: TaskModel, calibration: EncodedRows | None = None
    ) -> tuple[TaskModel, DropCalibration | None]:
        """Return a copy that leaves tokens out, and what is promised of it.

        Where no share is shown to be safe, all tokens go on.

        Args:
            model: left as it is; one that leaves tokens out already begins anew.
            calibration: rows of the kind that the promise is for; not needed with a share.

        Raises:
            ConfigError: the layer is not there.
            UsageError: the model cannot do it, with the reason, or rows are needed.
            UnsupportedFamilyError: the encoder cannot be run in parts.
        """
        drop = self.check(model)
        copied = copy.deepcopy(model)
        copied.token_drop = None
        if self.config.share is not None:
            copied.token_drop = drop
            return copied, None
        if calibration is None:
            raise UsageError(
                "how many tokens may be left out is found on rows, and there are none",
                hint="give --calibration, or --share",
            )
        found = calibrate_drop(
            copied,
            calibration,
            (replace(drop, share=share) for share in SHARES),
            agreement=self.config.agreement,
            confidence=self.config.confidence,
        )
        if found.share is not None:
            copied.token_drop = replace(drop, share=found.share)
        return copied, found
