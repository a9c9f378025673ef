"""Lengths of completions: lognormal, cut at their limit, with a given mean."""

import math
from statistics import NormalDist

import numpy as np

from cipo_jax.types import CipoError

_NORMAL = NormalDist()


def mean_of_cut(mu: float, sigma: float, limit: float) -> float:
    """The mean of min(X, limit), where log X is normal with mean `mu` and deviation `sigma`."""
    at = (math.log(limit) - mu) / sigma
    below = math.exp(mu + sigma**2 / 2) * _NORMAL.cdf(at - sigma)
    return below + limit * _NORMAL.cdf(-at)


def completion_lengths(
    count: int, mean: float, limit: int, sigma: float, rng: np.random.Generator
) -> np.ndarray:
    """[count] int64 lengths from 1 to `limit`: the distribution's quantiles, in random order, so
    that a few of them have its mean and its tail already.

    Args:
      mean: after the cut, above 0 and below `limit`; at `limit` all have that.
      sigma: deviation of the logarithm before the cut; 0: all have the mean.

    Raises:
      CipoError: a mean out of range.
    """
    if not 0 < mean <= limit:
        raise CipoError(
            f"--mean_tokens: got {mean:g}, wanted above 0 and at most {limit}, the limit of a "
            "completion (config.data.max_completion_tokens)"
        )
    if mean == limit or not sigma:
        return np.full(count, max(1, round(mean)), np.int64)
    low, high = -5.0, math.log(limit) + 20 * sigma
    for _ in range(100):
        mu = (low + high) / 2
        low, high = (mu, high) if mean_of_cut(mu, sigma, limit) < mean else (low, mu)
    at = np.array([_NORMAL.inv_cdf((i + 0.5) / count) for i in range(count)])
    lengths = np.clip(np.rint(np.exp(low + sigma * at)), 1, limit).astype(np.int64)
    return rng.permutation(lengths)
