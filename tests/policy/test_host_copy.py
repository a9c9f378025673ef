"""Meshes and copies of one host; several are tried in tests/run/hosts."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_models

from cipo_jax.policy import model, sharding
from cipo_jax.policy.host_copy import copy_to_hosts, host_meshes
from cipo_jax.types import CipoError

CONFIG = dataclasses.replace(tiny_models.TINY_CONFIG, num_layers=1)


@pytest.mark.parametrize("replicas", [False, True])
def test_a_host_sees_its_part_of_all_devices(replicas: bool) -> None:
    every, own = host_meshes(tensor=2, replicas=replicas)
    data, fsdp = (4, 1) if replicas else (1, 4)
    wanted = {"data": data, "fsdp": fsdp, "context": 1, "tensor": 2}
    assert dict(every.shape) == {"host": 1, **wanted} and dict(own.shape) == wanted
    np.testing.assert_array_equal(every.devices[0], own.devices)


def test_tensor_shards_must_divide_a_host_s_devices() -> None:
    with pytest.raises(CipoError, match=r"config.mesh.tensor: got 3, with hosts of \[8\] devices"):
        host_meshes(tensor=3, replicas=True)


@pytest.mark.parametrize("replicas", [False, True])
def test_the_copy_is_equal_and_lies_as_asked(replicas: bool) -> None:
    training = sharding.make_mesh(1, 8, 1)
    params = jax.device_put(
        tiny_models.tiny_params(CONFIG), model.param_shardings(CONFIG, training)
    )
    every, own = host_meshes(tensor=2, replicas=replicas)
    wanted = model.param_shardings(CONFIG, own)
    copy = copy_to_hosts(params, wanted, every)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(copy), jax.device_get(params))
    assert jax.tree.map(lambda x: x.sharding, copy) == wanted
