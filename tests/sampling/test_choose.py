"""One token at a time: the distribution, the log-probs, and what the keys depend on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import fast
from hypothesis import given
from hypothesis import strategies as st

from cipo_jax.sampling.choose import BLOCK, SHARDS, Choice, _invert, block_size, choose_tokens

ROWS = 10_000
FEW = np.array([1.0, 0.0, -0.5, 1.5, -1.0], np.float32)
# Several blocks, the last one not full; half of the probability lies in the last two.
MANY = np.random.default_rng(0).normal(0, 1, 2 * BLOCK + 50).astype(np.float32)
MANY[BLOCK:] += 1.0
ANY = Choice(stop_ids=())


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(np.asarray(logits, np.float64) - logits.max())
    return weights / weights.sum()


@functools.partial(jax.jit, static_argnums=4)
def _draw(logits, seed, index, temperature, choice) -> tuple[jax.Array, jax.Array]:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(ROWS))
    rows = jnp.broadcast_to(logits, (ROWS, len(logits)))
    fill = functools.partial(jnp.full, ROWS)
    return choose_tokens(rows, keys, fill(index), fill(temperature), choice)


def draw(
    logits: np.ndarray = FEW,
    temperature: float = 1.0,
    choice: Choice = ANY,
    index: int = 0,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and log-probs of requests 0, 1, ... that share the same logits: [ROWS] each."""
    return jax.device_get(_draw(logits, seed, index, float(temperature), choice))


def assert_frequencies(counts: np.ndarray, probabilities: np.ndarray) -> None:
    """Pearson's statistic within four standard deviations of its mean; rare entries together."""
    order = np.argsort(probabilities)
    rare = order[np.cumsum(probabilities[order]) * counts.sum() < 20]
    common = np.setdiff1d(order, rare)
    counts = np.append(counts[common], counts[rare].sum())
    expected = counts.sum() * np.append(probabilities[common], probabilities[rare].sum())
    assert counts[expected == 0].sum() == 0
    counts, expected = counts[expected > 0], expected[expected > 0]
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.size - 1
    assert statistic <= freedom + 4 * np.sqrt(2 * freedom)


