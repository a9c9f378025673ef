"""Optimisers and schedules: what is decayed, clipped and orthogonalised, and on which shards."""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np
import optax
import pytest
import tiny_models
from jax.sharding import PartitionSpec as P
from tiny_updates import assert_close

from cipo_jax.policy import model, sharding
from cipo_jax.rl.optimizer import OPTIMIZERS, make_optimizer, make_schedule, warmup_schedule
from cipo_jax.types import CipoError


@functools.cache
def first_update_of(optimizer: optax.GradientTransformation) -> Any:
    return jax.jit(lambda p, g: optimizer.update(g, optimizer.init(p), p))


def first_update(optimizer: optax.GradientTransformation, params: Any, grads: Any) -> Any:
    """The updates and the new state."""
    return first_update_of(optimizer)(params, grads)


def test_norms_and_biases_are_not_decayed() -> None:
    params = {
        "embedding": np.ones((2, 2), "f"),
        "layers": {"q": np.ones((2, 2), "f"), "q_bias": np.ones(2, "f")},
        "final_norm": {"scale": np.ones(2, "f")},
    }
    optimizer = make_optimizer(optax.constant_schedule(0.1), 0.9, 0.95, 0.5, 1.0)
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = first_update(optimizer, params, zeros)
    changed = {
        jax.tree_util.keystr(path, simple=True, separator="/"): float(x.mean())
        for path, x in jax.tree_util.tree_leaves_with_path(updates)
        if np.any(x)
    }
    assert changed == pytest.approx({"embedding": -0.05, "layers/q": -0.05})


def test_gradients_are_clipped_by_their_global_norm() -> None:
    params = {"a": np.zeros(3, "f"), "b": np.zeros(4, "f")}
    optimizer = make_optimizer(optax.constant_schedule(0.1), 0.0, 0.0, 0.0, 0.5)
    gradient = {"a": np.full(3, 30.0, "f"), "b": np.full(4, -40.0, "f")}
    _, state = first_update(optimizer, params, gradient)
    moment = optax.tree.get(state, "mu")
    assert float(optax.tree.norm(moment)) == pytest.approx(0.5, rel=1e-5)


def test_warm_up_is_linear_and_then_constant() -> None:
    values = [float(warmup_schedule(0.8, 4)(i)) for i in range(6)]
    assert values == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    for steps in (0, 1):
        assert [float(warmup_schedule(0.8, steps)(i)) for i in (0, 5)] == pytest.approx([0.8] * 2)


# Which optimiser.

CONFIG = dataclasses.replace(
    tiny_models.TINY_CONFIG, d_model=128, mlp_dim=128, num_layers=2, head_dim=8
)


@functools.cache
def tree() -> tuple[Any, Any]:
    """Parameters and gradients of a transformer; its MLP is wide enough to be factored."""
    params = jax.device_get(tiny_models.tiny_params(CONFIG))
    random = np.random.default_rng(0)
    grads = jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), params)
    return params, grads


@functools.cache
def of_name(name: str, **how: Any) -> optax.GradientTransformation:
    values = {"b1": 0.9, "b2": 0.95, "weight_decay": 0.0, "grad_clip": 1.0, **how}
    return make_optimizer(optax.constant_schedule(0.1), name=name, **values)


def test_adamw_is_optax_s() -> None:
    params, grads = tree()
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(0.1, b1=0.9, b2=0.95, weight_decay=0.0)
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        first_update(of_name("adamw"), params, grads)[0],
        first_update(theirs, params, grads)[0],
    )


def test_adafactor_is_optax_s_at_an_absolute_learning_rate() -> None:
    params, grads = tree()
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adafactor(0.1, multiply_by_parameter_scale=False)
    )
    updates, state = first_update(of_name("adafactor", b1=0.0), params, grads)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6),
        updates,
        first_update(theirs, params, grads)[0],
    )
    # No first moment, and less than a tenth of a second moment for a factored matrix.
    gate = [x for path, x in leaves(state) if path.endswith("layers/gate")]
    assert sum(x.size for x in gate) * 10 < params["layers"]["gate"].size
    _, with_momentum = first_update(of_name("adafactor"), params, grads)
    more = sum(x.size for x in jax.tree.leaves(with_momentum))
    less = sum(x.size for x in jax.tree.leaves(state))
    assert more - less >= sum(x.size for x in jax.tree.leaves(params))


def leaves(state: Any) -> list[tuple[str, jax.Array]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), x)
        for path, x in jax.tree_util.tree_leaves_with_path(state)
    ]


def matrices_of(name: str, stacked: jax.Array) -> np.ndarray:
    """[L, fan in, fan out]: what a layer multiplies by."""
    L = stacked.shape[0]
    fan_in = int(np.prod(stacked.shape[1:3])) if name == "o" else stacked.shape[1]
    return np.asarray(stacked).reshape(L, fan_in, -1)


@pytest.mark.slow
def test_muon_orthogonalises_each_matrix_of_each_layer() -> None:
    params, grads = tree()
    updates, _ = first_update(of_name("muon"), params, grads)
    checked = set()
    for name, update in updates["layers"].items():
        if "norm" in name:
            continue
        for layer, matrix in enumerate(matrices_of(name, update)):
            fan_in, fan_out = matrix.shape
            values = np.linalg.svd(matrix, compute_uv=False)
            # Newton-Schulz leaves singular values around 1, here times learning rate and scale.
            values /= 0.1 * 0.2 * math.sqrt(max(fan_in, fan_out))
            assert len(values) == min(fan_in, fan_out)
            # The smallest of a random square matrix are too small for it.
            assert np.quantile(values, 0.05) > 0.5 and values.max() < 1.3, (name, layer)
            checked.add((name, layer))
    assert len(checked) == 7 * CONFIG.num_layers
    # Downhill, and as large as Adam's typical update.
    gate = np.asarray(updates["layers"]["gate"])
    assert float(np.vdot(gate, grads["layers"]["gate"])) < 0
    assert float(np.sqrt((gate**2).mean())) == pytest.approx(0.1 * 0.2, rel=0.2)


