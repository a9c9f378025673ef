"""Rewards of the correction stream."""

import numpy as np

from cipo_jax.rl.rewards import pass_rates, retention, shaped_rewards

CORRECT = np.array([[True, False], [False, True], [False, False]])


def test_only_breaking_a_right_answer_is_penalised() -> None:
    rewards = shaped_rewards(CORRECT, CORRECT, np.array([True, False, True]), 0.5)
    np.testing.assert_array_equal(rewards, [[1, -0.5], [0, 1], [-0.5, -0.5]])
    assert rewards.dtype == np.float64


def test_without_penalty_rewards_are_the_verdicts() -> None:
    shaped = shaped_rewards(CORRECT, CORRECT, np.ones(3, bool), 0.0)
    np.testing.assert_array_equal(shaped, CORRECT)


def test_the_verdict_says_what_is_broken_and_the_penalty_adds_to_the_reward() -> None:
    rewards = np.array([[1, 0.75], [0.75, 1], [-0.5, 0.25]])  # partial credit
    shaped = shaped_rewards(rewards, CORRECT, np.array([True, False, True]), 0.5)
    np.testing.assert_array_equal(shaped, [[1, 0.25], [0.75, 1], [-1, -0.25]])


def test_retention_is_the_accuracy_on_right_anchors() -> None:
    assert retention(CORRECT, np.array([True, False, True])) == 0.25
    assert retention(CORRECT, np.array([False, True, False])) == 0.5
    assert retention(CORRECT, np.ones(3, bool)) == 2 / 6


def test_retention_is_unknown_without_right_anchors() -> None:
    assert retention(CORRECT, np.zeros(3, bool)) is None
    assert retention(np.zeros((0, 2), bool), np.zeros(0, bool)) is None
    # Known and zero is something else.
    assert retention(CORRECT, np.array([False, False, True])) == 0.0


def test_what_the_verifier_failed_on_counts_for_nothing():
    correct = np.array([[True, False, False], [False, False, False], [True, True, True]])
    verified = np.array([[True, True, False], [False, False, False], [True, True, True]])
    right = np.array([True, True, False])
    shaped = shaped_rewards(correct, correct, right, 0.5, verified)
    assert shaped.tolist() == [[1, -0.5, 0], [0, 0, 0], [1, 1, 1]]
    assert retention(correct, right, verified) == 0.5
    assert retention(correct, np.array([False, True, False]), verified) is None
    np.testing.assert_array_equal(pass_rates(correct, verified), [0.5, np.nan, 1.0])
