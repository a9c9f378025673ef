"""The compiled update of a run: the same on every mesh, in shards, planned from shapes."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
import tiny_models
from places import ROOT

from cipo_jax.config.keys import Algorithm, Batch, Config, Correction, Data, Optimizer, Rollout
from cipo_jax.policy import model, sharding
from cipo_jax.policy.huggingface.config import config_to_hf
from cipo_jax.rl.packing import TrainSequence
from cipo_jax.run.cold_start import make_imitation_update
from cipo_jax.run.update import Policy, Update, make_policy_update, make_score
from cipo_jax.types import BASE, CORRECTION, TrainBatch

SHAPE = dataclasses.replace(tiny_models.TINY_CONFIG, num_layers=2, remat="full")
CONFIG = Config(
    data=Data(max_completion_tokens=8),
    rollout=Rollout(problems_per_step=4, group_size=4),
    correction=Correction(group_size=4),
    batch=Batch(row_tokens=32, microbatch_rows=8),
)


def policy_on(mesh: jax.sharding.Mesh) -> Policy:
    return Policy(mesh, SHAPE, make_score(SHAPE, mesh, 1.0), 8, 16, 8)


def update_on(mesh: jax.sharding.Mesh, config: Config = CONFIG) -> Update:
    return make_policy_update(config, policy_on(mesh), optax.constant_schedule(1e-3))


def drawn() -> list[TrainSequence]:
    """Four groups of each stream."""
    random = np.random.default_rng(0)

    prompts = random.integers(0, SHAPE.vocab_size, (2, 4, 12))

    def sequence(stream: int, group: int) -> TrainSequence:
        prompt = prompts[stream, group, : 6 + 6 * stream]
        completion = random.integers(0, SHAPE.vocab_size, random.integers(3, 9))
        # What a uniform policy would give: ratios far from 1, some of them clipped.
        old = np.full(len(completion), -np.log(SHAPE.vocab_size), np.float32)
        return TrainSequence(prompt, completion, old, float(random.normal()), stream, group)

    return [sequence(stream, i // 4) for stream in (BASE, CORRECTION) for i in range(16)]


def batch(update: Update) -> TrainBatch:
    return update.pack(drawn())


@pytest.mark.parametrize(
    "optimizer",
    [Optimizer(), Optimizer("adafactor"), Optimizer("muon"), Optimizer(mu_dtype="bfloat16")],
    ids=lambda o: o.name + o.mu_dtype,
)
def test_the_cold_start_has_the_optimiser_of_the_run(optimizer: Optimizer) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    policy = policy_on(sharding.make_mesh())
    schedule = optax.constant_schedule(1e-3)
    imitation = make_imitation_update(config, policy, schedule).abstract.opt_state
    run = make_policy_update(config, policy, schedule).abstract.opt_state
    assert jax.tree.map(str, imitation) == jax.tree.map(str, run)


@functools.cache
def results(sizes: tuple[int, ...]) -> dict[str, Any]:
    """Metrics and first moments (a tenth of the clipped gradient) after one update, and the state's
    bytes on each device. Not the parameters: Adam's first step is the gradient's sign, which
    rounding decides where it is nearly zero."""
    mesh = sharding.make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    with jax.set_mesh(mesh):
        update = update_on(mesh)
        params = jax.device_put(
            tiny_models.tiny_params(SHAPE), model.param_shardings(SHAPE, mesh), may_alias=False
        )
        state, metrics = update.step(update.init(params), batch(update))
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    named = {jax.tree_util.keystr(path): x for path, x in leaves}
    moments = {name: x for name, x in named.items() if ".mu[" in name}
    assert len(moments) >= 10
    held = dict.fromkeys(mesh.devices.flat, 0)
    for leaf in jax.tree.leaves(state):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return {
        "metrics": jax.device_get(metrics),
        "moments": jax.device_get(moments),
        "held": set(held.values()),
        "planned": sum(_planned_bytes(x) for x in jax.tree.leaves(update.abstract)),
    }


def _planned_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    return int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=int)) * leaf.dtype.itemsize


# (1, 2, 4) has fewer key/value heads (2) than parts of the tensor axis: they are kept whole.
@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4), (2, 1, 2, 2)])
def test_an_update_does_not_depend_on_the_mesh(sizes: tuple[int, ...]) -> None:
    got, wanted = results(sizes), results((1, 1, 1))
    assert 0 < wanted["metrics"]["base/clip_frac"] < 1 and wanted["metrics"]["grad_norm"] > 0.1
    for what in ("metrics", "moments"):
        for name, value in wanted[what].items():
            scale = max(np.abs(value).max(), 1e-3)
            np.testing.assert_allclose(got[what][name], value, atol=1e-5 * scale, err_msg=name)
    assert got["held"] == {got["planned"]}


@pytest.mark.slow
def test_the_state_is_sharded() -> None:
    whole = results((1, 1, 1))["planned"]
    several = [(8, 1, 1), (1, 8, 1), (2, 1, 2, 2)]
    parts = {sizes: whole / results(sizes)["planned"] for sizes in several}
    assert parts[8, 1, 1] == 1
    assert 6 < parts[1, 8, 1] <= 8  # norm scales are kept whole
    assert 3.5 < parts[2, 1, 2, 2] <= 4


@pytest.mark.slow
def test_the_plan_holds_the_sharded_state_and_reuses_it(tmp_path: Path) -> None:
    shape = dataclasses.replace(SHAPE, vocab_size=1024, d_model=64, mlp_dim=256)
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(shape)))
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks/plan_memory.py", f"--source={tmp_path}"]
        + ["--mesh=2,2,2", "--row-tokens=128", "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    plan = json.loads(run.stdout)
    shapes = jax.tree.leaves(model.abstract_params(shape))
    assert plan["parameters"] == sum(x.size for x in shapes)
    assert plan["argument_bytes"] == plan["state_bytes"] + plan["batch_bytes"]
    assert plan["alias_bytes"] == plan["state_bytes"]  # donated, and all of it written in place
    # Parameters and both moments over fsdp x tensor; norm scales and counters whole.
    assert 3 * 4 * plan["parameters"] / 4 < plan["state_bytes"] < 3 * 4 * plan["parameters"] / 3.9
    assert plan["peak_bytes"] > plan["argument_bytes"] + plan["temporary_bytes"]


def test_lowering_allocates_nothing_and_takes_a_reference() -> None:
    mesh = sharding.make_mesh(2, 2, 2)
    config = dataclasses.replace(
        CONFIG, algorithm=dataclasses.replace(CONFIG.algorithm, kl_coef=0.1)
    )
    before = {id(x) for x in jax.live_arrays()}
    update = update_on(mesh, config)
    lowered = update.lower(with_reference=True)
    # Others' arrays may be freed meanwhile.
    assert {id(x) for x in jax.live_arrays()} <= before
    count = len(jax.tree.leaves((update.abstract, update.abstract_batch)))
    assert len(jax.tree.leaves(lowered.in_avals)) == count + 1
    assert update.abstract_batch.tokens.shape == batch(update).tokens.shape
    for name, planned in update.abstract_batch._asdict().items():
        real = getattr(batch(update), name)
        assert (real is None) == (planned is None)
        assert real is None or (real.shape, real.dtype) == (planned.shape, planned.dtype), name


@pytest.mark.slow
def test_gradients_of_parts_do_not_depend_on_the_mesh() -> None:
    """The same norms and cosines in shards, of two minibatches, and with the KL's reference."""
    measured = []
    for sizes in ((1, 1, 1), (2, 2, 2)):
        devices = jax.devices()[: int(np.prod(sizes))]
        mesh = sharding.make_mesh(*sizes, devices=devices)
        config = dataclasses.replace(
            CONFIG,
            batch=dataclasses.replace(CONFIG.batch, minibatches=2),
            algorithm=Algorithm(kl_coef=0.1),
        )
        with jax.set_mesh(mesh):
            update = update_on(mesh, config)
            params = model.init_params(SHAPE, jax.random.key(0), mesh)
            other = model.init_params(SHAPE, jax.random.key(1), mesh)
            members = {"base": drawn()[:16], "right": drawn()[16:20], "solved": drawn()[20:]}
            measured.append(update.gradient_stats(params, members, other))
    assert measured[0] == pytest.approx(measured[1], rel=1e-3)
    assert measured[0]["grad/wrong_norm"] > 0 and "grad/unsolved_norm" not in measured[0]
