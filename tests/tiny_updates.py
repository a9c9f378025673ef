"""A policy that compiles in no time, sequences to train it on, and single updates of it."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cipo_jax.rl import train_step as ts
from cipo_jax.rl.losses import PolicyLoss
from cipo_jax.rl.optimizer import make_optimizer
from cipo_jax.rl.packing import TrainSequence, make_minibatches, make_train_batch
from cipo_jax.types import BASE, CORRECTION, TrainBatch

VOCAB, T = 16, 24  # T: tokens of a row
LOW, HIGH, WEIGHT = 0.2, 0.3, 0.7
LOSS = PolicyLoss(LOW, HIGH)


# The policy.


def bigram(
    params: Any, tokens: jax.Array, positions: jax.Array, segments: jax.Array, prefixes: Any = None
):
    """A policy that sees the previous token only: log-probs and entropies [R, T]."""
    del segments, prefixes
    table = jax.nn.log_softmax(params["embedding"] @ params["head"])
    rows = table[jnp.roll(tokens, 1, axis=1)]
    chosen = jnp.take_along_axis(rows, tokens[..., None], axis=-1)[..., 0]
    entropy = -jnp.sum(jnp.exp(rows) * rows, axis=-1)
    has_context = positions > 0
    return jnp.where(has_context, chosen, 0.0), jnp.where(has_context, entropy, 0.0)


def bigram_params() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    return {
        "embedding": random.normal(size=(VOCAB, 4)).astype(np.float32),
        "head": random.normal(size=(4, VOCAB)).astype(np.float32),
    }


# Sequences and batches.


def sequences(base: int = 8, correction: int = 8) -> list[TrainSequence]:
    """Random ones in groups of two, without old log-probs; in the correction stream prompts are
    longer."""
    random = np.random.default_rng(0)

    def one(stream: int, number: int) -> TrainSequence:
        prompt = random.integers(0, VOCAB, random.integers(1, 5) + 2 * stream)
        completion = random.integers(0, VOCAB, random.integers(1, 8))
        advantage = float(random.normal())
        old_logprobs = np.zeros(len(completion))
        return TrainSequence(prompt, completion, old_logprobs, advantage, stream, number // 2)

    counts = ((BASE, base), (CORRECTION, correction))
    return [one(stream, number) for stream, count in counts for number in range(count)]


def one_per_row(members: Sequence[TrainSequence]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tokens, positions, segments [len(members), T] without packing."""
    tokens = np.zeros((len(members), T), np.int32)
    segments = np.zeros_like(tokens)
    for row, s in enumerate(members):
        tokens[row, : len(s)] = [*s.prompt, *s.completion]
        segments[row, : len(s)] = 1
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), tokens.shape)
    return tokens, positions, segments


def scored(score: Any, params: Any, members: Sequence[TrainSequence]) -> list[Any]:
    """(logprobs, entropies) of each completion, [C] float64, scored one sequence per row."""
    both = jax.jit(score)(params, *one_per_row(members))
    return [
        tuple(np.asarray(x[row, len(s.prompt) : len(s)], np.float64) for x in both)
        for row, s in enumerate(members)
    ]


def sampled(
    score: Any, params: Any, members: Sequence[TrainSequence], shift: float = 0.0
) -> list[TrainSequence]:
    """With old log-probs of the policy itself, moved by up to `shift`: 0 is on-policy."""
    random = np.random.default_rng(1)
    return [
        dataclasses.replace(
            s, old_logprobs=lp + shift * random.uniform(-1, 1, len(lp)).astype(np.float32)
        )
        for s, (lp, _) in zip(members, scored(score, params, members), strict=True)
    ]


def pack(
    members: Sequence[TrainSequence],
    microbatches: int = 2,
    rows: int = 4,
    row_tokens: int = T,
    minibatches: int = 1,
    **how: Any,
) -> TrainBatch:
    """Minibatches of a shape; `how`: see `make_train_batch`."""
    return make_minibatches(
        members,
        minibatches,
        np.random.default_rng(5),
        functools.partial(
            make_train_batch,
            microbatches=microbatches,
            microbatch_rows=rows,
            row_tokens=row_tokens,
            **how,
        ),
    )


def used_rows(batch: TrainBatch) -> np.ndarray:
    return batch.segments.any(axis=-1)


# Updates.


class Recorded(NamedTuple):
    """An optimiser state that holds the last gradient."""

    grads: Any


def recorder() -> optax.GradientTransformation:
    """Passes the gradient on and remembers it."""
    return optax.GradientTransformation(
        lambda params: Recorded(jax.tree.map(jnp.zeros_like, params)),
        lambda grads, state, params=None: (grads, Recorded(grads)),
    )


ADAMW = optax.chain(recorder(), make_optimizer(optax.constant_schedule(1e-3), 0.9, 0.95, 0.0, 1.0))


@functools.cache
def initial_state() -> Any:
    """Compiled: leaf by leaf it would take longer than the update."""
    return jax.jit(lambda p: ts.TrainState(jnp.zeros((), jnp.int32), p, ADAMW.init(p)))


@functools.cache
def step_of(
    score: Any,
    token_loss: Any = LOSS,
    weights: tuple[float, float] = (1.0, WEIGHT),
    epochs: int = 1,
):
    return ts.make_train_step(score, token_loss, ADAMW, weights, epochs=epochs)


class Result(NamedTuple):
    params: Any
    grads: Any
    metrics: dict[str, float]
    step: int


def update(step: Any, params: Any, *batches: TrainBatch) -> Result:
    """The state after one update per batch; the gradient and metrics of the last."""
    state = initial_state()(params)
    for batch in batches:
        state, metrics = step(state, batch)
    state, metrics = jax.device_get((state, metrics))
    scalars = {name: float(value) for name, value in metrics.items()}
    return Result(state.params, state.opt_state[0].grads, scalars, int(state.step))


def update_bigram(members: Sequence[TrainSequence], *shape: int, **how: Any) -> Result:
    return update(step_of(bigram, **how), bigram_params(), pack(members, *shape))


def assert_close(got: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Leaf by leaf, relative to the largest entry of the leaf."""

    def compare(a: np.ndarray, b: np.ndarray) -> None:
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-3))

    jax.tree.map(compare, got, wanted)


def assert_same_bits(got: Any, wanted: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def off_policy(score: Any = bigram, params: Any = None) -> list[TrainSequence]:
    return sampled(score, bigram_params() if params is None else params, sequences(), shift=0.5)
