"""Estimates against closed forms and against enumeration."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from cipo_jax.run.statistics import (
    UNKNOWN,
    between,
    difference_by_seed,
    estimate,
    gain_estimate,
    majority_at_k,
    mcnemar,
    normal_interval,
    over_seeds,
    paired_difference,
    pass_at_k,
    share_difference,
    share_estimate,
    t_interval,
)


def samples_with(right: int, n: int) -> np.ndarray:
    return np.arange(n)[None] < right


# pass@k.


@pytest.mark.parametrize("n", [1, 4, 9])
def test_pass_at_k_is_the_closed_form(n: int) -> None:
    for right, k in itertools.product(range(n + 1), range(1, n + 1)):
        wanted = 1 - math.comb(n - right, k) / math.comb(n, k)
        assert pass_at_k(samples_with(right, n), k)[0] == pytest.approx(wanted, abs=1e-12)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample() -> None:
    random = np.random.default_rng(0)
    correct = random.random((3, 6)) < [[0.2], [0.5], [0.7]]
    for k in (1, 3, 6):
        subsets = list(itertools.combinations(range(6), k))
        wanted = [np.mean([row[list(s)].any() for s in subsets]) for row in correct]
        np.testing.assert_allclose(pass_at_k(correct, k), wanted, atol=1e-12)


def test_pass_at_k_is_unbiased() -> None:
    # 40000 problems with success rate 0.3, six samples each: pass@4 is 1 - 0.7^4.
    correct = np.random.default_rng(1).random((40_000, 6)) < 0.3
    assert pass_at_k(correct, 4).mean() == pytest.approx(1 - 0.7**4, abs=0.005)
    # What it replaces, any success among all six, is not.
    assert abs(correct.any(axis=1).mean() - (1 - 0.7**4)) > 0.05


def test_pass_at_k_does_not_overflow() -> None:
    value = pass_at_k(samples_with(1, 5000), 2500)[0]
    assert value == pytest.approx(0.5)
    assert pass_at_k(samples_with(0, 5000), 5000)[0] == 0


def test_pass_at_k_counts_the_samples_with_a_verdict() -> None:
    correct = np.array([[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
    judged = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    np.testing.assert_allclose(pass_at_k(correct, 1, judged), [1 / 3, 1, np.nan])
    np.testing.assert_allclose(pass_at_k(correct, 2, judged), [2 / 3, np.nan, np.nan])
    np.testing.assert_allclose(pass_at_k(correct, 2, np.ones_like(correct)), pass_at_k(correct, 2))


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_needs_k_samples(k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k} with 4 samples"):
        pass_at_k(samples_with(1, 4), k)


# maj@k.


@pytest.mark.parametrize(
    ("right", "wrong", "abstained"), [(2, [2], 1), (1, [2, 1], 0), (3, [2, 2], 1), (0, [1], 2)]
)
def test_majority_is_the_mean_over_all_subsets(
    right: int, wrong: list[int], abstained: int
) -> None:
    votes = ["r"] * right + [None] * abstained
    votes += [str(i) for i, size in enumerate(wrong) for _ in range(size)]
    for k in range(1, len(votes) + 1):
        chances = []
        for subset in itertools.combinations(votes, k):
            counts = {v: subset.count(v) for v in subset if v is not None}
            best = [v for v in counts if counts[v] == max(counts.values())]
            chances.append(("r" in best) / len(best) if best else 0.0)
        assert majority_at_k(right, wrong, abstained, k) == pytest.approx(np.mean(chances))


def test_majority_of_many_samples_does_not_overflow() -> None:
    # The right answer leads by one vote.
    assert majority_at_k(17, [16], 31, 64) == pytest.approx(1.0)
    assert majority_at_k(600, [600], 0, 1) == pytest.approx(0.5)


def test_majority_needs_k_samples() -> None:
    with pytest.raises(ValueError, match="k = 4 with 3 samples"):
        majority_at_k(1, [1], 1, 4)


# Intervals.


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=2000)
    e = estimate(values)
    assert e.value == pytest.approx(values.mean())
    assert e.stderr == pytest.approx(values.std() / math.sqrt(len(values)))
    assert e.low == pytest.approx(e.value - 1.96 * e.stderr, abs=0.1 * e.stderr)
    assert e.high == pytest.approx(e.value + 1.96 * e.stderr, abs=0.1 * e.stderr)
    assert estimate(values) == e


def test_intervals_cover_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        e = estimate(random.random(60) < 0.3)
        covered += e.low <= 0.3 <= e.high
    assert 180 <= covered <= 199


def test_a_ratio_weighs_problems_by_their_denominators() -> None:
    e = estimate(np.array([1.0, 0.0]), np.array([1.0, 3.0]))
    assert e.value == pytest.approx(1 / 4)
    # Resamples of one problem alone give 0 or 1.
    assert (e.low, e.high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="at least one problem"):
        estimate(np.array([0.0]), np.array([0.0]))


# Comparisons.


def test_a_share_of_cases_that_agree_has_an_exact_interval() -> None:
    ones, none = np.ones(3), np.zeros(3)
    bound = 0.025 ** (1 / 3)  # that none of three is seen has this chance below it
    assert share_estimate(none, ones).low == 0
    assert share_estimate(none, ones).high == pytest.approx(1 - bound)
    assert share_estimate(ones, ones).low == pytest.approx(bound)
    # Problems without a case do not count.
    assert share_estimate(np.zeros(4), np.array([1, 1, 1, 0])).high == pytest.approx(1 - bound)
    some = np.array([1.0, 0, 1])
    assert share_estimate(some, ones) == share_estimate(some) == estimate(some, ones)


@pytest.mark.parametrize(("share", "problems"), [(3 / 8, 1), (0.1, 3), (0.7, 40)])
def test_a_share_that_is_the_same_in_all_problems_has_an_exact_interval(
    share: float, problems: int
) -> None:
    """Resamples then differ by rounding at most; a single problem is such a case."""
    cases = np.full(problems, 8.0)
    e = share_estimate(share * cases, cases)
    # By its definition: at each bound, what was seen or more extreme has a chance of 2.5%. With
    # seen successes not whole, the binomial tail is the beta distribution's.
    seen = share * problems
    assert stats.beta.cdf(e.low, seen, problems - seen + 1) == pytest.approx(0.025)
    assert stats.beta.sf(e.high, seen + 1, problems - seen) == pytest.approx(0.025)
    assert 0 < e.low < share < e.high < 1
    alone = estimate(share * cases, cases)
    assert alone.high - alone.low < 1e-9 and e.stderr == alone.stderr


def test_a_difference_of_shares_has_an_interval_where_all_cases_agree() -> None:
    ones, none, some = np.ones(3), np.zeros(3), np.array([1.0, 0, 1])
    bound = 1 - 0.025 ** (1 / 3)
    wide = share_difference((ones, ones), (none, ones))
    assert wide == pytest.approx((1 - math.hypot(bound, bound), 1.0))
    assert share_difference((none, ones), (none, ones)) == pytest.approx((-bound, bound))
    d = difference_by_seed((some[None], ones[None]), (none[None], ones[None]))
    assert share_difference((some, ones), (none, ones)) == (d.low, d.high)


@pytest.mark.parametrize("problems", [1, 3])
def test_few_problems_that_agree_show_no_difference(problems: int) -> None:
    """All resamples of one problem are itself, however large the difference is in it."""
    old, new = np.full(problems, 2 / 8), np.full(problems, 5 / 8)
    d = paired_difference(new[None], old[None])
    ones = np.ones(problems)
    assert (d.low, d.high) == share_difference((new, ones), (old, ones))
    assert -1 < d.low < 0 < d.value < d.high < 1
    assert d.p == 2 ** (1 - problems)  # of a sign test
    gain = gain_estimate(new, old, ones)
    assert gain.value == pytest.approx(3 / 8) and (gain.low, gain.high) == (d.low, d.high)
    # Seeds say nothing of other problems.
    if problems == 1:
        seeds = np.array([[4 / 8], [6 / 8]])
        assert paired_difference(seeds, old[None]).low < 0


def test_pairing_removes_what_problems_share() -> None:
    random = np.random.default_rng(2)
    hardness = random.random(400)
    a = (hardness + 0.02 + 0.01 * random.normal(size=400))[None]
    b = (hardness + 0.01 * random.normal(size=400))[None]
    d = paired_difference(a, b)
    stderr = np.std(a - b) / math.sqrt(400)
    assert d.low == pytest.approx(d.value - 1.96 * stderr, abs=0.15 * stderr)
    assert d.high == pytest.approx(d.value + 1.96 * stderr, abs=0.15 * stderr)
    assert d.p < 0.001
    # Unpaired, the difference would drown in the spread of hardness.
    assert stderr < 0.1 * np.std(a) / math.sqrt(400)


def test_no_difference_is_not_found() -> None:
    random = np.random.default_rng(3)
    found = 0
    for _ in range(100):
        a, b = (random.random((1, 80)) for _ in range(2))
        found += paired_difference(a, b).p < 0.05
    assert found <= 12
    same = random.random((1, 50))
    assert paired_difference(same, same).p == 1.0


def test_seeds_that_disagree_widen_the_interval() -> None:
    problems = np.random.default_rng(4).random(200)
    b = problems[None]
    agreeing = np.stack([problems + 0.1] * 3)
    disagreeing = problems + np.array([[-0.2], [0.1], [0.4]])
    narrow, wide = paired_difference(agreeing, b), paired_difference(disagreeing, b)
    assert narrow.value == pytest.approx(wide.value)
    assert wide.high - wide.low > narrow.high - narrow.low + 0.2


def test_mcnemar_is_the_sign_test() -> None:
    a = np.array([True] * 9 + [False] * 1 + [True] * 5)
    b = np.array([False] * 9 + [True] * 1 + [True] * 5)
    tail = sum(math.comb(10, i) for i in (0, 1)) / 2**10
    assert mcnemar(a, b) == (9, 1, pytest.approx(2 * tail))
    assert mcnemar(a, a) == (0, 0, 1.0)


# Over seeds.


def seeds_and_problems(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """[5, 300] numerators and denominators of a rate whose seeds and problems both vary."""
    below = random.integers(1, 5, (5, 300)).astype(float)
    rate = 0.3 + 0.1 * random.random((5, 1)) + 0.2 * random.random((1, 300))
    return random.binomial(below.astype(int), rate).astype(float), below


def test_over_seeds_is_the_mean_of_the_seeds_ratios() -> None:
    above, below = seeds_and_problems(np.random.default_rng(5))
    e = over_seeds(above, below)
    ratios = above.sum(axis=1) / below.sum(axis=1)
    assert e.value == pytest.approx(ratios.mean())
    assert e.low < e.value < e.high
    # Between what seeds alone and what seeds and problems independently would give.
    of_seeds = ratios.std() / math.sqrt(5)
    assert of_seeds < e.stderr < of_seeds + 0.03
    one = over_seeds(above[:1], below[:1])
    assert one.stderr == pytest.approx(estimate(above[0], below[0]).stderr, rel=0.1)


def test_a_seed_that_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ValueError, match="a seed without denominators"):
        over_seeds(np.zeros((2, 3)), np.array([[1, 1, 1], [0, 0, 0]]))


@pytest.mark.parametrize("seeds", [1, 3])
def test_seeds_and_problems_that_agree_have_the_intervals_of_shares(seeds: int) -> None:
    ones, none = np.ones((seeds, 4)), np.zeros((seeds, 4))
    below = np.array([[1.0, 1, 0, 0]] * seeds)  # two problems have a case
    e, two = over_seeds(none, below), share_estimate(none[0], below[0])
    assert (e.low, e.high) == (two.low, two.high) == pytest.approx((0, 1 - 0.025 ** (1 / 2)))
    # What is no share has no such interval.
    e = over_seeds(7 * ones, ones, share=False)
    assert (e.value, e.low, e.high) == (7, *UNKNOWN)
    d = difference_by_seed((ones / 2, ones), (ones / 4, ones))
    assert (d.low, d.high) == share_difference((ones[0] / 2, ones[0]), (ones[0] / 4, ones[0]))
    assert d.low < 0 < d.value == 1 / 4 < d.high
    d = difference_by_seed((7 * ones, ones), (9 * ones, ones), share=False)
    assert (d.value, d.low, d.high) == (-2, *UNKNOWN)


def test_seeds_say_nothing_of_other_problems() -> None:
    """Of one problem with a case the seeds differ, and all seeds of one method beat the other."""
    below = np.array([[8.0, 0], [8, 0]])
    a, b = np.array([[6.0, 0], [4, 0]]), np.array([[1.0, 0], [2, 0]])
    e, d = over_seeds(a, below), difference_by_seed((a, below), (b, below))
    assert e.low < 4 / 8 and e.high > 6 / 8
    assert d.low < 0 < d.high and d.p == 1


def test_differences_by_seed_cancel_what_a_seed_and_a_problem_share() -> None:
    above, below = seeds_and_problems(np.random.default_rng(6))
    better = above + (0.05 + 0.01 * (np.arange(300) % 2 - 0.5)) * below
    d = difference_by_seed((better, below), (above, below))
    assert (d.value, d.low, d.high) == pytest.approx((0.05, 0.05, 0.05), abs=0.002)
    assert d.low < d.value < d.high
    assert d.p < 0.001
    assert difference_by_seed((above, below), (above, below)).p == 1.0
    # The same methods with the seeds of one in another order are no longer paired.
    crossed = difference_by_seed((better[::-1], below[::-1]), (above, below))
    assert crossed.high - crossed.low > 0.02
    with pytest.raises(ValueError, match="wanted the same seeds"):
        difference_by_seed((better, below), (above[:2], below[:2]))


def test_the_t_interval_covers_the_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(7)
    intervals = [t_interval(random.normal(size=5)) for _ in range(2000)]
    assert np.mean([low < 0 < high for low, high in intervals]) == pytest.approx(0.95, abs=0.015)
    assert t_interval(np.array([1.0])) == UNKNOWN
    # Equal numbers tell nothing of their spread, also where they differ by rounding.
    assert t_interval(np.array([1 / 16, 9 / 16 - 8 / 16])) == UNKNOWN
    assert t_interval(np.array([0.3, 0.1 + 0.2])) == UNKNOWN


def test_a_normal_interval_needs_cases_that_differ() -> None:
    assert normal_interval(0.5, 0.3, 0.4) == pytest.approx((0.5 - 1.96 / 2, 0.5 + 1.96 / 2))
    assert normal_interval(0.5, 0.0, 0.1) == normal_interval(0.5, 0.1)
    assert normal_interval(0.5, 0.0, 0.0) == UNKNOWN


def test_between_whole_numbers_a_rate_is_linear() -> None:
    correct = np.array([[1, 0, 0, 0], [0, 0, 0, 0]], bool)

    def of(k: int) -> np.ndarray:
        return pass_at_k(correct, k)

    np.testing.assert_allclose(between(of, 2, 4), [1 / 2, 0])
    np.testing.assert_allclose(between(of, 2.25, 4), [1 / 2 + 1 / 16, 0])
    np.testing.assert_allclose(between(of, 0.5, 4), [1 / 4, 0])
    assert np.isnan(between(of, 4.1, 4)).all() and between(of, 4, 4)[0] == 1
