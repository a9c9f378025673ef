"""bfloat16 parameters learn from updates far below half a step between neighbours."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cipo_jax.policy import sharding
from cipo_jax.policy.random_keys import random_key
from cipo_jax.rl.optimizer import OPTIMIZERS, make_optimizer
from cipo_jax.rl.rounding import round_at_random
from cipo_jax.rl.train_step import TrainState
from cipo_jax.run.records.checkpoint import Checkpoints

RATE = 1e-5  # half a step between the neighbours of 1 is 390 times that
KEY = jax.random.key(0)


def optimizer(param_dtype: str, seed: int = 0, name: str = "adamw") -> optax.GradientTransformation:
    # Orthogonal, a gradient of equal entries is small.
    schedule = optax.constant_schedule(10 * RATE if name == "muon" else RATE)
    key = functools.partial(random_key, seed)
    return make_optimizer(schedule, 0.9, 0.999, 0.0, 1e9, name, None, param_dtype, key)


def weights(dtype: Any) -> dict[str, Any]:
    return {
        "layers": {"gate": jnp.ones((1, 128, 256), dtype)},
        "embedding": jnp.ones((64, 64), dtype),
    }


@functools.cache
def step_of(transformation: optax.GradientTransformation) -> Any:
    def step(params: Any, state: Any) -> Any:
        grads = jax.tree.map(lambda p: jnp.ones(p.shape, jnp.float32), params)
        updates, state = transformation.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step)


def after(transformation: optax.GradientTransformation, params: Any, steps: int) -> Any:
    state = transformation.init(params)
    for _ in range(steps):
        params, state = step_of(transformation)(params, state)
    return params, state


def test_rounding_gives_a_neighbour_and_its_mean_is_the_value() -> None:
    values = jnp.concatenate([jnp.full(20_000, 1 + 2**-9), jnp.full(20_000, -3.0e-3)])
    got = np.asarray(round_at_random(values, KEY), np.float64)
    step = np.where(values > 0, 2**-7, 2.0**-16)
    assert (np.abs(got - np.asarray(values)) < step).all()
    for part in (slice(20_000), slice(20_000, None)):
        mean, wanted = got[part].mean(), float(values[part][0])
        assert abs(mean - wanted) < 5 * step[part][0] / np.sqrt(20_000)
    exact = jnp.array([0.0, 1.0, -0.5, jnp.inf, -jnp.inf, jnp.nan])
    kept = round_at_random(exact, KEY).astype(jnp.float32)
    np.testing.assert_array_equal(kept, exact)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_small_updates_add_up_as_in_float32(name: str) -> None:
    steps = 20
    wanted, _ = after(optimizer("float32", name=name), weights(jnp.float32), steps)
    got, _ = after(optimizer("bfloat16", name=name), weights(jnp.bfloat16), steps)
    for new, reference in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert new.dtype == jnp.bfloat16
        moved, shift = np.asarray(new, np.float64) - 1, float(reference.mean()) - 1
        noise = 2**-8 * np.sqrt(abs(shift) * 2**8 / new.size)
        assert abs(moved.mean() - shift) < 5 * noise < abs(shift) / 2
    # Rounded to the nearest, no weight would have moved at all.
    assert jnp.bfloat16(1 - 2 * RATE) == 1


def test_the_second_moment_is_float32_and_decays() -> None:
    transformation = optimizer("bfloat16")
    _, state = after(transformation, weights(jnp.bfloat16), 1)
    moments = state[1]
    assert {x.dtype for x in jax.tree.leaves(moments.nu)} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(moments.mu)} == {jnp.dtype("bfloat16")}
    # A bfloat16 number times 0.999 is itself.
    assert jnp.bfloat16(0.5) * jnp.bfloat16(0.999) == 0.5
    silent = jax.tree.map(lambda p: jnp.zeros(p.shape), weights(jnp.float32))
    _, later = transformation.update(silent, state, weights(jnp.bfloat16))
    before, now = (x[1].nu["embedding"][0, 0] for x in (state, later))
    assert float(now) == pytest.approx(0.999 * float(before))


def test_draws_follow_from_seed_and_updates_done_and_not_from_the_mesh() -> None:
    transformation, params = optimizer("bfloat16"), weights(jnp.bfloat16)
    once, state = after(transformation, params, 10)
    resumed, _ = after(transformation, params, 5)
    continued = after(transformation, params, 5)
    for _ in range(5):
        continued = step_of(transformation)(*continued)
    np.testing.assert_array_equal(once["embedding"], continued[0]["embedding"])
    other, _ = after(optimizer("bfloat16", seed=1), params, 10)
    assert (np.asarray(other["embedding"]) != np.asarray(once["embedding"])).any()
    assert (np.asarray(resumed["embedding"]) != np.asarray(once["embedding"])).any()
    mesh = sharding.make_mesh(1, 8, 1)
    split = jax.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))
    values = jnp.linspace(0.1, 2, 64 * 64).reshape(64, 64)
    rounded = jax.jit(round_at_random, out_shardings=split)(jax.device_put(values, split), KEY)
    np.testing.assert_array_equal(rounded, round_at_random(values, KEY))


def test_a_checkpoint_with_a_second_moment_of_16_bits_goes_on(tmp_path: Path) -> None:
    """Runs were saved so before moments had a type of their own."""
    transformation, params = optimizer("bfloat16"), weights(jnp.bfloat16)
    params, state = after(transformation, params, 1)
    older = list(state)
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state[1].nu)
    older[1] = state[1]._replace(nu=low)
    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(1, TrainState(jnp.ones((), jnp.int32), params, tuple(older)), {})
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
            TrainState(jnp.ones((), jnp.int32), params, state),
        )
        restored, _ = checkpoints.restore(wanted)
    nu = restored.opt_state[1].nu["embedding"]
    assert nu.dtype == jnp.float32 and (nu == low["embedding"].astype(jnp.float32)).all()
