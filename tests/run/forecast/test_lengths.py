"""Lengths of completions: lognormal, cut at the limit, with the mean that was asked for."""

import math

import numpy as np
import pytest

from cipo_jax.run.forecast.lengths import completion_lengths, mean_of_cut
from cipo_jax.types import CipoError


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_mean_is_that_of_draws() -> None:
    draws = np.minimum(np.exp(rng().normal(7.0, 0.9, 400_000)), 3000)
    assert mean_of_cut(7.0, 0.9, 3000) == pytest.approx(draws.mean(), rel=0.005)


def test_without_a_limit_in_reach_the_mean_is_the_lognormal_one() -> None:
    assert mean_of_cut(2.0, 0.5, 1e9) == pytest.approx(math.exp(2.0 + 0.125))


@pytest.mark.parametrize("mean", [300, 2000, 6000])
def test_few_lengths_have_the_mean_and_the_tail(mean: float) -> None:
    lengths = completion_lengths(512, mean, 8192, 0.9, rng())
    assert lengths.mean() == pytest.approx(mean, rel=0.01)
    assert lengths.min() >= 1 and lengths.max() <= 8192
    assert np.quantile(lengths, 0.95) > 2 * np.median(lengths) or mean == 6000
    assert list(lengths) != sorted(lengths)


def test_no_spread_and_the_limit_itself() -> None:
    assert set(completion_lengths(5, 700, 8192, 0.0, rng())) == {700}
    assert set(completion_lengths(5, 64, 64, 0.9, rng())) == {64}


@pytest.mark.parametrize("mean", [0, -1, 65])
def test_a_mean_that_cannot_be(mean: float) -> None:
    with pytest.raises(
        CipoError, match=f"--mean_tokens: got {mean}, wanted above 0 and at most 64"
    ):
        completion_lengths(5, mean, 64, 0.9, rng())
