"""One token at a time: the distribution, the log-probs, and what the keys depend on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cipo_jax.sampling.choose import choose_tokens, request_keys

LOGITS = np.array([1.0, 0.0, -0.5, 1.5, -1.0], np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


ROWS = 20_000


@functools.partial(jax.jit, static_argnums=2)
def _draw(seed: int, position: int, temperature: float) -> tuple[jax.Array, jax.Array]:
    keys = request_keys(jax.random.key(seed), jnp.arange(ROWS))
    logits = jnp.broadcast_to(LOGITS, (ROWS, len(LOGITS)))
    return choose_tokens(logits, keys, jnp.full(ROWS, position), temperature)


def draw(temperature: float, position: int = 0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and log-probs of requests 0, 1, ... that share the same logits: [ROWS] each."""
    return jax.device_get(_draw(seed, position, temperature))


def assert_frequencies(counts: np.ndarray, probabilities: np.ndarray) -> None:
    """Pearson's statistic within four standard deviations of its mean."""
    expected = counts.sum() * probabilities
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.size - 1
    assert expected.min() > 5 and statistic < freedom + 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_and_logprobs_are_those_of_the_softmax(temperature: float) -> None:
    tokens, logprobs = draw(temperature)
    probabilities = softmax(LOGITS / temperature)
    assert_frequencies(np.bincount(tokens, minlength=len(LOGITS)), probabilities)
    np.testing.assert_allclose(logprobs, np.log(probabilities)[tokens], atol=1e-5)
    assert (tokens.dtype, logprobs.dtype) == (np.int32, np.float32)


def test_positions_of_a_completion_are_drawn_independently() -> None:
    first, second = (draw(2.0, position)[0] for position in (0, 1))
    counts = np.zeros((len(LOGITS), len(LOGITS)))
    np.add.at(counts, (first, second), 1)
    p = softmax(LOGITS / 2.0)
    assert_frequencies(counts.reshape(-1), np.outer(p, p).reshape(-1))


def test_temperature_zero_takes_the_most_likely_token() -> None:
    tokens, logprobs = draw(0.0)
    assert (tokens == 3).all()
    np.testing.assert_allclose(logprobs, np.log(softmax(LOGITS))[3], atol=1e-6)


def test_a_token_depends_on_its_request_position_and_key_alone() -> None:
    # Request 5 beside many others, and alone.
    many, _ = draw(1.0, position=4)
    key = request_keys(jax.random.key(0), jnp.array([5]))
    alone, _ = choose_tokens(jnp.asarray(LOGITS)[None], key, jnp.array([4]), 1.0)
    assert int(alone[0]) == many[5]
    # Another request, position or key draws anew; (request, position) is not just their sum.
    other_position, _ = draw(1.0, position=5)
    other_key, _ = draw(1.0, position=4, seed=1)
    chance = (softmax(LOGITS) ** 2).sum()  # that two independent draws agree
    for a, b in (
        (many, other_position),
        (many, other_key),
        (many[1:], many[:-1]),
        (many[1:], other_position[:-1]),
    ):
        assert abs((a == b).mean() - chance) < 0.02
