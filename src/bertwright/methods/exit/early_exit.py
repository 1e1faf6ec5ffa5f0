"""Early exit: heads after inner layers, and a threshold with a promise.

Shapes: N rows, B batch, C classes, D model width, E exits, K layers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bertwright.card import MethodCard
from bertwright.config import require
from bertwright.data.batching import MODEL_INPUTS
from bertwright.data.tokenise import EncodedRows
from bertwright.errors import ConfigError, UsageError
from bertwright.methods.exit.heads import exit_readings, fit_soft_head, read_exits
from bertwright.models.agreement import AGREEMENT, CONFIDENCE, Calibration
from bertwright.models.exits import Exits, Measure, find_threshold
from bertwright.models.in_parts import check_runs_in_parts
from bertwright.models.modes import eval_mode
from bertwright.models.progressive import answer_early
from bertwright.models.quantized import refuse_quantized
from bertwright.models.task_model import TaskModel
from bertwright.registry import register_method

__all__ = [
    "EarlyExit",
    "EarlyExitConfig",
    "answer_rows",
    "calibrate_exits",
    "exit_layers",
    "fit_exits",
]


@dataclass(frozen=True, kw_only=True)
class EarlyExitConfig:
    """Options of early exit."""

    layers: tuple[int, ...] = ()
    """After how many layers heads stand (2+4). Without them, after each but the last."""
    agreement: float = AGREEMENT
    """Promised share of rows that are answered as by the whole model."""
    confidence: float = CONFIDENCE
    """That the promise holds, over draws of the calibration rows."""
    measure: Measure = "probability"
    """What says how sure a head is: the probability of its likeliest class, or its entropy."""
    penalty: float = 1.0
    """On the squared weights of a head; 1 is the usual strength of logistic regression."""
    iterations: int = 100
    """Most steps of L-BFGS for a head."""
    most_rows: int = 20_000
    """Most rows that the heads learn from; of more, so many are drawn."""
    seed: int = 0
    """Of that draw."""

    def __post_init__(self) -> None:
        for name in ("agreement", "confidence"):
            value = getattr(self, name)
            require(0.5 <= value < 1, name, value, "at least 0.5, below 1")
        require(self.penalty >= 0, "penalty", self.penalty, "at least 0")
        for name in ("iterations", "most_rows"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


def exit_layers(wanted: tuple[int, ...], num_layers: int) -> tuple[int, ...]:
    """Return after how many layers heads stand: those wanted, or each but the last.

    Raises:
        ConfigError: one is out of range, they do not increase, or there is no inner layer.
    """
    if num_layers < 2:
        raise ConfigError("early exits: the model has one layer, so there is none to leave after")
    layers = wanted or tuple(range(1, num_layers))
    if list(layers) != sorted(set(layers)) or not 1 <= layers[0] <= layers[-1] < num_layers:
        raise ConfigError(
            f"--layers {'+'.join(map(str, layers))}: must be increasing numbers of layers",
            hint=f"from 1 to {num_layers - 1} for this model, such as 1+{num_layers - 1}"
            if num_layers > 2
            else "1 is the only one for this model",
        )
    return layers


def fit_exits(model: TaskModel, rows: EncodedRows, config: EarlyExitConfig) -> Exits:
    """Return heads that have learned the model's own answers; no row leaves yet.

    Args:
        model: stays as it is.
        rows: labels are not asked.
        config: which layers, and how heads are fitted.

    Raises:
        UsageError: the model cannot have exits, with the reason; or there are no rows.
    """
    _check(model)
    _check_rows(rows)
    layers = exit_layers(config.layers, model.roles.num_layers)
    if len(rows) > config.most_rows:
        drawn = np.random.default_rng(config.seed).choice(
            len(rows), size=config.most_rows, replace=False
        )
        rows = rows.select(np.sort(drawn))
    readings, logits = exit_readings(model, rows, layers)
    targets = logits.softmax(dim=1)
    fitted = [
        fit_soft_head(one, targets, penalty=config.penalty, iterations=config.iterations)
        for one in readings
    ]
    weight, bias = (torch.stack(parts) for parts in zip(*fitted, strict=True))
    exits = Exits(
        layers,
        weight,
        bias,
        measure=config.measure,
        agreement=config.agreement,
        confidence=config.confidence,
    )
    return exits.to(next(model.parameters()).device).eval()


def calibrate_exits(model: TaskModel, exits: Exits, rows: EncodedRows) -> Calibration:
    """Return the threshold by rows that the heads have not learned from; nothing is changed.

    Args:
        model: the whole one.
        exits: what they promise is what the threshold must keep.
        rows: labels are not asked.

    Raises:
        UsageError: there are no rows.
    """
    _check_rows(rows)
    with torch.no_grad():
        answers = (
            torch.stack([*map(exits.logits, exits.layers, readings), logits])
            for _, readings, logits in read_exits(model, rows, exits.layers)
        )
        return find_threshold(exits, answers, model.roles.num_layers)


def answer_rows(
    model: TaskModel, rows: EncodedRows, *, batch_tokens: int = 2048
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits [N, C] of a model with exits, fp32, and the layers each row ran, [N].

    Args:
        model: stays on its device and in its mode.
        rows: labels are not asked.
        batch_tokens: most tokens in a batch, padding counted.
    """
    device = next(model.parameters()).device
    logits = np.empty((len(rows), model.outputs.count), dtype=np.float32)
    layers = np.empty(len(rows), dtype=np.int64)
    with eval_mode(model), torch.no_grad():
        for positions in rows.plan(batch_tokens=batch_tokens, shuffle=False):
            batch = rows.collate(positions)
            inputs: dict[str, Any] = {k: batch[k].to(device) for k in MODEL_INPUTS if k in batch}
            found = answer_early(model, **inputs)
            logits[positions] = found.logits.float().cpu().numpy()
            layers[positions] = found.layers.cpu().numpy()
    return logits, layers


