"""The promise: bounds against scipy's, the search by hand, and how often it is kept."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bertwright.models.agreement import (
    agreement_bound,
    calibrate_threshold,
    exit_places,
    rows_needed,
    threshold_ladder,
)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize(("agreeing", "rows"), [(1, 1), (7, 9), (50, 50), (296, 300), (1, 40)])
def test_the_bound_is_scipys_exact_one(agreeing, rows, confidence):
    bound = agreement_bound(agreeing, rows, confidence)
    theirs = stats.binomtest(agreeing, rows, alternative="greater")
    assert bound == pytest.approx(theirs.proportion_ci(confidence, "exact").low, abs=1e-9)
    assert 0 < bound < agreeing / rows
    chance = stats.binom.sf(agreeing - 1, rows, bound)
    assert chance == pytest.approx(1 - confidence)
    two_sided = stats.binomtest(agreeing, rows).proportion_ci(confidence, "exact").low
    assert bound != pytest.approx(two_sided, abs=1e-6)


def test_the_bound_by_hand_and_at_its_ends():
    assert agreement_bound(2, 2, 0.75) == pytest.approx(0.5)  # p² = 1/4
    assert agreement_bound(0, 5, 0.95) == 0.0
    for wrong in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="rows"):
            agreement_bound(*wrong, 0.95)


@pytest.mark.parametrize(("agreement", "count"), [(0.99, 299), (0.95, 59), (0.5, 5)])
def test_how_many_rows_a_promise_needs(agreement, count):
    assert rows_needed(agreement, 0.95) == count
    assert agreement_bound(count, count, 0.95) >= agreement
    assert agreement_bound(count - 1, count - 1, 0.95) < agreement


def test_where_rows_leave():
    sure = np.array([[0.9, 0.2, 0.5, 0.1], [0.1, 0.8, 0.95, 0.3]])
    assert exit_places(sure, 0.8).tolist() == [0, 1, 1, 2]
    assert exit_places(sure, 0.0).tolist() == [0, 0, 0, 0]
    assert exit_places(sure, None).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("lowest", [0.0, 0.25])
def test_the_ladder_goes_down_from_safe_to_greedy(lowest):
    ladder = threshold_ladder(lowest)
    assert ladder[0] == 1 - 1e-6 and ladder[-1] == 0.0 and len(ladder) > 100
    assert (np.diff(ladder) < 0).all() and ladder[-2] > lowest


def test_the_search_by_hand():
    sure = np.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]])
    agrees = np.array([[True, True, True, False, True, False, False, False]])
    steps = [0.95, 0.85, 0.65, 0.45, 0.35]
    options = {"agreement": 0.6, "confidence": 0.75}
    found = calibrate_threshold(sure, agrees, [2], 6, steps, **options)
    # rows that leave 0, 1, 3, 5, 6; they disagree 0, 0, 0, 1, 2; bounds of 8, 8, 8, 7, 6 of 8 are
    # 0.84 (three times), 0.70, 0.55 (bisected by hand on the tails of the binomial)
    assert (found.threshold, found.num_tested, found.num_rows) == (0.45, 5, 8)
    assert (found.num_agreeing, found.agreement) == (7, 7 / 8)
    assert found.average_layers == (5 * 2 + 3 * 6) / 8
    assert stats.binom.sf(6, 8, found.bound) == pytest.approx(0.25)
    strict = calibrate_threshold(sure, agrees, [2], 6, steps, agreement=0.8, confidence=0.75)
    assert (strict.threshold, strict.average_layers) == (0.65, (3 * 2 + 5 * 6) / 8)
    greedy = calibrate_threshold(sure, agrees, [2], 6, steps, agreement=0.5, confidence=0.75)
    assert (greedy.threshold, greedy.num_tested) == (0.35, 5)


def test_a_promise_that_cannot_be_shown_leaves_every_row_alone():
    sure, agrees = np.full((2, 100), 0.99), np.ones((2, 100), dtype=bool)
    found = calibrate_threshold(sure, agrees, [1, 2], 4, threshold_ladder(0.5))
    assert found.threshold is None and found.num_tested == 1
    assert (found.average_layers, found.agreement) == (4.0, 1.0)
    enough = calibrate_threshold(sure, agrees, [1, 2], 4, threshold_ladder(0.5), agreement=0.97)
    assert enough.threshold == 0.0 and enough.average_layers == 1.0


def test_the_first_failure_ends_it():
    """A dip in the agreement is not jumped over: what comes after was not to be tested."""
    sure = np.repeat([[0.9, 0.5]], 30, axis=1).reshape(1, -1)
    agrees = np.ones((1, 60), dtype=bool)
    agrees[sure > 0.8] = False
    found = calibrate_threshold(sure, agrees, [1], 4, [0.95, 0.85, 0.4], agreement=0.9)
    assert (found.threshold, found.num_tested) == (0.95, 2)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="safe to greedy"):
        calibrate_threshold(np.ones((1, 3)), np.ones((1, 3), bool), [1], 2, [0.5, 0.9])
    with pytest.raises(ValueError, match="must be rows"):
        calibrate_threshold(np.ones((1, 0)), np.ones((1, 0), bool), [1], 2, [0.9, 0.5])


AGREEMENT, CONFIDENCE, ROWS, DRAWS = 0.9, 0.9, 60, 3000
LADDER = np.linspace(0.98, 0.02, 25)


def draw(rng):
    """A row is sure by s, uniform; its early answer agrees with chance sqrt(s)."""
    sure = rng.random((1, ROWS))
    return sure, rng.random((1, ROWS)) < np.sqrt(sure)


def true_agreement(threshold):
    """1 - the integral from t to 1 of 1 - sqrt(s)."""
    return 1 - ((1 - threshold) - (1 - threshold**1.5) / 1.5)


def count_broken(choose):
    rng = np.random.default_rng(7)
    chosen = [choose(*draw(rng)) for _ in range(DRAWS)]
    taken = [one for one in chosen if one is not None]
    assert len(set(taken)) > 3, "the draws lead to different thresholds"
    return sum(true_agreement(one) < AGREEMENT for one in taken)


def test_the_promise_is_kept_as_often_as_stated():
    assert true_agreement(LADDER[0]) > AGREEMENT > true_agreement(LADDER[-1])

    def ours(sure, agrees):
        options = {"agreement": AGREEMENT, "confidence": CONFIDENCE}
        return calibrate_threshold(sure, agrees, [1], 2, LADDER, **options).threshold

    def by_share_alone(sure, agrees):
        kept = [t for t in LADDER if (agrees | (sure < t)).mean() >= AGREEMENT]
        return min(kept)

    def by_greediest_bound(sure, agrees):
        """Testing all, and taking the greediest that passes: no order, no promise."""
        counts = [int((agrees | (sure < t)).sum()) for t in LADDER]
        least = next(k for k in range(ROWS + 1) if agreement_bound(k, ROWS, 0.5) >= AGREEMENT)
        return min((t for t, k in zip(LADDER, counts, strict=True) if k >= least), default=None)

    broken = count_broken(ours)
    assert stats.binomtest(broken, DRAWS, 1 - CONFIDENCE, alternative="greater").pvalue > 1e-3
    assert broken > 0, "a promise that is never broken is not tight: the draws say nothing"
    for wrong in (by_share_alone, by_greediest_bound):
        many = count_broken(wrong)
        assert stats.binomtest(many, DRAWS, 1 - CONFIDENCE, alternative="greater").pvalue < 1e-6