def assert_drawn_from(probabilities: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray) -> None:
    """Frequencies and log-probs are those of a distribution, which may have zeros."""
    assert_frequencies(np.bincount(tokens, minlength=probabilities.size), probabilities)
    np.testing.assert_allclose(logprobs, np.log(probabilities[tokens]), rtol=0, atol=2e-5)
    assert (tokens.dtype, logprobs.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("logits", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_and_logprobs_are_those_of_the_softmax(
    logits: np.ndarray, temperature: float
) -> None:
    assert_drawn_from(softmax(logits / temperature), *draw(logits, temperature))


@pytest.mark.parametrize("size", fast([1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 167 * SHARDS], 3))
def test_vocabularies_of_odd_sizes(size: int) -> None:
    logits = np.resize(MANY, size)
    assert_drawn_from(softmax(logits), *draw(logits))


@pytest.mark.parametrize(
    ("vocabulary", "size"),
    [
        (48, 48),
        (257, BLOCK),
        (50_257, BLOCK),
        (32_000, 250),
        (128_256, 334),
        (151_936, 1187),
        (262_144, BLOCK),
    ],
)
def test_blocks_of_known_vocabularies(vocabulary: int, size: int) -> None:
    """The nearest to BLOCK that divides a sixteenth of the vocabulary, by hand."""
    assert block_size(vocabulary) == size


@given(st.integers(1, 300_000))
def test_no_shard_cuts_a_block_where_that_can_be_had(vocabulary: int) -> None:
    size = block_size(vocabulary)
    assert 1 <= size <= 8 * BLOCK
    if vocabulary > BLOCK and size != BLOCK:
        for shards in (2, 4, 8, 16):
            assert vocabulary % shards == 0 and (vocabulary // shards) % size == 0


@pytest.mark.slow
def test_inversion_finds_the_entry_at_every_point() -> None:
    """Against a cumulative sum in float64, at points that are not on a border."""
    uniform = (np.arange(1000) + 0.5) / 1000
    rows = np.broadcast_to(MANY, (1000, MANY.size))
    got, log_z = jax.device_get(_invert(jnp.asarray(rows), jnp.asarray(uniform, jnp.float32)))
    until = np.cumsum(softmax(MANY))
    wanted = np.searchsorted(until, uniform)
    far = np.abs(until[:, None] - uniform).min(axis=0) > 1e-5
    assert far.mean() > 0.95
    np.testing.assert_array_equal(got[far], wanted[far])
    np.testing.assert_allclose(log_z, np.log(np.exp(MANY.astype(np.float64)).sum()), rtol=1e-6)


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-24])
def test_the_ends_of_the_interval_are_entries_that_may_be_drawn(uniform: float) -> None:
    """Also where the first and the last entries are masked, and whole blocks of them."""
    logits = np.full(3 * BLOCK, -1e30, np.float32)
    logits[BLOCK + 3 : BLOCK + 7] = 0.0
    token, _ = _invert(jnp.asarray(logits)[None], jnp.asarray([uniform], jnp.float32))
    assert int(token[0]) == (BLOCK + 3 if uniform == 0 else BLOCK + 6)


def test_positions_of_a_completion_are_drawn_independently() -> None:
    first, second = (draw(temperature=2.0, index=index)[0] for index in (0, 1))
    counts = np.zeros((len(FEW), len(FEW)))
    np.add.at(counts, (first, second), 1)
    p = softmax(FEW / 2.0)
    assert_frequencies(counts.reshape(-1), np.outer(p, p).reshape(-1))


def test_temperature_zero_takes_the_most_likely_token() -> None:
    tokens, logprobs = draw(temperature=0.0)
    assert (tokens == 3).all()
    np.testing.assert_allclose(logprobs, np.log(softmax(FEW))[3], atol=1e-6)


def test_each_row_has_its_own_temperature() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    rows = jnp.broadcast_to(FEW, (3, len(FEW)))
    temperatures = np.array([0.0, 0.5, 3.0], np.float32)
    tokens, logprobs = choose_tokens(
        rows, keys, jnp.zeros(3, jnp.int32), jnp.asarray(temperatures), ANY
    )
    for token, logprob, t in zip(tokens, logprobs, [1.0, 0.5, 3.0], strict=True):
        assert float(logprob) == pytest.approx(np.log(softmax(FEW / t))[int(token)], abs=1e-5)
    assert int(tokens[0]) == 3


def test_a_token_depends_on_its_request_position_and_key_alone() -> None:
    # Request 5 beside many others, and alone.
    many, _ = draw(index=4)
    key = jax.random.fold_in(jax.random.key(0), 5)[None]
    alone, _ = choose_tokens(
        jnp.asarray(FEW)[None], key, jnp.array([4]), jnp.ones(1, jnp.float32), ANY
    )
    assert int(alone[0]) == many[5]
    # Another request, position or key draws anew; (request, position) is not just their sum.
    other_position, _ = draw(index=5)
    other_key, _ = draw(index=4, seed=1)
    chance = (softmax(FEW) ** 2).sum()  # that two independent draws agree
    for a, b in (
        (many, other_position),
        (many, other_key),
        (many[1:], many[:-1]),
        (many[1:], other_position[:-1]),
    ):
        assert abs((a == b).mean() - chance) < 0.02


# Truncation.


def truncated(
    logits: np.ndarray, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> np.ndarray:
    """Probabilities after top-k, then top-p, then min-p, in plain NumPy."""
    probabilities = softmax(logits)
    order = np.argsort(-probabilities)
    if top_k:
        probabilities[order[top_k:]] = 0
        probabilities /= probabilities.sum()
    if top_p < 1:
        until = np.cumsum(probabilities[order])
        kept = int(np.searchsorted(until, top_p)) + 1
        probabilities[order[kept:]] = 0
        probabilities /= probabilities.sum()
    probabilities[probabilities < min_p * probabilities.max()] = 0
    return probabilities / probabilities.sum()


@pytest.mark.parametrize(
    "options",
    fast(
        [
            {"top_k": 1},
            {"top_k": 40},
            {"top_p": 0.3},
            {"min_p": 0.1},
            {"top_k": 100, "top_p": 0.7, "min_p": 0.05},
        ],
        -1,
    ),
    ids=str,
)
def test_truncation(options: dict) -> None:
    """Draws and log-probs are those of the truncated, renormalised distribution."""
    probabilities = truncated(MANY / 0.8, **options)
    assert 0 < np.count_nonzero(probabilities) < MANY.size // 2
    assert_drawn_from(probabilities, *draw(MANY, 0.8, Choice(stop_ids=(), **options)))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"top_k": 10_000}, {"top_p": 0.0001}, {"min_p": 1.0}], ids=str)
def test_truncation_at_its_limits(options: dict) -> None:
    tokens, logprobs = draw(MANY, choice=Choice(stop_ids=(), **options))
    if "top_k" in options:
        assert_drawn_from(softmax(MANY), tokens, logprobs)
    else:
        assert (tokens == MANY.argmax()).all() and np.abs(logprobs).max() < 1e-6


def test_no_stop_token_before_the_least_number_of_tokens() -> None:
    choice = Choice(stop_ids=(3, 4), min_new_tokens=2)
    early = softmax(np.where(np.arange(5) >= 3, -np.inf, FEW))
    assert_drawn_from(early, *draw(choice=choice, index=1))
    assert_drawn_from(softmax(FEW), *draw(choice=choice, index=2))
