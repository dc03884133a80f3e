"""The statistics give the numbers of textbooks, of R's and scipy's documentation, and of plain sums."""

import sys
import warnings
from collections.abc import Iterator
from math import comb, inf, sqrt

import pytest
from conftest import refused
from scipy import stats

from lit_cifar.errors import UsageError
from lit_cifar.evaluation.statistics import (
    detectable,
    mcnemar,
    mean_interval,
    paired,
    paired_shares,
    pairs_needed,
    wilson,
)

# Hours of sleep gained by ten patients with two drugs: Student (1908), R's data set `sleep`
DEXTRO = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
LAEVO = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_intervals_of_newcombe_1998(correct: int, total: int, low: float, high: float) -> None:
    """Table I, method 3."""
    assert wilson(correct, total) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize(("correct", "total"), [(9066, 10000), (0, 1), (1, 1), (5, 8), (10000, 10000), (1, 10**6)])
def test_wilson_agrees_with_scipy(correct: int, total: int) -> None:
    interval = stats.binomtest(correct, total).proportion_ci(method="wilson")
    assert wilson(correct, total) == pytest.approx((interval.low, interval.high), rel=1e-12, abs=1e-15)


def test_wilson_stays_a_share() -> None:
    assert wilson(0, 0) == (0, 1)
    for total in range(1, 200):
        assert wilson(0, total)[0] == 0
        assert wilson(total, total)[1] == 1
    for correct, total in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match=f"{correct} of {total}"):
            wilson(correct, total)


def test_student_s_sleep_data_give_what_r_documents() -> None:
    """`t.test(extra ~ group, data = sleep, paired = TRUE)`: t = -4.0621, p-value = 0.002833."""
    found = paired(DEXTRO, LAEVO)
    assert found == pytest.approx((1.58, 0.7001142, 2.4598858, 0.002833), abs=5e-7)
    assert found.p == pytest.approx(stats.ttest_rel(LAEVO, DEXTRO).pvalue, rel=1e-9)
    assert paired(LAEVO, DEXTRO) == pytest.approx((-1.58, -2.4598858, -0.7001142, found.p), abs=5e-7)
    assert mean_interval(DEXTRO) == pytest.approx(stats.ttest_1samp(DEXTRO, 0).confidence_interval(), rel=1e-9)


def test_two_values_are_enough_and_one_is_not() -> None:
    """With one degree of freedom, Student's t is Cauchy's distribution, whose quantile is tan(0.475 pi) = 12.7062."""
    assert mean_interval([0.5, 0.6]) == pytest.approx((0.55 - 12.7062 * 0.05, 0.55 + 12.7062 * 0.05), abs=1e-5)
    for call in (lambda: mean_interval([0.5]), lambda: paired([0.5], [0.6]), lambda: mean_interval([])):
        with pytest.raises(ValueError, match="two"):
            call()
    with pytest.raises(ValueError, match="argument 2"):
        paired([0.5, 0.6], [0.6, 0.7, 0.8])


def test_equal_values_give_empty_intervals() -> None:
    assert mean_interval([0.1] * 3) == (0.1, 0.1)
    assert paired([0.5, 0.7], [0.5, 0.7]) == (0, 0, 0, 1)
    assert paired([0.52, 0.62, 0.72], [0.53, 0.63, 0.73]) == (0.01, 0.01, 0.01, 0)


def test_mcnemar_is_the_sum_of_the_binomial_tails() -> None:
    """86 and 150 are Agresti (1990), p. 350, which R's `mcnemar.test` documents."""
    for few, many in ((86, 150), (1, 8), (0, 5), (1, 2)):
        total = few + many
        expected = 2 * sum(comb(total, k) for k in range(few + 1)) / 2**total
        assert mcnemar(few, many) == mcnemar(many, few) == pytest.approx(min(1, expected), rel=1e-9)
    assert mcnemar(0, 0) == mcnemar(7, 7) == 1


def test_paired_shares_are_wald_s_with_half_an_image_in_each_cell() -> None:
    for first, second, total in ((8, 14, 100), (300, 250, 10000), (0, 0, 50), (3, 0, 3), (0, 3, 3)):
        b, c, n = first + 0.5, second + 0.5, total + 2
        half = 1.959964 * sqrt((b + c) / n - ((c - b) / n) ** 2) / sqrt(n)
        expected = max(-1, (c - b) / n - half), min(1, (c - b) / n + half)
        assert paired_shares(first, second, total) == pytest.approx(expected, abs=1e-6)


def test_as_many_pairs_are_needed_as_cohen_says() -> None:
    """Cohen (1988): 34 pairs for an effect of 0.5, 15 for 0.8; 199 for 0.2."""
    assert [pairs_needed(1, effect) for effect in (0.5, 0.8, 0.2)] == [34, 15, 199]
    assert pairs_needed(0.003, 0.001) == pairs_needed(3, 1)


def test_the_detectable_difference_has_a_power_of_80_percent() -> None:
    for pairs in (3, 5, 34):
        critical, freedom = stats.t.ppf(0.975, pairs - 1), pairs - 1
        shift = detectable(0.002, pairs) / 0.002 * sqrt(pairs)
        power = stats.nct.sf(critical, freedom, shift) + stats.nct.cdf(-critical, freedom, shift)
        assert power == pytest.approx(0.8, abs=1e-5)
        assert pairs_needed(0.002, detectable(0.002, pairs) * 1.0001) == pairs


def test_a_spread_of_zero_and_impossible_questions() -> None:
    assert detectable(0, 5) == 0
    assert pairs_needed(0, 0.001) == 2
    assert pairs_needed(0.001, inf) == 2
    for call in (lambda: detectable(0.1, 1), lambda: pairs_needed(0.1, 0), lambda: pairs_needed(0.1, -1)):
        with pytest.raises(ValueError, match="pairs"):
            call()


def test_without_scipy_only_wilson_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    assert wilson(1, 2)[0] == pytest.approx(0.0945, abs=1e-4)
    with refused(UsageError, "package-missing", "scipy", "[compare]"):
        mean_interval([0.1, 0.2])
