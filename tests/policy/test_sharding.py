"""Meshes: the same results on every one, shards where they should be, and no silent typo."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_models
from forms import fast
from jax.sharding import PartitionSpec as P

from cipo_jax.policy import model, sharding
from cipo_jax.policy.cache import attention as paged
from cipo_jax.policy.cache import pages as page_arrays
from cipo_jax.types import CipoError

CONFIG = dataclasses.replace(tiny_models.TINY_CONFIG, num_layers=2)


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tokens, positions, segments [8, 16] int32: rows of two sequences and some padding."""
    tokens = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (8, 16)).astype(np.int32)
    column = np.arange(16, dtype=np.int32)
    positions = np.broadcast_to(np.where(column < 9, column, column - 9), (8, 16))
    segments = np.broadcast_to(np.where(column < 9, 1, np.where(column < 14, 2, 0)), (8, 16))
    return tokens, positions, segments.astype(np.int32)


def on_mesh(sizes: tuple[int, ...], config: model.ModelConfig = CONFIG):
    """(mesh, rules, parameters on their shards)."""
    mesh = sharding.make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    shardings = model.param_shardings(config, mesh)
    params = jax.device_put(tiny_models.tiny_params(config), shardings)
    return mesh, sharding.logical_rules(mesh, config.axis_sizes), params


def loss(params, rows, rules):
    logprobs, entropy = model.token_logprobs(CONFIG, params, *rows, rules=rules)
    return jnp.sum(logprobs) + jnp.sum(entropy), (logprobs, entropy)


@functools.cache
def results(sizes: tuple[int, ...], with_grads: bool):
    """(logprobs, entropy) and, if asked for, the gradients of their sum, as computed on a mesh."""
    mesh, rules, params = on_mesh(sizes)
    program = functools.partial(loss, rules=rules)
    with jax.set_mesh(mesh):
        rows = jax.device_put(batch(), jax.NamedSharding(mesh, P(sharding.ROWS)))
        if with_grads:
            (_, values), grads = jax.jit(jax.value_and_grad(program, has_aux=True))(params, rows)
            return jax.device_get((values, grads))
        return jax.device_get((jax.jit(program)(params, rows)[1], {}))


# (1, 2, 4) has fewer key/value heads (2) than parts of the tensor axis. Backward compiles slowly,
# so it runs where every axis is split.
@pytest.mark.parametrize(
    ("sizes", "with_grads"),
    fast(
        [
            ((8, 1, 1), False),
            ((1, 8, 1), False),
            ((2, 2, 2), True),
            ((1, 2, 4), True),
            ((1, 2, 2, 2), True),
            ((1, 2, 1, 4), True),
            ((1, 1, 1, 8), False),
        ],
        4,
        arguments=2,
    ),
)
def test_results_do_not_depend_on_the_mesh(sizes: tuple[int, ...], with_grads: bool) -> None:
    (logprobs, entropy), grads = results(sizes, with_grads)
    (wanted_logprobs, wanted_entropy), wanted_grads = results((1, 1, 1), with_grads=True)
    assert np.abs(wanted_logprobs).max() > 3
    np.testing.assert_allclose(logprobs, wanted_logprobs, atol=1e-5)
    np.testing.assert_allclose(entropy, wanted_entropy, atol=1e-5)
    if with_grads:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, np.abs(b).max())),
            grads,
            wanted_grads,
        )


def bytes_on(device: jax.Device, tree) -> int:
    return sum(
        shard.data.nbytes
        for x in jax.tree.leaves(tree)
        for shard in x.addressable_shards
        if shard.device == device
    )


@pytest.mark.parametrize(
    ("sizes", "parts"), [((8, 1, 1), 1), ((1, 8, 1), 8), ((2, 2, 2), 4), ((1, 2, 2, 2), 8)]
)
def test_parameters_and_adam_state_are_sharded(sizes: tuple[int, ...], parts: int) -> None:
    mesh, _, params = on_mesh(sizes)
    optimizer = optax.adamw(1e-3)
    shardings = sharding.optimizer_shardings(
        optimizer,
        model.abstract_params(CONFIG),
        model.param_shardings(CONFIG, mesh),
        mesh,
    )
    state = jax.jit(optimizer.init, out_shardings=shardings)(params)
    scales = sum(
        x.nbytes for path, x in jax.tree_util.tree_leaves_with_path(params) if "scale" in str(path)
    )
    matrices = sum(x.nbytes for x in jax.tree.leaves(params)) - scales
    wanted = matrices // parts + scales  # norm scales are the only ones kept whole
    for device in mesh.devices.flat:
        assert bytes_on(device, params) == wanted
        assert bytes_on(device, state) == 2 * wanted + 4  # two moments and the step count
    # Initialised parameters come out on the same shards.
    fresh = model.init_params(CONFIG, jax.random.key(0), mesh)
    assert bytes_on(mesh.devices.flat[0], fresh) == wanted


