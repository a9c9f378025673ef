"""A whole copy of the parameters on every host's own devices, for sampling on many hosts.

Training spreads the parameters over the devices of all hosts. A host that samples by itself needs
all of them: they are gathered once per rollout, onto a mesh of the host's own devices. When the
copy is made and dropped is decided in `run/sampler`.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from cipo_jax.policy.sharding import MESH_AXES, make_mesh
from cipo_jax.types import CipoError


def host_meshes(tensor: int, replicas: bool) -> tuple[Mesh, Mesh]:
    """Two views of the devices: all of them with an axis "host" in front of the mesh axes, and this
    host's own, which is its part of the first.

    Args:
      tensor: tensor shards within a host.
      replicas: whether its other devices are on the data axis, each group of `tensor` with all
        weights; else on the fsdp axis, where each decode step gathers them.

    Raises:
      CipoError: hosts with different numbers of devices, or `tensor` does not divide it.
    """
    hosts = range(jax.process_count())
    by_host = [[d for d in jax.devices() if d.process_index == host] for host in hosts]
    counts = [len(devices) for devices in by_host]
    if len(set(counts)) > 1 or counts[0] % tensor:
        raise CipoError(
            f"config.mesh.tensor: got {tensor}, with hosts of {counts} devices; wanted hosts of "
            "equally many, a multiple of it (config.sampling.tensor may be set to a smaller one)"
        )
    data, fsdp = (-1, 1) if replicas else (1, -1)
    grids = [make_mesh(data, fsdp, tensor, devices=devices).devices for devices in by_host]
    every = Mesh(np.stack(grids), ("host", *MESH_AXES), axis_types=(AxisType.Auto,) * 5)
    return every, Mesh(grids[jax.process_index()], MESH_AXES, axis_types=(AxisType.Auto,) * 4)


def copy_to_hosts(params: Any, own_shardings: Any, every: Mesh) -> Any:
    """The parameters, laid out over all hosts, with `own_shardings`. All hosts must call it
    together. `every` is the first mesh of `host_meshes`; `own_shardings` are on the second.
    """

    def copy(x: jax.Array, own: NamedSharding) -> jax.Array:
        spread = jax.device_put(x, NamedSharding(every, own.spec))
        pieces = [shard.data for shard in spread.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, own, pieces)

    return jax.tree.map(copy, params, own_shardings)
