"""Per-token objectives against plain NumPy in double precision."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cipo_jax.rl.losses import clipped_surrogate, kl_k3

LOW, HIGH = 0.2, 0.3


def tokens() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """logprobs, old_logprobs, advantages [6, 7] float32, with ratios on both sides of both bounds
    for either sign of the advantage, and no advantage at all."""
    random = np.random.default_rng(0)
    old = -random.uniform(0.1, 4, (6, 7))
    new = old + random.uniform(-0.6, 0.6, (6, 7))
    advantages = random.normal(size=(6, 7))
    advantages[0, :2] = 0
    return new.astype(np.float32), old.astype(np.float32), advantages.astype(np.float32)


def surrogate_by_hand(new: Any, old: Any, advantage: Any) -> tuple[float, float, bool]:
    """One token: the loss, its derivative by `new`, whether clipping is active."""
    ratio, advantage = math.exp(float(new) - float(old)), float(advantage)
    if advantage > 0 and ratio > 1 + HIGH:
        return -(1 + HIGH) * advantage, 0.0, True
    if advantage < 0 and ratio < 1 - LOW:
        return -(1 - LOW) * advantage, 0.0, True
    return -ratio * advantage, -ratio * advantage, False


def test_clipped_surrogate_equals_the_double_loop() -> None:
    new, old, advantages = tokens()
    loss, ratio, clipped = clipped_surrogate(new - old, advantages, LOW, HIGH)
    grads = jax.grad(lambda x: clipped_surrogate(x - old, advantages, LOW, HIGH)[0].sum())(
        jnp.asarray(new)
    )
    seen = set()
    for i, j in np.ndindex(new.shape):
        value, slope, active = surrogate_by_hand(new[i, j], old[i, j], advantages[i, j])
        np.testing.assert_allclose(loss[i, j], value, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(grads[i, j], slope, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(ratio[i, j], math.exp(new[i, j] - old[i, j]), rtol=1e-5)
        assert bool(clipped[i, j]) == active
        # Exactly zero where clipping is active, and only there.
        assert (grads[i, j] == 0) == (active or advantages[i, j] == 0)
        seen.add((active, float(np.sign(advantages[i, j]))))
    assert seen == {(True, 1), (True, -1), (False, 1), (False, -1), (False, 0)}


def test_gradient_agrees_with_finite_differences() -> None:
    new, old, advantages = tokens()
    grads = jax.grad(lambda x: clipped_surrogate(x - old, advantages, LOW, HIGH)[0].sum())(
        jnp.asarray(new)
    )
    step = 1e-6
    for i, j in np.ndindex(new.shape):
        up, down = (
            surrogate_by_hand(float(new[i, j]) + shift, old[i, j], advantages[i, j])[0]
            for shift in (step, -step)
        )
        np.testing.assert_allclose(grads[i, j], (up - down) / (2 * step), rtol=1e-4, atol=1e-6)


def test_on_policy_gradient_is_reinforce() -> None:
    _, old, advantages = tokens()
    loss = lambda x: clipped_surrogate(x - old, advantages, LOW, HIGH)[0].sum()  # noqa: E731
    np.testing.assert_array_equal(jax.grad(loss)(jnp.asarray(old)), -advantages)


def test_a_very_unlikely_sample_does_not_blow_up() -> None:
    # The sampler found a token far more likely than the trainer does, and the other way round.
    loss, ratio, clipped = clipped_surrogate(
        jnp.array([-60.0, -1.0]) - jnp.array([-1.0, -60.0]), jnp.array([1.0, 1.0]), LOW, HIGH
    )
    np.testing.assert_allclose(loss, [0.0, -(1 + HIGH)], atol=1e-6)
    assert clipped.tolist() == [False, True] and np.isfinite(ratio).all()


def test_k3_is_never_negative_and_zero_only_on_equality() -> None:
    new, reference, _ = tokens()
    assert (np.asarray(kl_k3(new, reference)) > 0).all()
    assert not np.asarray(kl_k3(new, new)).any()


def test_k3_is_unbiased_on_a_categorical() -> None:
    policy, reference = (
        np.array([0.5, 0.3, 0.15, 0.05]),
        np.array([0.2, 0.2, 0.5, 0.1]),
    )
    kl = sum(p * math.log(p / q) for p, q in zip(policy, reference, strict=True))
    estimate = np.asarray(kl_k3(np.log(policy), np.log(reference)))
    np.testing.assert_allclose((policy * estimate).sum(), kl, rtol=1e-5)


def test_k3_gradient_by_hand() -> None:
    new, reference, _ = tokens()
    grads = jax.grad(lambda x: kl_k3(x, reference).sum())(jnp.asarray(new))
    np.testing.assert_allclose(grads, 1 - np.exp(reference - new), rtol=1e-4, atol=1e-6)
