"""Advantages: the formula, its edge cases, and when the risk penalty acts."""

import math

import numpy as np
import pytest

from cipo_jax.rl.advantages import EPS, group_advantages
from cipo_jax.rl.corrections import shaped_rewards

NORMS = ("group", "group_unshaped_std", "stream")


def mixed_corrections() -> tuple[np.ndarray, np.ndarray]:
    """correct [5, 4] and anchor_right [5]: both kinds of anchor, with mixed and uniform groups."""
    correct = np.array(
        [[1, 0, 0, 1], [1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool
    )
    return correct, np.array([True, False, True, True, True])


def by_double_loop(rewards: np.ndarray, norm: str, unshaped: np.ndarray) -> np.ndarray:
    """The three normalisations in plain Python."""
    N, G = rewards.shape
    means = [sum(rewards[i]) / G for i in range(N)]

    def spread(values: np.ndarray) -> float:
        mean = sum(values) / G
        return math.sqrt(sum((value - mean) ** 2 for value in values) / G)

    squares = [(rewards[i, j] - means[i]) ** 2 for i in range(N) for j in range(G)]
    advantages = np.zeros((N, G))
    for i in range(N):
        std = {
            "group": spread(rewards[i]),
            "group_unshaped_std": spread(unshaped[i]),
            "stream": math.sqrt(sum(squares) / (N * G)),
        }[norm]
        for j in range(G):
            advantages[i, j] = (rewards[i, j] - means[i]) / (std + EPS)
    return advantages


def advantages_for(lambda_risk: float, norm: str) -> np.ndarray:
    correct, anchor_right = mixed_corrections()
    return group_advantages(
        shaped_rewards(correct, anchor_right, lambda_risk), norm, unshaped_rewards=correct
    )


def test_small_groups_by_hand() -> None:
    # Mean 1/4, std sqrt(3)/4: the right one stands 3/4 above, the others 1/4 below.
    one_of_four = group_advantages(np.array([[1, 0, 0, 0]]), "group")
    np.testing.assert_allclose(
        one_of_four, [[math.sqrt(3), *[-1 / math.sqrt(3)] * 3]], rtol=1e-5, atol=0
    )
    assert one_of_four.dtype == np.float32
    half = group_advantages(np.array([[True, False], [True, True]]), "group")
    np.testing.assert_allclose(half, [[1, -1], [0, 0]], rtol=1e-5)
    # Centred values +-1/2 in one group, 0 in the other: the stream's std is sqrt(1/8).
    stream = group_advantages(np.array([[1, 0], [1, 1]]), "stream")
    np.testing.assert_allclose(stream, [[math.sqrt(2), -math.sqrt(2)], [0, 0]], rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_equals_the_double_loop(norm: str) -> None:
    random = np.random.default_rng(0)
    unshaped = (random.random((7, 6)) < 0.5).astype(float)
    rewards = shaped_rewards(unshaped.astype(bool), random.random(7) < 0.5, 0.5)
    np.testing.assert_allclose(
        group_advantages(rewards, norm, unshaped),
        by_double_loop(rewards, norm, unshaped),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -0.7])
def test_equal_rewards_give_exactly_zero(norm: str, value: float) -> None:
    # In floating point the mean of three times 0.1 is not 0.1; the residue is not divided by EPS.
    rewards = np.array([[value] * 3, [0.0, 1.0, 1.0]])
    advantages = group_advantages(rewards, norm, unshaped_rewards=rewards)
    assert (advantages[0] == 0).all()
    assert (advantages[1] != 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_stream_of_equal_rewards_is_all_zero(norm: str) -> None:
    rewards = np.full((4, 3), 0.1)
    assert not group_advantages(rewards, norm, unshaped_rewards=rewards).any()


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_without_groups_has_no_advantages(norm: str) -> None:
    empty = np.zeros((0, 4))
    assert group_advantages(empty, norm, unshaped_rewards=empty).shape == (0, 4)


def test_group_norm_cancels_the_risk_penalty() -> None:
    for lambda_risk in (0.1, 0.5, 2.0):
        np.testing.assert_allclose(
            advantages_for(lambda_risk, "group"), advantages_for(0.0, "group"), rtol=1e-5
        )


def test_unshaped_std_scales_groups_of_right_anchors_by_one_plus_lambda() -> None:
    _, anchor_right = mixed_corrections()
    scale = np.where(anchor_right, 1.5, 1.0)[:, None]
    np.testing.assert_allclose(
        advantages_for(0.5, "group_unshaped_std"),
        scale * advantages_for(0.0, "group_unshaped_std"),
        rtol=1e-5,
    )


def test_stream_norm_weighs_groups_of_right_anchors_against_the_others() -> None:
    def ratio(lambda_risk: float) -> float:
        """How much the first group (right anchor) weighs relative to the second (wrong one)."""
        advantages = advantages_for(lambda_risk, "stream")
        return float(np.abs(advantages[0]).max() / np.abs(advantages[1]).max())

    assert ratio(0.5) == pytest.approx(1.5 * ratio(0.0), rel=1e-5)
    assert np.std(advantages_for(0.5, "stream")) == pytest.approx(1, rel=1e-4)


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="needs unshaped_rewards"):
        group_advantages(np.ones((1, 2)), "group_unshaped_std")
    with pytest.raises(ValueError, match="'grupo'"):
        group_advantages(np.ones((1, 2)), "grupo")
