"""Estimates from samples: pass@k, majority votes, confidence intervals, paired comparisons.

Formulas only, each with its reference; what counts as right and what is compared is decided
elsewhere. Uncertainty is over problems, since samples of one problem are not independent, and over
seeds where there are several. All intervals are 95% intervals. Bootstrap intervals are percentile
intervals (Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 13) from a fixed random
seed, so that equal data give equal numbers. Where all resamples agree, as those of a single problem
do, the bootstrap says nothing: shares and their differences then have intervals that are exact for
that many problems. Of other quantities no interval is known then: it is infinite, see `UNKNOWN`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

NORMAL = 1.96  # standard errors to each side, for the interval of what is about normal
UNKNOWN = -math.inf, math.inf  # the interval of what only equal numbers tell of
_LEVEL = 0.95
_RESAMPLES = 4000


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A quantity with its standard error and the bounds of its bootstrap interval."""

    value: float
    stderr: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """Method a minus method b.

    Attributes:
      low, high: bounds of the paired bootstrap interval.
      p: two-sided bootstrap p-value of no difference; at least the smallest that a sign test of as
        many problems can give.
    """

    value: float
    low: float
    high: float
    p: float


def pass_at_k(correct: np.ndarray, k: int, judged: np.ndarray | None = None) -> np.ndarray:
    """Unbiased pass@k of each problem: 1 - C(n - c, k) / C(n, k), with c of n samples correct.

    Reference: Chen et al. 2021, Evaluating Large Language Models Trained on Code, eq. 1.

    Args:
      correct: [N, n] bool, n samples of N problems.
      judged: [N, n] bool, the samples with a verdict, which alone count; None: all of them.

    Returns:
      [N] float64; NaN for a problem with fewer than k verdicts, of which nothing can be said.

    Raises:
      ValueError: not 1 <= k <= n.
    """
    samples = correct.shape[1]
    if not 1 <= k <= samples:
        raise ValueError(f"k = {k} with {samples} samples a problem, wanted 1 <= k <= samples")
    counted = np.ones(correct.shape, bool) if judged is None else judged
    n = counted.sum(axis=1)
    wrong = n - (correct & counted).sum(axis=1)
    # C(n - c, k) / C(n, k) as a product, which cannot overflow.
    draws = np.arange(k)
    left = np.maximum(n[:, None] - draws, 1)
    missed = np.prod(np.maximum(wrong[:, None] - draws, 0) / left, axis=1)
    return np.where(n >= k, 1.0 - missed, np.nan)


def between(of: Callable[[int], np.ndarray], k: float, most: int) -> np.ndarray:
    """[N] values `of` a k that is no whole number, such as pass@k, linear between its neighbours:
    the mean if each problem gets one of the two numbers of samples, k on average. A k below 1
    counts as 1.

    Returns:
      [N] float64, NaN where `of` is, and everywhere if k is above `most`.
    """
    k = max(k, 1.0)
    low, high = math.floor(k), math.ceil(k)
    if high > most:
        return np.full(len(of(1)), np.nan)
    return of(low) + (k - low) * (of(high) - of(low)) if high > low else of(low)


