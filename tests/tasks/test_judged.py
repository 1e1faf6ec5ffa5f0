"""Comparisons of judged answers: where rows are right or wrong, and where the score is no mean."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, ttest_1samp

from bertwright.tasks import find_task
from bertwright.tasks.classify import Classify
from bertwright.tasks.judged import Judged
from bertwright.tasks.significance import kept_interval, mcnemar_exact, paired_bootstrap_p

N = 300


class ByMacroF1(Classify):
    """A task whose score is no mean over rows."""

    primary = "macro_f1"

    def row_scores(self, statistics):
        return None


def answers(task, errors: float, seed: int) -> Judged:
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(99).integers(0, 3, N)
    predicted = np.where(rng.random(N) < errors, (labels + 1) % 3, labels)
    return Judged(task, np.stack([predicted, labels], axis=1).astype(float))


def test_of_right_and_wrong_rows_it_is_what_the_plain_functions_say():
    good, worse = answers(find_task("classify"), 0.1, 1), answers(find_task("classify"), 0.3, 2)
    assert good.score == good.row_scores.mean()
    assert worse.kept_of(good) == kept_interval(worse.row_scores, good.row_scores)
    test, p = worse.significance_against(good)
    assert test == "exact McNemar"
    assert p == mcnemar_exact(worse.row_scores, good.row_scores).p < 0.01
    assert 0 < good.lead_over(worse, level=0.99) < good.score - worse.score
    assert worse.lead_over(good, level=0.99) < 0


def test_of_other_scores_rows_of_both_are_drawn_together():
    good, worse = answers(ByMacroF1(), 0.1, 1), answers(ByMacroF1(), 0.3, 2)
    kept = worse.kept_of(good, num_resamples=200)
    assert kept.score == pytest.approx(worse.score / good.score)
    assert kept.low < kept.score < kept.high < 1
    test, p = worse.significance_against(good, num_resamples=200)
    assert test == "paired bootstrap" and p == pytest.approx(2 / 201)
    assert good.lead_over(worse, level=0.99, num_resamples=200) > 0
    itself = good.kept_of(good, num_resamples=50)
    assert (itself.score, itself.low, itself.high) == (1.0, 1.0, 1.0)
    assert good.significance_against(good, num_resamples=50)[1] == 1.0
    assert len(good) == N


def test_what_is_lost_is_the_difference_on_the_same_rows():
    for task in (Classify(), ByMacroF1()):
        good, worse = answers(task, 0.1, 1), answers(task, 0.3, 2)
        lost = worse.lost_against(good, num_resamples=200)
        assert lost.score == pytest.approx(good.score - worse.score)
        assert 0 < lost.low < lost.score < lost.high
        back = good.lost_against(worse, num_resamples=200)
        assert (back.low, back.high) == pytest.approx((-lost.high, -lost.low))
        itself = good.lost_against(good, num_resamples=50)
        assert (itself.score, itself.low, itself.high) == (0.0, 0.0, 0.0)


def test_a_teacher_that_scores_nothing_has_no_share_to_keep():
    nothing = answers(ByMacroF1(), 1.0, 0)
    assert nothing.score == 0
    with pytest.raises(ValueError, match="scores nothing"):
        answers(ByMacroF1(), 0.1, 1).kept_of(nothing)


def test_bootstrap_p_is_near_the_normal_one_and_never_zero():
    rng = np.random.default_rng(0)
    a = rng.normal(0.15, 1, 400)
    b = np.zeros(400)
    p = paired_bootstrap_p(np.mean, a, b, num_resamples=4000)
    assert p == pytest.approx(ttest_1samp(a, 0).pvalue, rel=0.5)
    assert paired_bootstrap_p(np.mean, b + 9, b, num_resamples=99) == pytest.approx(0.02)
    assert paired_bootstrap_p(np.mean, a, b) == paired_bootstrap_p(np.mean, b, a)

    def correlation(pairs: np.ndarray) -> float:
        return float(pearsonr(pairs[:, 0], pairs[:, 1]).statistic)

    x = rng.normal(size=200)
    near, far = (np.stack([x, x + s * rng.normal(size=200)], axis=1) for s in (0.3, 2.0))
    assert paired_bootstrap_p(correlation, near, far, num_resamples=200) < 0.02