def test_muon_keeps_layers_apart_and_gives_the_rest_to_adam() -> None:
    params, grads = tree()
    scaled = jax.tree.map(np.copy, grads)
    scaled["layers"]["q"][0] *= 0.1
    muon = of_name("muon")
    (once, _), (again, _) = (first_update(muon, params, g) for g in (grads, scaled))
    # One layer's scale changes no layer's update.
    assert_close(again["layers"]["q"], once["layers"]["q"], 1e-3)
    adam, _ = first_update(of_name("adamw"), params, grads)
    for path, update in leaves(once):
        of_adam = dict(leaves(adam))[path]
        same = bool(np.allclose(update, of_adam, rtol=1e-5))
        assert same == (path in ("embedding", "head") or path.endswith("scale")), path


def test_muon_refuses_a_weight_whose_dimensions_it_does_not_know() -> None:
    params = {"layers": {"router": np.zeros((2, 4, 4), "f")}}
    with pytest.raises(ValueError, match="'layers/router'"):
        of_name("muon").init(params)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_is_decoupled_and_spares_norms_and_biases(name: str) -> None:
    params, _ = tree()
    params = {**params, "layers": {**params["layers"], "q_bias": np.ones((2, 4, 8), "f")}}
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = first_update(of_name(name, weight_decay=0.5), params, zeros)
    before = dict(leaves(params))
    for path, update in leaves(updates):
        share = 0.0 if path.endswith(("scale", "bias")) else -0.05
        np.testing.assert_allclose(update, share * before[path], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_keeps_its_dtypes(name: str) -> None:
    """A scan over updates needs that, and checkpoints do."""
    for param_dtype, mu_dtype in (("float32", "bfloat16"), ("bfloat16", None)):
        params = model.abstract_params(dataclasses.replace(CONFIG, param_dtype=param_dtype))
        optimizer = of_name(name, mu_dtype=mu_dtype)
        state = jax.eval_shape(optimizer.init, params)
        updates, after = jax.eval_shape(optimizer.update, params, state, params)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
            lambda x: (x.shape, x.dtype), state
        )
        moments = [x for path, x in leaves(state) if path.endswith("mu/layers/gate")]
        moments += [x for path, x in leaves(state) if path.endswith("ema/layers/gate")]
        assert [x.dtype for x in moments] == ["bfloat16"]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(CipoError, match="'adam'"):
        of_name("adam")
    with pytest.raises(CipoError, match="'step'"):
        make_schedule("step", 0.1)


# Where the state lives.


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_do_not_depend_on_the_mesh(name: str) -> None:
    params, grads = tree()
    optimizer = of_name(name)

    def one_update(params: Any, grads: Any, state: Any) -> Any:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def on_mesh(*sizes: int) -> tuple[Any, Any, Any]:
        mesh = sharding.make_mesh(*sizes, devices=jax.devices()[: math.prod(sizes)])
        param_shardings = model.param_shardings(CONFIG, mesh)
        state_shardings = sharding.optimizer_shardings(
            optimizer, model.abstract_params(CONFIG), param_shardings, mesh
        )
        placed = jax.device_put((params, grads), (param_shardings, param_shardings))
        with jax.set_mesh(mesh):
            state = jax.jit(optimizer.init, out_shardings=state_shardings)(placed[0])
            outputs = (param_shardings, state_shardings)
            program = jax.jit(one_update, out_shardings=outputs)
            after, grads_there = placed
            for _ in range(2):
                after, state = program(after, grads_there, state)
        return jax.device_get(after), state, state_shardings

    wanted, _, _ = on_mesh(1, 1, 1)
    after, state, shardings = on_mesh(2, 2, 2)
    assert_close(after, wanted, 1e-4)
    # What is as large as a parameter is split as the parameter; so are factored moments.
    gate = dict(leaves(shardings))
    for path, x in leaves(state):
        if path.endswith("layers/gate") and x.size > 1:
            spec = gate[path].spec
            assert x.addressable_shards[0].data.size < x.size, path
            if x.ndim == 3:
                assert spec == P(None, "fsdp", "tensor")
            else:
                assert spec in (P(None, "fsdp"), P(None, "tensor"))
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))
    assert held < 0.3 * sum(x.nbytes for x in jax.tree.leaves(state))


# Schedules.


def values_of(schedule: optax.Schedule, steps: int) -> list[float]:
    return [float(schedule(i)) for i in range(steps)]


def test_linear_and_cosine_fall_from_the_peak_to_their_end() -> None:
    linear = values_of(make_schedule("linear", 1.0, 2, 6), 8)
    assert linear == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0])
    cosine = values_of(make_schedule("cosine", 1.0, 2, 6, final_share=0.2), 8)
    wanted = [0.2 + 0.8 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(5)]
    assert cosine == pytest.approx([0.5, 1.0, *wanted, 0.2])
    assert values_of(make_schedule("cosine", 1.0, 0, 2), 3) == pytest.approx([1.0, 0.5, 0.0])


def test_a_decay_needs_updates_after_the_warm_up() -> None:
    for kind in ("linear", "cosine"):
        with pytest.raises(
            CipoError, match="decay_steps: got 5, wanted more than warmup_steps = 5"
        ):
            make_schedule(kind, 1.0, 5, 5)
