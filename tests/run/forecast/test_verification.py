"""The verifier's queue with a clock."""

import numpy as np
import pytest

from cipo_jax.run.forecast.verification import judged_at, judging_seconds


def test_one_worker_takes_one_after_the_other() -> None:
    assert judged_at([0.0, 0.0, 10.0], [1.0, 2.0, 3.0], workers=1) == [1.0, 3.0, 13.0]
    # In order of arrival, whatever the order of the list.
    assert judged_at([5.0, 0.0], [1.0, 7.0], workers=1) == [8.0, 7.0]


def test_with_a_worker_for_each_nothing_waits() -> None:
    assert judged_at([3.0, 1.0, 2.0], [1.0, 1.0, 1.0], workers=3) == [4.0, 2.0, 3.0]


def test_an_item_that_hangs_keeps_one_worker() -> None:
    done = judged_at([0.0] * 5, [10.0, 1.0, 1.0, 1.0, 1.0], workers=2)
    assert done == [10.0, 1.0, 2.0, 3.0, 4.0]


def test_times_have_their_mean_and_limit() -> None:
    rng = np.random.default_rng(0)
    assert judging_seconds(40_000, 0.5, 1.0, 0.0, 1e9, rng).mean() == pytest.approx(0.5, rel=0.03)
    times = judging_seconds(1000, 0.5, 1.0, 0.02, 30.0, rng)
    assert (times == 30.0).sum() == 20 and times.max() == 30.0
