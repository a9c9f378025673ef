"""Norm, product and initialiser against NumPy; look-up of parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from cipo_jax.policy import model
from cipo_jax.policy.layers import RMSNorm, kernel_init, project

CONFIG = dataclasses.replace(tiny_models.TINY_CONFIG, num_layers=2)
# tokens, positions, segments of one sequence.
ROW = (
    np.array([[5, 9, 2]], np.int32),
    np.arange(3, dtype=np.int32)[None],
    np.ones((1, 3), np.int32),
)


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_norm_equals_numpy(dtype: str, plus_one: bool) -> None:
    config = dataclasses.replace(CONFIG, norm_plus_one=plus_one, norm_eps=0.1)
    random = np.random.default_rng(0)
    x, scale = (random.normal(size=shape).astype(np.float32) for shape in ((2, 3, 8), (8,)))
    given = jnp.asarray(x, dtype)
    got = RMSNorm(config).apply({"params": {"scale": scale}}, given)
    assert got.dtype == given.dtype
    x = np.asarray(given, np.float64)
    wanted = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 0.1) * (scale + plus_one)
    np.testing.assert_allclose(
        np.asarray(got, np.float64), wanted, rtol=1e-5 if dtype == "float32" else 2e-2, atol=1e-6
    )


def test_a_fresh_norm_multiplies_by_one() -> None:
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 8)), jnp.float32)
    for plus_one in (False, True):
        norm = RMSNorm(dataclasses.replace(CONFIG, norm_plus_one=plus_one))
        out, _ = norm.init_with_output(jax.random.key(0), x)
        np.testing.assert_allclose(jnp.mean(out**2, axis=-1), 1.0, rtol=1e-4)


@pytest.mark.parametrize(("equation", "inputs"), [("btd,dnh->btnh", 1), ("btnh,nhd->btd", 2)])
def test_project_contracts_the_last_dimensions_with_the_first(equation: str, inputs: int) -> None:
    sizes = {"b": 2, "t": 3, "d": 4, "n": 5, "h": 6}
    left, right = equation.split("->")[0].split(",")
    random = np.random.default_rng(2)
    x, weight = (
        random.normal(size=[sizes[c] for c in term]).astype(np.float32) for term in (left, right)
    )
    wanted = np.einsum(equation, x.astype(np.float64), weight.astype(np.float64))
    np.testing.assert_allclose(project(x, weight, inputs), wanted, rtol=1e-4, atol=1e-5)
    half = project(jnp.asarray(x, "bfloat16"), jnp.asarray(weight, "bfloat16"), inputs, jnp.float32)
    assert half.dtype == jnp.float32


def test_fresh_kernels_have_the_variance_of_their_inputs() -> None:
    for shape, inputs, fan_in in (((64, 8, 16), 1, 64), ((8, 16, 64), 2, 128)):
        values = kernel_init(0.5, inputs)(jax.random.key(0), shape, jnp.float32)
        assert float(values.std()) == pytest.approx(0.5 * fan_in**-0.5, rel=0.05)


def test_a_missing_parameter_is_named() -> None:
    params = tiny_models.tiny_params(CONFIG)
    layers = {k: v for k, v in params["layers"].items() if k != "down"}
    without = {**params, "layers": layers}
    with pytest.raises(KeyError, match="layers/down"):
        model.hidden_states(CONFIG, without, *ROW)
    with pytest.raises(KeyError, match="embedding"):
        model.hidden_states(CONFIG, {"layers": params["layers"]}, *ROW)
