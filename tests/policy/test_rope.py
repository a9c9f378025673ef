"""Rotary frequencies, their stretching, and the rotation."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import TINY_CONFIG

from cipo_jax.policy import rope
from cipo_jax.policy.config import RopeScaling

H, THETA = 64, 1e4
PLAIN = THETA ** -(np.arange(0, H, 2) / H)


def test_plain_frequencies() -> None:
    np.testing.assert_allclose(rope.frequencies(H, THETA), PLAIN, rtol=1e-5)


def test_linear_divides_all() -> None:
    got = rope.frequencies(H, THETA, RopeScaling("linear", 4.0))
    np.testing.assert_allclose(got, PLAIN / 4, rtol=1e-5)


@pytest.mark.parametrize(
    "scaling",
    [
        RopeScaling("llama3", 8.0, 1.0, 4.0, original_max_positions=256),
        RopeScaling("yarn", 8.0, original_max_positions=256, beta_fast=4.0, beta_slow=1.0),
    ],
    ids=lambda s: s.kind,
)
def test_fast_frequencies_are_kept_and_slow_ones_divided(scaling: RopeScaling) -> None:
    got = np.asarray(rope.frequencies(H, THETA, scaling))
    turns = 256 * PLAIN / (2 * np.pi)
    kept, divided = turns > 8, turns < 0.5
    assert kept.any() and divided.any()
    np.testing.assert_allclose(got[kept], PLAIN[kept], rtol=1e-5)
    np.testing.assert_allclose(got[divided], PLAIN[divided] / 8, rtol=1e-5)
    assert (got <= PLAIN * 1.001).all() and (got >= PLAIN / 8.01).all()
    assert (np.diff(got) < 0).all()


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'longrope' is not known"):
        rope.frequencies(H, THETA, RopeScaling("longrope", 2.0))


def test_tables_have_a_base_of_their_own_for_layers_with_a_window() -> None:
    positions = np.array([[0, 3, 7]], np.int32)
    config = dataclasses.replace(
        TINY_CONFIG,
        rope_scaling=RopeScaling("yarn", 4.0, original_max_positions=32, attention_factor=1.5),
        windows=(4, None, 4),
        local_rope_theta=300.0,
    )
    cos, sin = rope.tables(config, positions)
    assert cos.shape == sin.shape == (2, 1, 3, config.head_dim // 2)
    # The scaling's lengthening belongs to the first base alone.
    np.testing.assert_allclose(np.sqrt(cos**2 + sin**2)[0], 1.5, rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(cos**2 + sin**2)[1], 1.0, rtol=1e-5)
    local = positions[..., None] * np.asarray(rope.frequencies(config.head_dim, 300.0))
    np.testing.assert_allclose(cos[1], np.cos(local), atol=1e-5)


def test_scores_of_rotated_vectors_depend_on_the_distance_alone() -> None:
    random = np.random.default_rng(0)
    q, k = (random.normal(size=(1, 1, 1, H)).astype(np.float32) for _ in range(2))
    config = dataclasses.replace(TINY_CONFIG, head_dim=H)

    def at(x: np.ndarray, position: int) -> np.ndarray:
        cos, sin = rope.tables(config, np.array([[position]], np.int32))
        return np.asarray(rope.rotate(jnp.asarray(x), cos[0], sin[0]), np.float64)

    scores = [np.sum(at(q, 5 + shift) * at(k, 2 + shift)) for shift in (0, 1, 90)]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-3, atol=1e-3)
    assert abs(np.sum(at(q, 9) * at(k, 2)) - scores[0]) > 1e-2
    np.testing.assert_allclose(np.linalg.norm(at(q, 77)), np.linalg.norm(q), rtol=1e-5)
    cos, sin = rope.tables(config, np.array([[3]], np.int32))
    assert rope.rotate(jnp.asarray(q, jnp.bfloat16), cos[0], sin[0]).dtype == jnp.bfloat16