def _check(model: TaskModel) -> None:
    """Raise unless the model can have exits."""
    refuse_quantized(model, "its layers cannot get exits")
    if model.task.partition(":")[0] != "classify":
        raise UsageError(
            f"early exits are for the task classify, and this model is for {model.task}: what is "
            "promised is that one label of a text stays the same",
            hint="bertwright cut and bertwright distil make models of any task shallower",
        )
    check_runs_in_parts(model.roles, "early exits")
    if model.token_drop is not None:
        raise UsageError(
            "the model leaves tokens out on the way, and exits read all of them",
            hint="take the model that it was made of",
        )


def _check_rows(rows: EncodedRows) -> None:
    if len(rows) == 0:
        raise UsageError("early exits: there are no rows")


CARD = MethodCard(
    name="early_exit",
    kind="exit",
    summary="Texts that an early layer is sure of stop there; agreement with the rest is promised.",
    paper="Confident Adaptive Language Modeling; Learn then Test",
    year=2022,
    citation=(
        "Schuster et al. 2022, arXiv:2207.07061 (thresholds with a promise); Angelopoulos et al. "
        "2021, arXiv:2110.01052 (the tests); DeeBERT: Xin et al. 2020, arXiv:2004.12993; FastBERT: "
        "Liu et al. 2020, arXiv:2004.02178 (self-distilled heads); quoted from memory"
    ),
    equation=(
        "x_l = [h_l(cls); mean_t h_l(t)],  z_l = W_l x_l + b_l\n"
        "heads: min mean over rows of H(softmax(z_K), softmax(z_l)) + p / (2 N) ||W_l||²\n"
        "       (x_l centred, one scale for all features, T = 1, encoder frozen)\n"
        "a row stops at the first l with max softmax(z_l) >= t, or 1 - H / log C >= t\n"
        "t: 1 - t from 1e-6 up in 500 steps of its logarithm, until the lower one-sided bound\n"
        "   (Clopper-Pearson) of P(answer = the whole model's) falls below the promise;\n"
        "   the last t before that"
    ),
    needs=(
        "A trained model for classify. Texts for the heads, and other texts for the threshold that "
        "the heads have not seen; no labels. Families: bert, roberta, xlm-roberta, electra, "
        "distilbert."
    ),
    cost=(
        "One pass over both sets, 8 E N D bytes of memory while heads are fitted, (2D + 1) C "
        "numbers a head. At run time a linear head for each exit that a row passes, and packing "
        "the rest."
    ),
    expected_effect=(
        "FastBERT reports a speed of 1 to 12 times BERT's, by the threshold. MiniLM, 6 layers, "
        "promised 0.99, torch in batches: clinc150 2.1 times, sst2 1.6; ONNX Runtime 2.5 and 1.45, "
        "in int8 3.2 and 2.1; OpenVINO 1.4 and 1.0. It depends on the share of easy texts."
    ),
    expected_source=(
        "Abstract of Liu et al. 2020, quoted from memory; results/exits and results/exit_engines."
    ),
    when_to_use=(
        "When many texts are easy, and answers must stay those of a model that is trusted. On a "
        "student of two or three layers too: `compress` tries it. Put exits on last."
    ),
    when_not_to_use=(
        "With texts unlike those of the calibration: it is for rows drawn alike. With few "
        "calibration rows: 0.99 at 95% needs 299 at least. In int8 and bf16 `export` finds the "
        "threshold anew, so it needs such rows too."
    ),
    siblings=(
        "layer_pruning and student_init make every text run fewer layers. layer_drop trains layers "
        "to do without each other."
    ),
    departures=(
        "A head is linear and convex, and reads the mean beside the first token, which need not "
        "say much in early layers of a frozen encoder. Fixed sequence testing, with the exact "
        "binomial bound, over one threshold for all exits; it needs no second half of the rows. "
        "No patience (PABEE)."
    ),
)


@register_method(config=EarlyExitConfig, card=CARD)
class EarlyExit:
    """Gives a trained model exits; the encoder is not trained, so it is not a hook."""

    def __init__(self, config: EarlyExitConfig | None = None) -> None:
        self.config = config or EarlyExitConfig()

    def check(self, model: TaskModel) -> None:
        """Raise, before anything runs, unless the model can have these exits; as `apply`."""
        _check(model)
        exit_layers(self.config.layers, model.roles.num_layers)

    def apply(
        self, model: TaskModel, rows: EncodedRows, calibration: EncodedRows
    ) -> tuple[TaskModel, Calibration]:
        """Return a copy of the model with exits, and what is promised of it.

        Where no threshold is shown to be safe there is none, and every row runs through all layers.

        Args:
            model: left as it is; exits that it has are replaced.
            rows: the heads learn from these.
            calibration: other rows, of the kind that the promise is for.

        Raises:
            ConfigError: a layer is not there.
            UsageError: the model cannot have exits, there are no rows, or both sets are the same.
            UnsupportedFamilyError: the encoder cannot be stopped between its layers.
        """
        if rows.fingerprint == calibration.fingerprint:
            raise UsageError(
                "early exits: the calibration rows are those that the heads learn from, and a "
                "promise made on these would not hold for others",
                hint="give other rows by --calibration",
            )
        copied = copy.deepcopy(model)
        exits = fit_exits(model, rows, self.config)
        found = calibrate_exits(model, exits, calibration)
        exits.threshold = found.threshold
        copied.exits = exits
        return copied, found
