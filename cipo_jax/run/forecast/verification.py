"""The verifier's queue with a clock: when each item is judged, by items' times and workers."""

import heapq
import math
from collections.abc import Sequence

import numpy as np


def judged_at(arrivals: Sequence[float], seconds: Sequence[float], workers: int) -> list[float]:
    """When each item is judged: in order of arrival, each by the first of `workers` that is free.

    Args:
      arrivals, seconds: [n] when an item comes, and how long a worker needs for it.
    """
    free = [0.0] * workers
    done = [0.0] * len(arrivals)
    for i in sorted(range(len(arrivals)), key=lambda i: arrivals[i]):
        done[i] = max(arrivals[i], heapq.heappop(free)) + seconds[i]
        heapq.heappush(free, done[i])
    return done


def judging_seconds(
    count: int,
    mean: float,
    sigma: float,
    hanging: float,
    limit: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """[count] float64: lognormal times of mean `mean`, none above `limit`; a share `hanging` of
    them, at random places, are `limit`."""
    times = np.minimum(rng.lognormal(math.log(mean) - sigma**2 / 2, sigma, count), limit)
    times[rng.choice(count, round(hanging * count), replace=False)] = limit
    return times
