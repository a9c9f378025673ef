"""Advantages: the formula, its edge cases, and when the risk penalty acts."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipo_jax.rl.advantages import EPS, NORMS, group_advantages, overlong_penalty
from cipo_jax.rl.rewards import shaped_rewards
from cipo_jax.types import CipoError


def mixed_corrections() -> tuple[np.ndarray, np.ndarray]:
    """correct [5, 4] and anchor_right [5]: both kinds of anchor, with mixed and uniform groups."""
    correct = np.array([[1, 0, 0, 1], [1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    return correct, np.array([True, False, True, True, True])


def by_double_loop(
    rewards: np.ndarray, norm: str, bare: np.ndarray, included: np.ndarray
) -> np.ndarray:
    """The normalisations in plain Python."""
    groups = [[j for j in range(rewards.shape[1]) if included[i, j]] for i in range(len(rewards))]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    def spread(values: list[float]) -> float:
        return math.sqrt(mean([(value - mean(values)) ** 2 for value in values]))

    centred = [
        rewards[i, j] - mean([rewards[i, k] for k in group])
        for i, group in enumerate(groups)
        for j in group
    ]
    advantages = np.zeros(rewards.shape)
    for i, group in enumerate(groups):
        shaped, before = ([float(x[i, j]) for j in group] for x in (rewards, bare))
        for place, j in enumerate(group):
            gap = shaped[place] - mean(shaped)
            if norm == "group":
                advantages[i, j] = gap / (spread(shaped) + EPS)
            elif norm == "group_mean":
                advantages[i, j] = gap
            elif norm == "rloo":
                others = shaped[:place] + shaped[place + 1 :]
                advantages[i, j] = shaped[place] - mean(others) if others else 0.0
            elif norm == "stream":
                advantages[i, j] = gap / (math.sqrt(mean([x**2 for x in centred])) + EPS)
            elif norm == "group_unshaped_std":
                floor = math.sqrt(len(group) - 1) / len(group)
                advantages[i, j] = gap / (max(spread(before), floor) + EPS)
    return advantages


def advantages_for(lambda_risk: float, norm: str) -> np.ndarray:
    correct, anchor_right = mixed_corrections()
    return group_advantages(
        shaped_rewards(correct, correct, anchor_right, lambda_risk), norm, bare_outcomes=correct
    )


def test_small_groups_by_hand() -> None:
    # Mean 1/4, std sqrt(3)/4: the right one stands 3/4 above, the others 1/4 below.
    one_of_four = group_advantages(np.array([[1, 0, 0, 0]]), "group")
    np.testing.assert_allclose(
        one_of_four, np.array([[3, -1, -1, -1]]) / math.sqrt(3), rtol=1e-5, atol=0
    )
    assert one_of_four.dtype == np.float32
    half = group_advantages(np.array([[True, False], [True, True]]), "group")
    np.testing.assert_allclose(half, [[1, -1], [0, 0]], rtol=1e-5)
    # Centred values +-1/2 in one group, 0 in the other: the stream's std is sqrt(1/8).
    np.testing.assert_allclose(
        group_advantages(np.array([[1, 0, 0, 0]]), "group_mean"), [[0.75, *[-0.25] * 3]]
    )
    # Against the other three: 1 - 0, 0 - 1/3.
    np.testing.assert_allclose(
        group_advantages(np.array([[1, 0, 0, 0]]), "rloo"), [[1, *[-1 / 3] * 3]], rtol=1e-6
    )
    stream = group_advantages(np.array([[1, 0], [1, 1]]), "stream")
    np.testing.assert_allclose(stream, np.array([[1, -1], [0, 0]]) * math.sqrt(2), rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_equals_the_double_loop(norm: str) -> None:
    random = np.random.default_rng(0)
    unshaped = (random.random((7, 6)) < 0.5).astype(float)
    rewards = shaped_rewards(unshaped, unshaped.astype(bool), random.random(7) < 0.5, 0.5)
    everyone = np.ones(rewards.shape, bool)
    np.testing.assert_allclose(
        group_advantages(rewards, norm, unshaped),
        by_double_loop(rewards, norm, unshaped, everyone),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("norm", NORMS)
def test_left_out_completions_get_zero_and_say_nothing_of_the_others(norm: str) -> None:
    random = np.random.default_rng(1)
    unshaped = (random.random((9, 6)) < 0.5).astype(float)
    rewards = shaped_rewards(unshaped, unshaped.astype(bool), random.random(9) < 0.5, 0.5)
    included = random.random((9, 6)) < 0.7
    included[0], included[1], included[2] = False, np.arange(6) == 3, True
    advantages = group_advantages(rewards, norm, unshaped, included)
    wanted = by_double_loop(rewards, norm, unshaped, included)
    np.testing.assert_allclose(advantages, wanted, rtol=1e-5, atol=1e-6)
    # Nothing at all, and nothing to compare with: exactly zero.
    assert not advantages[:2].any() and not advantages[~included].any() and advantages[2:].any()
    others = np.where(included, rewards, 100.0)
    assert (group_advantages(others, norm, unshaped, included) == advantages).all()
    # What is left of this group is equal.
    rewards, included = np.array([[0.1, 0.1, 0.1, 1.0]]), np.array([[True, True, True, False]])
    assert not group_advantages(rewards, norm, rewards, included).any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -0.7])
def test_equal_rewards_give_exactly_zero(norm: str, value: float) -> None:
    # In floating point the mean of three times 0.1 is not 0.1; the residue is not divided by EPS.
    rewards = np.array([[value] * 3, [0.0, 1.0, 1.0]])
    advantages = group_advantages(rewards, norm, bare_outcomes=rewards)
    assert (advantages[0] == 0).all()
    assert (advantages[1] != 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_stream_of_equal_rewards_is_all_zero(norm: str) -> None:
    rewards = np.full((4, 3), 0.1)
    assert not group_advantages(rewards, norm, bare_outcomes=rewards).any()


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_without_groups_has_no_advantages(norm: str) -> None:
    empty = np.zeros((0, 4))
    assert group_advantages(empty, norm, bare_outcomes=empty).shape == (0, 4)


def test_group_norm_cancels_the_risk_penalty() -> None:
    for lambda_risk in (0.1, 0.5, 2.0):
        np.testing.assert_allclose(
            advantages_for(lambda_risk, "group"), advantages_for(0.0, "group"), rtol=1e-5
        )


@pytest.mark.parametrize("norm", ["group_unshaped_std", "group_mean", "rloo"])
def test_norms_per_group_scale_groups_of_right_anchors_by_one_plus_lambda(norm: str) -> None:
    _, anchor_right = mixed_corrections()
    scale = np.where(anchor_right, 1.5, 1.0)[:, None]
    np.testing.assert_allclose(
        advantages_for(0.5, norm), scale * advantages_for(0.0, norm), rtol=1e-5
    )


def test_stream_norm_weighs_groups_of_right_anchors_against_the_others() -> None:
    def ratio(lambda_risk: float) -> float:
        """How much the first group (right anchor) weighs relative to the second (wrong one)."""
        advantages = advantages_for(lambda_risk, "stream")
        return float(np.abs(advantages[0]).max() / np.abs(advantages[1]).max())

    assert ratio(0.5) == pytest.approx(1.5 * ratio(0.0), rel=1e-5)
    assert np.std(advantages_for(0.5, "stream")) == pytest.approx(1, rel=1e-4)


@st.composite
def judged_groups(draw: Any) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Rewards [2, G] as the correction stream has them, bare outcomes, span and lambda_risk."""
    G, span, risk = draw(st.integers(2, 16)), draw(st.floats(0.01, 2)), draw(st.floats(0, 2))
    shape = st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1), st.floats(-1, 0)), min_size=G)
    group = st.tuples(shape, st.booleans())
    rewards, bare = [], []
    for completions, anchor_right in (draw(group), draw(group)):
        outcomes, scores, penalties = np.array(completions[:G]).T
        earned = np.array([0.0, span, -0.01])[outcomes.astype(int)]  # wrong, right, no answer
        bare.append(earned)
        rewards.append(
            earned + scores * (span - earned) + penalties - risk * anchor_right * (outcomes != 1)
        )
    return np.array(rewards), np.array(bare), span, risk


