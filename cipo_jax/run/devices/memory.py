"""How much memory programs may use on a device, and who says so."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cipo_jax.run.devices.chips import CHIPS, Gpu
from cipo_jax.types import CipoError

# JAX on a GPU takes this share of all memory, unless one of these variables says another.
FRACTION = 0.75
FRACTION_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


class Memory(NamedTuple):
    """Bytes of a device that programs may use, and where the number comes from."""

    bytes: int
    source: str


def device_memory(device: Any) -> Memory | None:
    """The memory of a device, here or of a topology; a CPU's divided over the devices made of it.
    None: not known.

    Raises:
      CipoError: JAX is told a share of a GPU's memory that is none.
    """
    if device.platform == "cpu":
        count = len(jax.local_devices(backend="cpu"))
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        what = "this machine's memory"
        if (limit := control_group_limit()) is not None and limit < whole:
            whole, what = limit, "the memory limit of this process's control group"
        return Memory(whole // count, f"{what} over {count} device(s)")
    try:
        stats = device.memory_stats()
    except RuntimeError:  # JAX's: it is of another host, or there to compile for
        stats = None
    if stats and "bytes_limit" in stats:
        return Memory(stats["bytes_limit"], "as its runtime says")
    chip = CHIPS.get(device.device_kind)
    if chip is None:
        return None
    if not isinstance(chip, Gpu):
        return Memory(chip.memory, "as its compiler allows")
    share, why = gpu_fraction()
    return Memory(int(share * chip.memory), f"{share:.0%} of {chip.memory / 2**30:.1f} GiB, {why}")


def control_group_limit(
    listed: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """The least memory limit, in bytes, of the control groups that this process is in, as a
    container or a batch system sets it; None without one.

    Args:
      listed: the groups, as Linux lists them.
      root: where both versions of control groups are mounted.
    """
    limits = []
    for line in listed.read_text().splitlines() if listed.is_file() else ():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            place, file = root, "memory.max"
        elif "memory" in controllers.split(","):
            place, file = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        within = place / group.lstrip("/")
        # A container sees its own group at the root, where the listed name leads nowhere.
        above = [parent for parent in within.parents if parent.is_relative_to(place)]
        files = (directory / file for directory in (within, *above))
        limits += [found.read_text().strip() for found in files if found.is_file()]
    return min((int(limit) for limit in limits if limit.isdecimal()), default=None)


def gpu_fraction() -> tuple[float, str]:
    """The share of a GPU's memory that JAX takes for programs, and why that one.

    Raises:
      CipoError: a variable names a share that is none.
    """
    for variable in FRACTION_VARIABLES:
        if given := os.environ.get(variable):
            try:
                share = float(given)
            except ValueError:
                share = 0.0
            if not 0 < share <= 1:
                raise CipoError(f"{variable}: got {given!r}, wanted a number above 0 and up to 1")
            return share, f"by {variable}"
    return FRACTION, f"JAX's default; {FRACTION_VARIABLES[0]}=0.92 makes it more"