def majority_at_k(right: int, wrong: Sequence[int], abstained: int, k: int) -> float:
    """Unbiased maj@k of one problem: the chance that a vote among k of its n samples is right.

    The mean over all C(n, k) subsets, counted exactly. Ties are broken at random; a subset in which
    no sample has an answer is wrong. Reference for the vote: Wang et al. 2022, Self-Consistency
    Improves Chain of Thought Reasoning in Language Models.

    Args:
      right: samples with the right answer.
      wrong: samples with each wrong answer, one number per distinct answer.
      abstained: samples without an answer.

    Raises:
      ValueError: not 1 <= k <= n = right + sum(wrong) + abstained.
    """
    n = right + sum(wrong) + abstained
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} with {n} samples, wanted 1 <= k <= samples")
    chance = 0.0
    for votes in range(1, min(right, k) + 1):
        # ways[ties][drawn]: in how many ways `drawn` samples come from the wrong answers seen so
        # far, none of them with more than `votes` and `ties` of them with exactly `votes`.
        ways = [[0] * (k + 1) for _ in range(len(wrong) + 1)]
        ways[0][0] = 1
        for size in wrong:
            after = [[0] * (k + 1) for _ in ways]
            for ties, row in enumerate(ways):
                for drawn, count in enumerate(row):
                    if not count:
                        continue
                    for taken in range(min(size, votes, k - drawn) + 1):
                        now = count * math.comb(size, taken)
                        after[ties + (taken == votes)][drawn + taken] += now
            ways = after
        for ties, row in enumerate(ways):
            subsets = sum(
                count * math.comb(abstained, k - votes - drawn)
                for drawn, count in enumerate(row[: k - votes + 1])
            )
            # Of integers, so that large binomials stay exact.
            chance += math.comb(right, votes) * subsets / math.comb(n, k) / (ties + 1)
    return chance


def estimate(numerators: np.ndarray, denominators: np.ndarray | None = None) -> Estimate:
    """The ratio of sums over problems, with its bootstrap over problems.

    A mean has denominators 1; a rate such as "wrong attempts corrected" has each problem's number
    of corrected and of wrong attempts; F1 is 2 TP over 2 TP + FP + FN. The standard error is the
    linearised one of a ratio (Cochran 1977, Sampling Techniques, ch. 6).

    Args:
      numerators: [N] one number per problem.
      denominators: [N] likewise, not negative; None for ones.

    Raises:
      ValueError: no problems, or denominators that sum to 0.
    """
    above = np.asarray(numerators, np.float64)
    below = np.ones(len(above)) if denominators is None else np.asarray(denominators, np.float64)
    if not len(above) or below.sum() <= 0:
        raise ValueError("an estimate needs at least one problem that counts")
    counts = _resampled_counts(np.random.default_rng(0), len(above))
    total = counts @ below
    ratios = (counts @ above)[total > 0] / total[total > 0]
    value = float(above.sum() / below.sum())
    # For a mean this is the standard deviation over the root of N.
    residuals = (above - value * below) / below.mean()
    stderr = float(np.sqrt(np.mean(residuals**2) / len(above)))
    return Estimate(value, stderr, *_interval(ratios))


def share_estimate(numerators: np.ndarray, denominators: np.ndarray | None = None) -> Estimate:
    """As `estimate`, of a share. Where all resamples agree, the interval is the binomial one
    (Clopper and Pearson 1934, Biometrika 26) of as many cases as there are problems with a case:
    those of one problem may all depend on one another.

    Args:
      numerators: [N] cases that count, of each problem.
      denominators: [N] cases; None for ones.

    Raises:
      ValueError: as `estimate`.
    """
    found = estimate(numerators, denominators)
    if not _agree(found.low, found.high):
        return found
    below = np.ones(len(numerators)) if denominators is None else denominators
    low, high = _binomial_interval(found.value, int(np.count_nonzero(below)))
    return dataclasses.replace(found, low=low, high=high)


def share_difference(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float]:
    """The interval of share a minus share b of the same problems, as in `difference_by_seed`.

    Args:
      a, b: (numerators, denominators) of each, [N], as in `share_estimate`.

    Raises:
      ValueError: the shapes differ, or a share has no case.
    """
    d = difference_by_seed((a[0][None], a[1][None]), (b[0][None], b[1][None]))
    return d.low, d.high


def gain_estimate(a: np.ndarray, b: np.ndarray, denominators: np.ndarray) -> Estimate:
    """As `estimate`, of share a minus share b of the same cases, with the interval of
    `share_difference`.

    Args:
      a, b: [N] cases that count for each share, of each problem.
      denominators: [N] cases.
    """
    low, high = share_difference((a, denominators), (b, denominators))
    return dataclasses.replace(estimate(a - b, denominators), low=low, high=high)


