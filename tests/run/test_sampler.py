"""What sampling reports of its own work."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import tiny_models

from cipo_jax.policy import model, sharding
from cipo_jax.policy.host_copy import host_meshes
from cipo_jax.policy.layer_weights import APART
from cipo_jax.run.hosts.processes import Hosts
from cipo_jax.run.sampler import HostSampler
from cipo_jax.sampling import weights
from cipo_jax.sampling.settings import EngineStats


def test_closing_reports_and_counts_anew() -> None:
    closed: list[bool] = []
    engine: Any = SimpleNamespace(num_pages=50, close=lambda: closed.append(True))
    engine.stats = EngineStats(
        prompt_tokens=40,
        reused_tokens=10,
        row_steps=80,
        sampled_tokens=60,
        evictions=3,
        peak_pages=20,
    )
    assert HostSampler(engine, Hosts(), None).close() == {
        "sampler/evictions": 3,
        "sampler/cache_used": 0.4,
        "sampler/useful_rows": 0.75,
        "sampler/reused_prompt": 0.25,
    }
    assert closed and engine.stats == EngineStats()


@pytest.mark.parametrize("gpus", [False, True])
def test_a_host_s_copy_is_what_its_programs_read(
    gpus: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On GPUs its layers are apart; the engine takes it as it is, without another copy."""
    monkeypatch.setattr(weights, "copies_layers", lambda mesh: gpus)
    config = dataclasses.replace(tiny_models.TINY_CONFIG, compute_dtype="bfloat16")
    training = sharding.make_mesh(1, 8, 1)
    params = jax.device_put(
        tiny_models.tiny_params(config), model.param_shardings(config, training)
    )
    every, own = host_meshes(tensor=2, replicas=gpus)
    engine: Any = SimpleNamespace(config=config, mesh=own)
    sampler = HostSampler(engine, Hosts(), every)
    copy = sampler._within_reach(params)
    assert sampler._within_reach(params) is copy and (APART in copy) == gpus
    wanted = weights.abstract_weights(config, own)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), copy) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.sharding), wanted
    )
    if gpus:
        assert weights.own_form(config, own, copy) is copy
        layers = copy[APART]["gate"]
        stack = np.asarray(params["layers"]["gate"]).astype(layers[0].dtype)
        np.testing.assert_array_equal(jax.device_get(layers), stack)
