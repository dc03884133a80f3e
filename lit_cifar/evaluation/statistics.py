"""How sure numbers are: intervals of accuracies, and tests of whether one is really higher than another.

All intervals are 95 %, all tests two-sided, all shares 0 to 1. Needs scipy (`pip install -e '.[compare]'`), except
for the intervals of shares, which every report has.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist, mean, stdev
from typing import Any, NamedTuple

from lit_cifar.errors import UsageError

Z = NormalDist().inv_cdf(0.975)  # 1.96
POWER = 0.8  # the probability with which `detectable` finds a difference, as is usual since Cohen (1988)
DIGITS = 12  # to which differences of floats are rounded: 0.53 - 0.52 and 0.63 - 0.62 are the same


class Paired(NamedTuple):
    """By how much the second of two series of pairs is higher."""

    difference: float  # second - first
    low: float
    high: float
    p: float


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Returns the interval of a share, which needs no large number (Wilson 1927); of nothing, it is 0 to 1.

    Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17 (1998), method 3.
    """
    if not 0 <= correct <= total:
        raise ValueError(f"{correct} of {total} is no share")
    if total == 0:
        return 0.0, 1.0
    center = (correct + Z**2 / 2) / (total + Z**2)
    half = Z * math.sqrt(correct * (total - correct) / total + Z**2 / 4) / (total + Z**2)
    return (center - half if correct else 0.0), (center + half if correct < total else 1.0)


def paired_shares(only_first: int, only_second: int, total: int) -> tuple[float, float]:
    """Returns the interval of second - first of two shares of the same images, from how many only one of them has.

    Wald's, after adding half an image to each of the four cells: Agresti and Min, Simple improved confidence intervals
    for comparing matched proportions, Statistics in Medicine 24 (2005). Where nothing differs, it is still not empty.
    """
    difference = (only_second - only_first) / (total + 2)
    half = Z * math.sqrt(only_first + only_second + 1 - (only_second - only_first) ** 2 / (total + 2)) / (total + 2)
    return max(-1.0, difference - half), min(1.0, difference + half)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the interval of a mean by Student's t. Raises ValueError for fewer than two values."""
    if len(values) < 2:
        raise ValueError("an interval needs at least two values")
    half = float(scipy_stats().t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Compares two series whose values belong together, such as accuracies with the same seeds, by a paired t test.

    If all differences are equal, the interval is empty, and p is 1 for no difference and 0 otherwise. Raises ValueError
    for fewer than two pairs.
    """
    differences = [round(after - before, DIGITS) for before, after in zip(first, second, strict=True)]
    low, high = mean_interval(differences)
    difference, error = mean(differences), stdev(differences) / math.sqrt(len(differences))
    p = float(not difference)
    if error:
        p = 2 * float(scipy_stats().t.sf(abs(difference) / error, len(differences) - 1))
    return Paired(difference, low, high, p)


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns p of McNemar's exact test, from how many images only the one and only the other network predicts right.

    McNemar, Note on the sampling error of the difference between correlated proportions, Psychometrika 12 (1947).
    """
    total = only_first + only_second
    return float(scipy_stats().binomtest(only_first, total).pvalue) if total else 1.0


def detectable(spread: float, pairs: int) -> float:
    """Returns the difference that a paired t test at 5 % finds with a probability of 80 %.

    The noncentral t distribution has that share above its critical value; what is below the other one, less than one
    in a million, is left out. Raises ValueError for fewer than two pairs.

    Args:
        spread: Standard deviation of the differences of the pairs.
        pairs: Number of pairs.
    """
    if pairs < 2:
        raise ValueError("a paired test needs at least two pairs")
    stats = scipy_stats()
    from scipy.special import nctdtrinc

    critical = stats.t.ppf(0.975, pairs - 1)
    return float(nctdtrinc(pairs - 1, 1 - POWER, critical)) * spread / math.sqrt(pairs)


def pairs_needed(spread: float, difference: float) -> int:
    """Returns how many pairs it takes until a difference is `detectable`. Raises ValueError unless it is positive."""
    if not difference > 0:
        raise ValueError(f"no number of pairs finds a difference of {difference}")
    fewest = ((Z + NormalDist().inv_cdf(POWER)) * spread / difference) ** 2  # if the spread were known
    pairs = max(2, math.ceil(fewest))
    while detectable(spread, pairs) > difference:
        pairs += 1
    return pairs


def scipy_stats() -> Any:
    """Returns scipy's module of statistics, or raises UsageError if it is not installed."""
    try:
        from scipy import stats
    except ImportError as error:
        sentence = "comparing needs the package scipy: pip install -e '.[compare]'"
        raise UsageError("package-missing", sentence) from error
    return stats
