"""The two device programs, called by hand: early exit, the end of a chunk, empty slots."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from cipo_jax.sampling.decode import DecodeSettings, DecodeState, decode_chunk, prefill

CONFIG = dataclasses.replace(
    tiny_models.TINY_CONFIG,
    vocab_size=16,
    num_layers=2,
    d_model=16,
    head_dim=8,
    mlp_dim=24,
    qk_norm=False,
)
STOP = (1, 7, 9)
SETTINGS = DecodeSettings(max_new_tokens=14, chunk=5, temperature=1.0, stop_ids=STOP)
PROMPTS = np.array([[0, 0, 3, 4], [5, 6, 7, 8], [0, 0, 0, 0]], np.int32)  # the last one is empty
LENGTHS = np.array([2, 4, 0], np.int32)


@pytest.fixture(scope="module")
def programs() -> tuple[DecodeState, Any]:
    """The state after prefill (3 prompts, 2 samples each) and the compiled chunk."""
    params = tiny_models.tiny_params(CONFIG)
    start = jax.jit(functools.partial(prefill, CONFIG, (), SETTINGS, 2))
    state = start(params, PROMPTS, LENGTHS, jnp.arange(6), jax.random.key(2))
    chunk = jax.jit(functools.partial(decode_chunk, CONFIG, (), SETTINGS, params))
    return state, chunk


def test_prefill_sets_up_the_rows(programs: tuple[DecodeState, Any]) -> None:
    state, _ = programs
    assert state.done.tolist() == [False] * 4 + [True] * 2
    assert state.last[:4].tolist() == [4, 4, 8, 8]
    assert state.positions[:4].tolist() == [1, 1, 3, 3]
    # All of the prompt but its last token, and room for all but the last of the completion.
    assert state.cache.segments.shape == (6, 3 + 14)
    assert state.cache.segments[:, :3].sum(axis=1).tolist() == [1, 1, 3, 3, 0, 0]
    assert int(state.cache.used) == 3
    # The samples of a group share the prompt's keys and values.
    np.testing.assert_array_equal(state.cache.k[:, 0], state.cache.k[:, 1])
    assert (np.asarray(state.cache.k[:, 2, :3]) != 0).any()


def test_chunks_end_on_time_and_rows_that_are_done_stay_as_they_are(
    programs: tuple[DecodeState, Any],
) -> None:
    state, chunk = programs
    steps = [0]
    while True:
        before, state = state, chunk(state)
        if int(state.step) == steps[-1]:
            break
        steps.append(int(state.step))
        finished = np.asarray(before.done)
        for name in ("tokens", "logprobs", "lengths"):
            old, new = (np.asarray(getattr(s, name))[finished] for s in (before, state))
            np.testing.assert_array_equal(new, old)
    lengths = np.asarray(state.lengths)
    # It ends with the longest row, neither at the limit nor at the end of a chunk.
    longest = int(lengths.max())
    assert bool(state.done.all())
    assert 5 < longest < 14 and longest % 5
    assert steps == [*range(0, longest, 5), longest]
    assert lengths[:4].min() >= 1 and lengths[4:].tolist() == [0, 0]
    for row, length in enumerate(lengths):
        tokens = np.asarray(state.tokens[row])
        assert not np.isin(tokens[: length - 1] if length else [], STOP).any()
        assert length == 0 or tokens[length - 1] in STOP
        assert not tokens[length:].any() and not np.asarray(state.logprobs[row, length:]).any()


def test_the_limit_ends_a_chunk(programs: tuple[DecodeState, Any]) -> None:
    state, chunk = programs
    late = dataclasses.replace(state, step=jnp.asarray(12, jnp.int32))
    assert int(chunk(late).step) == 14
    over = dataclasses.replace(state, step=jnp.asarray(14, jnp.int32))
    assert int(chunk(over).step) == 14
    nothing_left = dataclasses.replace(state, done=jnp.ones(6, bool))
    assert int(chunk(nothing_left).step) == 0
