"""The controller of rho."""

import dataclasses

import numpy as np
import pytest

from cipo_jax.rl.replay import ReplayState, Retention, fresh_rate, update_replay

SETTINGS = {
    "minimum": 0.2,
    "maximum": 0.8,
    "gap_weight": 0.8,
    "drop_weight": 0.3,
    "streak_weight": 0.05,
}


def run(state: ReplayState, *retentions: float | None) -> ReplayState:
    for value in retentions:
        state = update_replay(state, Retention(value, 0.8), **SETTINGS)
    return state


def test_first_step_by_hand() -> None:
    # No earlier retention, so nothing has dropped: 0.3 * (1 + 0.8 * 0.3 + 0.05 * 1).
    state = run(ReplayState(rho=0.3), 0.5)
    assert state.rho == pytest.approx(0.3 * 1.29)
    assert (state.previous_retention, state.below) == (0.5, 1)


def test_a_drop_counts_and_a_rise_does_not() -> None:
    start = ReplayState(rho=0.4, previous_retention=0.7)
    # 1 + 0.8 * 0.2 + 0.3 * 0.1 + 0.05
    assert run(start, 0.6).rho == pytest.approx(0.4 * 1.24)
    rising = dataclasses.replace(start, previous_retention=0.5)
    assert run(rising, 0.6).rho == pytest.approx(0.4 * 1.21)


def test_retention_above_the_target_lowers_rho() -> None:
    # 1 + 0.8 * (-0.2), and no streak.
    assert run(ReplayState(rho=0.5), 1.0).rho == pytest.approx(0.5 * 0.84)
    # Exactly on target nothing moves.
    assert run(ReplayState(rho=0.5), 0.8) == ReplayState(0.5, previous_retention=0.8, below=0)


def test_rho_stays_within_its_bounds() -> None:
    assert run(ReplayState(rho=0.7), 0.0).rho == 0.8
    assert run(ReplayState(rho=0.21), 1.0).rho == 0.2


def test_without_right_anchors_nothing_changes() -> None:
    state = ReplayState(rho=0.37, previous_retention=0.6, below=2)
    assert run(state, None) == state


def test_streak_counts_consecutive_steps_below_and_saturates_at_three() -> None:
    assert [run(ReplayState(0.3), *[0.7] * n).below for n in range(1, 6)] == [1, 2, 3, 4, 5]
    # A step without right anchors neither breaks the streak nor adds to it.
    assert run(ReplayState(0.3), 0.7, None, 0.7).below == 2
    assert run(ReplayState(0.3), 0.7, 0.7, 0.8, 0.7).below == 1

    def factor(below: int) -> float:
        state = ReplayState(rho=0.3, previous_retention=0.7, below=below)
        return run(state, 0.7).rho / 0.3

    gap = 1 + 0.8 * 0.1
    assert [factor(n) - gap for n in (0, 1, 2, 3, 9)] == pytest.approx([0.05, 0.1, *[0.15] * 3])


def test_without_a_target_nothing_changes() -> None:
    state = ReplayState(rho=0.37, previous_retention=0.6, below=2)
    assert update_replay(state, Retention(0.5, None), **SETTINGS) == state


def test_what_is_kept_is_compared_with_a_fresh_attempt() -> None:
    # Half of what is right is kept. That is what the policy reaches anyway, so nothing is spoilt;
    # compared with 0.8 it is.
    state = ReplayState(rho=0.4)
    assert update_replay(state, Retention(0.5, 0.5), **SETTINGS).rho == 0.4
    assert update_replay(state, Retention(0.5, 0.8), **SETTINGS).rho > 0.4


@pytest.mark.parametrize(
    ("value", "target", "held"),
    [(0.5, 0.5, True), (0.6, 0.5, True), (0.4, 0.5, False), (None, 0.5, False), (0.5, None, False)],
)
def test_retention_is_held_at_its_target(value, target, held) -> None:
    assert Retention(value, target).is_held is held


def test_the_fresh_rate_is_of_the_other_attempts() -> None:
    correct = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], bool)
    verified = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]], bool)

    def rate(*problems: int, weights: list[int], again: bool = False) -> float | None:
        is_correction = np.full(len(problems), again)
        places = np.array(problems, int)
        return fresh_rate(correct, verified, places, np.array(weights), is_correction)

    assert rate(0, weights=[8]) == pytest.approx(1 / 3)
    assert rate(1, weights=[8]) == 0
    assert rate(2, weights=[8]) == 1
    assert rate(0, 0, 2, weights=[2, 1, 1]) == pytest.approx((3 / 3 + 1) / 4)
    # The one of problem 3 has no others with a verdict; an anchor without corrections counts 0.
    assert rate(0, 3, weights=[8, 8]) == pytest.approx(1 / 3)
    assert rate(3, weights=[8]) is None and rate(0, weights=[0]) is None
    assert rate(weights=[]) is None
    # A correction is none of the attempts: all of them are others.
    assert rate(0, weights=[8], again=True) == 1 / 2
    assert rate(3, weights=[8], again=True) == 1
