"""A table of the parameters: what they are, how large, and how they lie on the devices."""

import dataclasses

import flax.traverse_util
import jax
import numpy as np
from clu import parameter_overview

from cipo_jax.policy.model import Params


@dataclasses.dataclass
class _Row:
    name: str
    shape: tuple[int, ...]
    dtype: str
    count: int
    bytes: int
    bytes_per_device: int
    sharding: str


def parameter_table(params: Params) -> str:
    """One line per parameter, and the totals.

    Args:
      params: arrays, or `jax.ShapeDtypeStruct`s, with NamedShardings.
    """
    rows = [
        _row(name, leaf)
        for name, leaf in sorted(flax.traverse_util.flatten_dict(params, sep="/").items())
    ]
    totals = [
        sum(getattr(row, field) for row in rows) for field in ("count", "bytes", "bytes_per_device")
    ]
    table = parameter_overview.make_table(rows)
    return (
        f"{table}\n{totals[0]:,} parameters, {totals[1]:,} bytes, {totals[2]:,} bytes per device\n"
    )


def _row(name: str, leaf: jax.Array | jax.ShapeDtypeStruct) -> _Row:
    sharding = leaf.sharding
    assert isinstance(sharding, jax.sharding.NamedSharding), name
    held = int(np.prod(sharding.shard_shape(leaf.shape), dtype=np.int64))
    axes = (*sharding.spec, *(None,) * (len(leaf.shape) - len(sharding.spec)))
    return _Row(
        name=name,
        shape=leaf.shape,
        dtype=leaf.dtype.name,
        count=leaf.size,
        bytes=leaf.size * leaf.dtype.itemsize,
        bytes_per_device=held * leaf.dtype.itemsize,
        sharding=", ".join("-" if axis is None else str(axis) for axis in axes),
    )