@given(judged_groups())
def test_penalties_and_partial_credit_keep_advantages_of_a_sane_size(
    groups: tuple[np.ndarray, np.ndarray, float, float],
) -> None:
    rewards, bare, span, risk = groups
    G = rewards.shape[1]
    advantages = group_advantages(rewards, "group_unshaped_std", bare, span=span)
    bound = math.sqrt(G - 1) * np.ptp(rewards, axis=1, keepdims=True) / span
    assert (np.abs(advantages) <= bound * (1 + 1e-6) + 1e-6).all()
    # Right and wrong, a penalty of up to 1 and the risk: what a reward can range over.
    assert bound.max() <= math.sqrt(G - 1) * (span + 0.01 + 1 + risk) / span * (1 + 1e-6)


def test_without_penalties_the_floor_changes_nothing() -> None:
    correct, anchor_right = mixed_corrections()
    shaped = shaped_rewards(correct, correct, anchor_right, 0.5)
    std = correct.std(axis=1, keepdims=True)
    wanted = (shaped - shaped.mean(axis=1, keepdims=True)) / (std + EPS) * (std > 0)
    got = group_advantages(shaped, "group_unshaped_std", correct)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="needs bare_outcomes"):
        group_advantages(np.ones((1, 2)), "group_unshaped_std")
    with pytest.raises(ValueError, match="'grupo'"):
        group_advantages(np.ones((1, 2)), "grupo")


def test_the_overlong_penalty_grows_over_the_buffer() -> None:
    lengths = np.array([[0, 6], [7, 8], [9, 10], [11, 50]])
    wanted = [[0, 0], [-0.25, -0.5], [-0.75, -1], [-1, -1]]
    np.testing.assert_allclose(overlong_penalty(lengths, 10, 4), wanted)
    np.testing.assert_allclose(overlong_penalty(np.array([0, 5, 10]), 10, 10), [0, -0.5, -1])
    for buffer in (0, 11):
        with pytest.raises(CipoError, match=f"overlong buffer: got {buffer}, wanted 1 to 10"):
            overlong_penalty(lengths, 10, buffer)
