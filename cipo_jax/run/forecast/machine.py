"""The devices of a time line, and what a host samples with on them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from cipo_jax.policy.sharding import row_count
from cipo_jax.run.devices.chips import CHIPS, Chip
from cipo_jax.run.forecast.assumptions import Assumptions
from cipo_jax.run.forecast.decoding import Shard
from cipo_jax.run.memory_plan import Shapes
from cipo_jax.run.parts import settings_of_one
from cipo_jax.sampling.settings import EngineSettings, cache_dtype
from cipo_jax.types import CipoError


@dataclasses.dataclass(frozen=True)
class Machine:
    """The devices of a run.

    Attributes:
      links: bytes per second from a chip to the others, as its data sheet says, or between nodes.
    """

    kind: str
    chip: Chip
    chips: int
    hosts: int
    links: float


def machine_of(devices: Sequence[Any], network: float) -> Machine:
    """Raises CipoError: the speed of such a device is not known."""
    kind, hosts = devices[0].device_kind, len({d.process_index for d in devices})
    if kind not in CHIPS:
        raise CipoError(
            f"time line: the speed of {kind!r} is not known; known are {', '.join(CHIPS)}"
        )
    chip = CHIPS[kind]
    apart = hosts > 1 and devices[0].platform == "gpu"
    links = min(chip.links, network) if apart else chip.links
    return Machine(kind, chip, len(devices), hosts, links)


def one_hosts_sampler(
    shapes: Shapes, assumptions: Assumptions
) -> tuple[EngineSettings, int, Shard]:
    """A host's engine: its settings, the number of its row shards, and each of those.

    Raises:
      CipoError: as `machine_of`.
    """
    (model, mesh, settings), a = shapes.sampler, assumptions
    machine = machine_of(list(mesh.devices.flat), a.network)
    shard = Shard(
        model,
        cache_dtype(settings, model.compute_dtype, mesh),
        mesh.shape["tensor"],
        a.memory * machine.chip.bandwidth,
        a.products * machine.chip.flops,
        a.exchange_seconds,
    )
    return settings_of_one(settings, machine.hosts), row_count(mesh) // machine.hosts, shard