def paired_difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """Compares shares of two methods on the same problems.

    Problems are resampled, the same ones for both methods; seeds as well, where a method has
    several, so that the interval covers what another seed would give. With two or three seeds it is
    rough. Reference for resampling both: Owen 2007, The pigeonhole bootstrap. Of one problem, and
    where all resamples agree, the interval is that of `share_difference`.

    Args:
      a, b: [S_a, N] and [S_b, N] float, a share per seed and problem.

    Raises:
      ValueError: other shapes, or no seeds or problems.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not a.size:
        raise ValueError(f"shapes {a.shape} and {b.shape}, wanted [seeds, problems] each")
    rng = np.random.default_rng(0)
    counts = _resampled_counts(rng, a.shape[1])  # [resamples, N]
    means = []
    for values in (a, b):
        seeds = _resampled_counts(rng, len(values))  # [resamples, S]
        sums = np.einsum("rs,sn,rn->r", seeds, values, counts, optimize=True)
        means.append(sums / values.size)
    d = _difference(float(a.mean() - b.mean()), means[0] - means[1], a.shape[1])
    if a.shape[1] > 1 and not _agree(d.low, d.high):
        return d
    low, high = _interval_of_independent(*(share_estimate(x.mean(axis=0)) for x in (a, b)))
    return dataclasses.replace(d, low=low, high=high)


def seed_ratios(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """[S] each seed's ratio of sums over problems.

    Args:
      above, below: [S, N] numerators and denominators, as in `estimate`, of the same problems for
        all seeds.

    Raises:
      ValueError: the shapes differ, or a seed's denominators are all 0.
    """
    if above.shape != below.shape or (below.sum(axis=1) <= 0).any():
        raise ValueError(f"shapes {above.shape} and {below.shape}, or a seed without denominators")
    return above.sum(axis=1) / below.sum(axis=1)


def over_seeds(above: np.ndarray, below: np.ndarray, share: bool = True) -> Estimate:
    """The mean over seeds of `seed_ratios`, with seeds and problems resampled independently
    (Owen 2007, The pigeonhole bootstrap). Of one problem with a case, and where all resamples
    agree, a share has the binomial interval of `share_estimate`, anything else `UNKNOWN`."""
    means = _resampled_seed_means(above, below)
    value = float(seed_ratios(above, below).mean())
    found = Estimate(value, float(means.std()), *_interval(means))
    problems = int(below.any(axis=0).sum())
    if problems > 1 and not _agree(found.low, found.high):
        return found
    low, high = _binomial_interval(value, problems) if share else UNKNOWN
    return dataclasses.replace(found, low=low, high=high)


def difference_by_seed(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray], share: bool = True
) -> Difference:
    """As `over_seeds`, of two methods whose seeds belong together (the same cold start, the same
    training problems): each resample takes the same seeds and problems of both. With few seeds such
    an interval is too narrow, see `t_interval`. Of one problem with a case, and where all resamples
    agree, that of shares is made of the intervals of both as if they were independent (Newcombe
    1998, Statistics in Medicine 17, method 10); that of anything else is `UNKNOWN`.

    Args:
      a, b: (above, below) of each, as in `seed_ratios`.
      share: whether these are shares.

    Raises:
      ValueError: the shapes differ, or a seed's denominators are all 0.
    """
    if a[0].shape != b[0].shape:
        raise ValueError(f"shapes {a[0].shape} and {b[0].shape}, wanted the same seeds, problems")
    value = float(np.mean(seed_ratios(*a) - seed_ratios(*b)))
    problems = int((a[1] + b[1]).any(axis=0).sum())
    d = _difference(value, _resampled_seed_means(*a) - _resampled_seed_means(*b), problems)
    if problems > 1 and not _agree(d.low, d.high):
        return d
    low, high = _interval_of_independent(over_seeds(*a), over_seeds(*b)) if share else UNKNOWN
    return dataclasses.replace(d, low=low, high=high)


def normal_interval(value: float, *errors: float) -> tuple[float, float]:
    """The interval of a number by its standard error, or of a difference by those of both sides, as
    if they were independent; `UNKNOWN` if all are 0, as those of a single problem are."""
    half = NORMAL * math.hypot(*errors)
    return UNKNOWN if _agree(half, 0.0) else (value - half, value + half)


def t_interval(values: np.ndarray) -> tuple[float, float]:
    """The interval of the mean of a few independent numbers [S]; `UNKNOWN` for a single one, and
    where all are equal, which tells nothing of their spread.

    Unlike the bootstrap, it is wide enough for few numbers, if they are about normally distributed.
    Reference: Student 1908, The probable error of a mean.
    """
    if _agree(np.min(values), np.max(values)):
        return UNKNOWN
    from scipy import stats  # late: it takes most of a second, and training needs none of it

    half = stats.t.ppf((1 + _LEVEL) / 2, len(values) - 1) * stats.sem(values)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def mcnemar(a: np.ndarray, b: np.ndarray) -> tuple[int, int, float]:
    """McNemar's test whether two methods solve equally many problems, exact by the binomial
    distribution (McNemar 1947, Psychometrika 12).

    Args:
      a, b: [N] bool, the problems solved.

    Returns:
      (solved by a alone, solved by b alone, two-sided p-value; 1 if they never differ).
    """
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    if only_a + only_b == 0:
        return 0, 0, 1.0
    from scipy import stats  # late, as above

    return only_a, only_b, float(stats.binomtest(only_a, only_a + only_b).pvalue)


def _resampled_counts(rng: np.random.Generator, n: int) -> np.ndarray:
    """[resamples, n] float64: how often each of n units is drawn, n draws with replacement."""
    drawn = rng.integers(n, size=(_RESAMPLES, n))
    drawn += n * np.arange(_RESAMPLES)[:, None]
    counts = np.bincount(drawn.reshape(-1), minlength=_RESAMPLES * n)
    return counts.reshape(_RESAMPLES, n).astype(np.float64)


def _resampled_seed_means(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """[resamples] means over resampled seeds of the ratios over resampled problems. Equal shapes
    draw the same seeds and problems."""
    rng = np.random.default_rng(0)
    problems = _resampled_counts(rng, above.shape[1])  # [resamples, N]
    seeds = _resampled_counts(rng, len(above))  # [resamples, S]
    # Where a resample's denominators are all 0, the seed's ratio over all problems is used.
    total, whole = problems @ below.T, seed_ratios(above, below)
    ratios = np.where(total > 0, problems @ above.T / np.maximum(total, 1e-12), whole)
    return (ratios * seeds).sum(axis=1) / len(above)


def _difference(value: float, resampled: np.ndarray, problems: int) -> Difference:
    """With its interval and p, twice the share of resamples on the other side of 0, one added so
    that it is never 0 (Davison and Hinkley 1997, Bootstrap Methods and their Application, 4.2)."""
    tail = min(np.sum(resampled <= 0), np.sum(resampled >= 0))
    p = min(1.0, 2 * (float(tail) + 1) / (len(resampled) + 1))
    return Difference(value, *_interval(resampled), max(p, 2.0 ** (1 - problems)))


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def _agree(low: float, high: float) -> bool:
    """Whether resamples with these quantiles differ by no more than rounding."""
    return math.isclose(low, high, abs_tol=1e-9)


def _binomial_interval(share: float, cases: int) -> tuple[float, float]:
    """The exact interval of a share of so many independent cases."""
    tail = (1 - _LEVEL) / 2
    missed = tail ** (1 / cases)
    if _agree(share, 0.0):
        return 0.0, 1 - missed
    if _agree(share, 1.0):
        return missed, 1.0
    from scipy import stats  # late, as in `t_interval`

    count = share * cases
    low = stats.beta.ppf(tail, count, cases - count + 1)
    return float(low), float(stats.beta.ppf(1 - tail, count + 1, cases - count))


def _interval_of_independent(a: Estimate, b: Estimate) -> tuple[float, float]:
    """Of a minus b, two shares that were estimated apart; see `difference_by_seed`."""
    value = a.value - b.value
    below = math.hypot(a.value - a.low, b.high - b.value)
    return value - below, value + math.hypot(a.high - a.value, b.value - b.low)