def test_moments_stay_sharded_through_an_update() -> None:
    mesh, _, params = on_mesh((1, 8, 1))
    optimizer = optax.adamw(1e-3)
    abstract, shardings = model.abstract_params(CONFIG), model.param_shardings(CONFIG, mesh)
    state_shardings = sharding.optimizer_shardings(optimizer, abstract, shardings, mesh)
    state = jax.jit(optimizer.init, out_shardings=state_shardings)(params)
    _, state = jax.jit(optimizer.update)(params, state, params)
    moment = state[0].mu["layers"]["gate"]
    assert moment.sharding.is_equivalent_to(shardings["layers"]["gate"], moment.ndim)
    assert moment.addressable_shards[0].data.size * 8 == moment.size


# Meshes and rules.


@dataclasses.dataclass(frozen=True)
class Chip:
    """What JAX asks of a TPU device to place it."""

    id: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5"
    process_index: int = 0
    slice_index: int = 0


def test_an_axis_of_a_torus_may_be_split() -> None:
    """Eight devices along an axis of 4 x 4 x 4: two of one physical axis and all of another."""
    places = np.ndindex(4, 4, 4)
    chips = [Chip(i, place) for i, place in enumerate(places)]
    mesh = sharding.make_mesh(-1, 1, 8, devices=chips)  # type: ignore[arg-type]
    assert mesh.devices.shape == (8, 1, 1, 8) and len(set(mesh.devices.flat)) == 64
    for group in mesh.devices[:, 0, 0]:
        spans = np.ptp([chip.coords for chip in group], axis=0)
        assert sorted(spans) == [0, 1, 3]  # neighbours, and not scattered over the torus


def test_key_value_heads_and_vocabulary_that_do_not_divide_are_kept_whole() -> None:
    mesh = sharding.make_mesh(1, 2, 4)
    config = dataclasses.replace(CONFIG, vocab_size=127)
    rules = dict(sharding.logical_rules(mesh, config.axis_sizes))
    assert rules["kv_heads"] is None and rules["vocab"] is None
    assert (rules["heads"], rules["mlp"], rules["embed"]) == ("tensor", "tensor", "fsdp")
    layers = model.param_shardings(config, mesh)["layers"]
    assert layers["k"].spec == P(None, "fsdp", None, None)
    assert layers["q"].spec == P(None, "fsdp", "tensor", None)


def test_tokens_are_split_and_the_head_by_vocabulary() -> None:
    mesh, rules, _ = on_mesh((1, 2, 2, 2))
    shardings = model.param_shardings(CONFIG, mesh)
    assert shardings["embedding"].spec == P(("context", "tensor"), "fsdp")
    assert shardings["layers"]["gate"].spec == P(None, ("fsdp", "context"), "tensor")
    assert sharding.spec(rules, ("batch", "tokens")) == P(("data", "fsdp"), "context")
    # A vocabulary that does not divide: as the layers, split over the tensor axis where it can be.
    for vocab, axis in ((126, "tensor"), (127, None)):
        config = dataclasses.replace(CONFIG, vocab_size=vocab)
        spec = model.param_shardings(config, mesh)["embedding"].spec
        assert spec == P(axis, ("fsdp", "context"))


def test_sampling_sees_whole_rows_and_layers_where_they_were() -> None:
    mesh, _, params = on_mesh((1, 2, 2, 2))
    whole = sharding.whole_row_mesh(mesh)
    assert dict(whole.shape) == {"data": 1, "fsdp": 4, "context": 1, "tensor": 2}
    there = model.param_shardings(CONFIG, whole)["layers"]
    for x, wanted in zip(jax.tree.leaves(params["layers"]), jax.tree.leaves(there), strict=True):
        assert x.sharding.is_equivalent_to(wanted, x.ndim)
    assert sharding.whole_row_mesh(whole) is whole


@pytest.mark.parametrize(
    ("change", "sizes", "message"),
    [
        ({"mlp_dim": 50}, (2, 1, 4), r"config.mesh.tensor: got 4.* mlp size 50"),
        ({"num_heads": 6}, (2, 1, 4), r"config.mesh.tensor: got 4.* heads size 6"),
        ({"d_model": 36}, (1, 8, 1), r"config.mesh.fsdp: got 8.* embed size 36"),
        ({"d_model": 36}, (1, 4, 1, 2), r"config.mesh.fsdp x context: got 8.* embed size 36"),
    ],
)
def test_axes_that_must_divide_are_refused_by_name(
    change: dict, sizes: tuple[int, ...], message: str
) -> None:
    config = dataclasses.replace(CONFIG, **change)
    with pytest.raises(CipoError, match=message):
        model.param_shardings(config, sharding.make_mesh(*sizes))


