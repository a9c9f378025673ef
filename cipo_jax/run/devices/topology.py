"""Devices that are not here, by a name.

h100:8      the GPUs of a node
h100:8x2    GPUs of a node x nodes
v5e:4x4     the chips of a TPU slice, along each side

`topology_devices` gives JAX's devices, to compile for. GPUs need JAX's CUDA plugin and cuDNN, but
no GPU and no driver; TPUs need libtpu, for one process at a time. `paper_devices` needs nothing:
meshes, shapes and sizes follow from what it gives, but nothing can be compiled for it.
"""

import ctypes
import dataclasses
import difflib
import importlib.util
import itertools
import os
import re
from pathlib import Path
from typing import Any

from cipo_jax.run.devices.chips import GPUS
from cipo_jax.run.devices.gpu_target import target_text
from cipo_jax.types import CipoError

# libtpu's names, and how many sides a slice has.
TPUS = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2}
# Their `jax.Device.device_kind`.
KINDS = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}
HOST_SIDES = (2, 2, 1)  # the chips of a host of a slice
_CUDA_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")


@dataclasses.dataclass(frozen=True)
class PaperDevice:
    """A device by its description, as far as meshes and sizes ask for it.

    Attributes:
      coords: (x, y, z) of a TPU's chip; None: a GPU.
      others: as JAX's of the same names.
    """

    id: int
    process_index: int
    platform: str
    device_kind: str
    coords: tuple[int, ...] | None = None
    core_on_chip: int = 0

    def memory_stats(self) -> None:
        """It is not here."""


def topology_devices(topology: str) -> list[Any]:
    """The devices of `topology`, to compile for.

    Raises:
      CipoError: an unknown name, a shape that cannot be, or no compiler for it here.
    """
    name, sizes = _name_and_sizes(topology)
    return (_gpus if name in GPUS else _tpu_slice)(topology, name, sizes)


def paper_devices(topology: str) -> list[PaperDevice]:
    """The devices of `topology`, described.

    Raises:
      CipoError: an unknown name, or a shape that cannot be.
    """
    name, sizes = _name_and_sizes(topology)
    if name in GPUS:
        per_node, nodes = (*sizes, 1)[:2]
        return [
            PaperDevice(i, i // per_node, "gpu", GPUS[name].kind) for i in range(per_node * nodes)
        ]
    hosts: dict[tuple[int, ...], int] = {}
    found = []
    # Numbered and listed as by libtpu: x changes first; host by host.
    for i, zyx in enumerate(itertools.product(*map(range, (*sizes, 1)[2::-1]))):
        coords = zyx[::-1]
        host = tuple(at // side for at, side in zip(coords, HOST_SIDES, strict=True))
        index = hosts.setdefault(host, len(hosts))
        found.append(PaperDevice(i, index, "tpu", KINDS[name], coords))
    return sorted(found, key=lambda device: device.process_index)


def _name_and_sizes(topology: str) -> tuple[str, list[int]]:
    """Raises CipoError: an unknown name, or a shape that cannot be."""
    name, _, shape = topology.lower().partition(":")
    if name not in {**GPUS, **TPUS}:
        near = difflib.get_close_matches(name, [*GPUS, *TPUS], n=3, cutoff=0.4)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        raise CipoError(
            f"--topology={topology}: no such GPU or TPU; {meant}GPUs: {', '.join(GPUS)}; "
            f"TPUs: {', '.join(TPUS)}"
        )
    known = re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape)
    sizes = [int(n) for n in shape.split("x")] if known else []
    if name in GPUS and len(sizes) not in (1, 2):
        raise CipoError(
            f"--topology={topology}: wanted the GPUs of a node, and how many nodes if several: "
            f"{name}:1, {name}:8 or {name}:8x2"
        )
    if name in TPUS and len(sizes) != TPUS[name]:
        sides = "x".join("2" * TPUS[name])
        raise CipoError(
            f"--topology={topology}: wanted the chips along each of {TPUS[name]} sides, such as "
            f"{name}:{sides}"
        )
    # As they are offered: longer sides are whole blocks of 4.
    most = 16 if name in TPUS and TPUS[name] == 2 else max([*sizes, 0])
    if name in TPUS and any(n > most or (n > 2 and n % 4) for n in sizes):
        raise CipoError(
            f"--topology={topology}: there is no such slice; wanted sides of 1, 2, 4 or 8"
            + (" or 16" if TPUS[name] == 2 else " or larger multiples of 4")
        )
    return name, sizes


def _gpus(topology: str, name: str, sizes: list[int]) -> list[Any]:
    if not any(map(importlib.util.find_spec, _CUDA_PLUGINS)):
        raise CipoError(
            f"--topology={topology}: compiling for a GPU needs JAX's CUDA plugin, which is not "
            "installed: pip install -c constraints.txt -e '.[cuda]' (no GPU is needed)"
        )
    per_node, nodes = sizes[0], sizes[1] if len(sizes) > 1 else 1
    devices = _described(
        topology,
        "the installed plugin does not take this GPU's description; is it of JAX's own version?",
        topology_name=name,
        platform="cuda",
        target_config=target_text(GPUS[name]),
        topology=f"1x{nodes}x{per_node}",
    )
    try:  # the plugin has loaded that of a Python package, if there is one
        ctypes.CDLL("libcudnn.so.9")
    except OSError:
        raise CipoError(
            f"--topology={topology}: compiling for a GPU needs cuDNN 9, which is not found: "
            "pip install -c constraints.txt -e '.[cuda]'"
        ) from None
    return devices


def _tpu_slice(topology: str, name: str, sizes: list[int]) -> list[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise CipoError(
            f"--topology={topology}: compiling for a TPU needs libtpu, which is not installed: "
            "pip install -c constraints.txt -e '.[tpu]' (no TPU is needed)"
        )
    if not any(Path("/dev").glob("accel*")) and not Path("/dev/vfio").exists():
        # Else libtpu asks a cloud VM's metadata, which takes minutes where there is none.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    options: dict[str, Any] = {}
    if name == "v4":  # the two cores of a chip make one device, as on real ones
        options["chip_config_name"] = "megacore"
    if sizes[0] == 1 or sizes[1] == 1:  # a part of a host's 2 x 2 chips
        options["chips_per_host_bounds"] = [*(min(n, 2) for n in sizes), 1][:3]
    return _described(
        topology,
        "libtpu knows no such slice, or another process uses libtpu",
        topology_name=topology.lower(),
        platform="tpu",
        **options,
    )


def _described(asked: str, likely: str, **arguments: Any) -> list[Any]:
    from jax.experimental.topologies import get_topology_desc

    try:
        return get_topology_desc(**arguments).devices
    except Exception as error:  # whatever the plugin raises
        raise CipoError(
            f"--topology={asked}: cannot be compiled for here ({str(error)[:300]}); {likely}"
        ) from error
