"""How much memory programs may use on a device, and who says so."""

import os
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
        return Memory(whole // count, f"this machine's memory over {count} device(s)")
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
