"""How sure a row must be to leave early, so that a promised agreement holds with a stated chance.

Shapes: N rows, E exits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "Calibration",
    "agreement_bound",
    "calibrate_threshold",
    "exit_places",
    "rows_needed",
    "threshold_ladder",
]

AGREEMENT, CONFIDENCE = 0.99, 0.95
"""What is promised unless something else is asked for."""
NUM_STEPS = 500
SUREST = 1e-6
"""How far below 1 the safest threshold is."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The threshold that was found, and what it does on the calibration rows."""

    threshold: float | None
    """None: no row may leave early."""
    num_rows: int
    num_agreeing: int
    """Rows answered as by the whole model."""
    bound: float
    """Lower bound of the agreement, one-sided, at the stated confidence."""
    average_layers: float
    num_tested: int
    """Thresholds that were tested, the one that failed counted."""

    @property
    def agreement(self) -> float:
        """Share of rows answered as by the whole model."""
        return self.num_agreeing / self.num_rows


def agreement_bound(num_agreeing: int, num_rows: int, confidence: float) -> float:
    """Return the lower one-sided Clopper-Pearson bound of a share.

    It is the share p of which as many agreeing rows or more come with the chance 1 - confidence;
    for whatever true share, it lies above it with at most that chance.

    Args:
        num_agreeing: 0 to `num_rows`.
        num_rows: N, at least 1.
        confidence: above 0, below 1.

    Source: Clopper, Pearson 1934, Biometrika 26.
    """
    from scipy.special import betaincinv

    if not 0 <= num_agreeing <= num_rows or num_rows < 1:
        raise ValueError(f"{num_agreeing} of {num_rows} rows")
    if num_agreeing == 0:
        return 0.0
    return float(betaincinv(num_agreeing, num_rows - num_agreeing + 1, 1 - confidence))


def rows_needed(agreement: float, confidence: float) -> int:
    """Return how many rows, all of them agreeing, show this agreement at this confidence."""
    return math.ceil(math.log(1 - confidence) / math.log(agreement))


def threshold_ladder(lowest: float) -> np.ndarray:
    """Return thresholds from safe to greedy, evenly spaced in the logarithm of 1 - threshold.

    They begin at 1 - 1e-6; no data is looked at.

    Args:
        lowest: what every answer is sure of at least; all below it comes to the same, and is one
            threshold, 0.
    """
    ladder = 1 - np.logspace(math.log10(SUREST), 0, NUM_STEPS)
    return np.append(ladder[ladder > lowest], 0.0)


def exit_places(sureness: np.ndarray, threshold: float | None) -> np.ndarray:
    """Return where each row leaves, int64 [N]: the first exit that is sure enough; E at the end.

    Args:
        sureness: of each exit, [E, N].
        threshold: None: nowhere.
    """
    num_exits, num_rows = sureness.shape
    if threshold is None:
        return np.full(num_rows, num_exits)
    sure = sureness >= threshold
    return np.where(sure.any(axis=0), sure.argmax(axis=0), num_exits)


def calibrate_threshold(
    sureness: np.ndarray,
    agrees: np.ndarray,
    layers: Sequence[int],
    num_layers: int,
    thresholds: Sequence[float] | np.ndarray,
    *,
    agreement: float = AGREEMENT,
    confidence: float = CONFIDENCE,
) -> Calibration:
    """Return the greediest threshold that is shown to keep the promised agreement.

    Thresholds are tested in their order, and the first that fails ends it; the last that passed is
    taken. Each is tested at the full level: as the order is fixed before the rows are seen, a wrong
    threshold is taken only if the first wrong one in the order passes, and that has at most the
    chance 1 - confidence. So for independent rows P(true agreement >= promised) >= confidence.

    Args:
        sureness: of each exit's answer on rows that the heads have not learned from, [E, N].
        agrees: whether it is the whole model's answer, bool [E, N].
        layers: that a row has run through at each exit, [E].
        num_layers: of the whole model.
        thresholds: from safe to greedy, decreasing; chosen without these rows.
        agreement: promised share of rows answered as by the whole model.
        confidence: that the promise holds.

    Returns:
        One without a threshold where none is shown to be safe.

    Raises:
        ValueError: there are no rows, or the thresholds do not decrease.

    Source: fixed sequence testing, in Angelopoulos, Bates, Candes, Jordan, Lei 2021, "Learn then
    Test", arXiv:2110.01052; its idea for early exit: Schuster et al. 2022, arXiv:2207.07061.
    """
    num_rows = sureness.shape[1]
    if num_rows == 0 or (np.diff(thresholds) >= 0).any():
        raise ValueError("there must be rows, and thresholds from safe to greedy")
    found = Calibration(
        threshold=None,
        num_rows=num_rows,
        num_agreeing=num_rows,
        bound=1.0,
        average_layers=float(num_layers),
        num_tested=0,
    )
    every = np.concatenate([agrees, np.ones((1, num_rows), dtype=bool)])
    depths, rows = np.array([*layers, num_layers]), np.arange(num_rows)
    for tested, threshold in enumerate(thresholds, start=1):
        places = exit_places(sureness, threshold)
        agreeing = int(every[places, rows].sum())
        bound = agreement_bound(agreeing, num_rows, confidence)
        if bound < agreement:
            return _after(found, tested)
        found = Calibration(
            threshold=float(threshold),
            num_rows=num_rows,
            num_agreeing=agreeing,
            bound=bound,
            average_layers=float(depths[places].mean()),
            num_tested=tested,
        )
    return found


def _after(found: Calibration, tested: int) -> Calibration:
    return Calibration(**{**vars(found), "num_tested": tested})