def test_unknown_logical_axis_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh, rules, _ = on_mesh((2, 2, 2))
    with pytest.raises(KeyError, match="mpl"):
        sharding.spec(rules, ("embed", "mpl"))
    with jax.set_mesh(mesh), pytest.raises(KeyError, match="mpl"):
        jax.jit(lambda x: sharding.constrain(x, rules, ("batch", "mpl")))(jnp.ones((8, 8)))
    # A parameter axis that no rule names.
    without = tuple(rule for rule in rules if rule[0] != "mlp")
    monkeypatch.setattr(model, "logical_rules", lambda *_: without)
    with pytest.raises(KeyError, match="mlp"):
        model.param_shardings(CONFIG, mesh)


# Meshes and constraints.


def test_devices_made_of_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    program = (
        "from cipo_jax.policy.sharding import make_cpu_devices, make_mesh;"
        "make_cpu_devices(3); make_cpu_devices(0); print(dict(make_mesh(-1, 1, 1).shape))"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    assert ran.stdout == "{'data': 3, 'fsdp': 1, 'context': 1, 'tensor': 1}\n"

    assert len(jax.devices()) == 8
    sharding.make_cpu_devices(8)
    assert capsys.readouterr().out == ""
    sharding.make_cpu_devices(3)
    assert "cpu_devices = 3 has no effect: this process uses JAX with 8" in capsys.readouterr().out
    assert len(jax.devices()) == 8


def test_mesh_takes_what_is_left() -> None:
    mesh = sharding.make_mesh(2, -1, 2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}
    assert sharding.describe(mesh) == "data 2 x fsdp 2 x tensor 2"
    assert (
        sharding.describe(sharding.make_mesh(2, 2, 1, -1))
        == "data 2 x fsdp 2 x context 2 x tensor 1"
    )
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
    assert sharding.row_count(mesh) == 4


@pytest.mark.parametrize("sizes", [(3, 1, 1), (3, -1, 1), (2, 2, 1), (16, -1, 1), (16, 1, 1)])
def test_mesh_of_another_size_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(CipoError, match=rf"config.mesh: got .*'data': {sizes[0]}.*8 devices"):
        sharding.make_mesh(*sizes)


def test_constraint_is_applied() -> None:
    mesh, rules, _ = on_mesh((2, 2, 2))
    x = jnp.zeros((8, 3, 16))
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: sharding.constrain(x + 1, rules, ("batch", "tokens", "mlp")))(x)
    assert y.sharding.spec == P(("data", "fsdp"), None, "tensor")
    assert {shard.data.shape for shard in y.addressable_shards} == {(2, 3, 8)}
    assert sharding.constrain(x, (), ("no", "such", "axes")) is x


def test_a_constraint_outside_the_mesh_raises() -> None:
    _, rules, _ = on_mesh((2, 2, 2))
    with pytest.raises(RuntimeError, match="mesh"):
        jax.jit(lambda x: sharding.constrain(x, rules, ("batch", "mlp")))(jnp.ones((8, 8)))


def test_cache_and_activations_are_split_over_heads_and_rows() -> None:
    mesh, rules, params = on_mesh((2, 2, 2))
    tokens, _, _ = batch()
    positions = np.broadcast_to(np.arange(16, dtype=np.int32), (8, 16))
    # Two rows a shard, whose pages are numbered from 0 in each.
    table = np.tile(np.arange(2, dtype=np.int32), 4)[:, None]

    @jax.jit
    def prefill(params, tokens, positions, table):
        pages = page_arrays.empty_pages(2, 8, 16, CONFIG.num_kv_heads, 16, "float32", rules)
        cache = paged.PagedCache(pages=pages, table=table)
        rows = (tokens, positions, jnp.ones_like(tokens))
        hidden, cache = model.hidden_states(CONFIG, params, *rows, cache=cache, rules=rules)
        return model.unembed(CONFIG, params, hidden, rules), cache.pages

    with jax.set_mesh(mesh):
        logits, pages = prefill(params, tokens, positions, table)
    assert logits.addressable_shards[0].data.shape == (2, 16, CONFIG.vocab_size // 2)
    for x in pages:  # one of two kv heads; 16 tokens and a width of 16
        assert x.addressable_shards[0].data.shape == (2, 2, 1, 16, 16)
        assert np.all(np.any(np.asarray(x) != 0, axis=(0, 2, 3, 4)))  # each row's page is written
