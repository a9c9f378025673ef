"""A table of the parameters: what they are, how large, and how they lie on the devices."""

import dataclasses

import flax.traverse_util
import jax
import numpy as np
from clu import parameter_overview

from cipo_jax.policy.model import Params
from cipo_jax.policy.sharding import padded_spec


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
    """One line per parameter (an array or `jax.ShapeDtypeStruct` with a NamedSharding), and the
    totals."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    rows = [_row(name, leaf) for name, leaf in sorted(flat.items())]
    sums = [
        sum(x) for x in zip(*((r.count, r.bytes, r.bytes_per_device) for r in rows), strict=True)
    ]
    totals = f"{sums[0]:,} parameters, {sums[1]:,} bytes, {sums[2]:,} bytes per device"
    return f"{parameter_overview.make_table(rows)}\n{totals}\n"


def _row(name: str, leaf: jax.Array | jax.ShapeDtypeStruct) -> _Row:
    sharding = leaf.sharding
    assert isinstance(sharding, jax.sharding.NamedSharding), name
    held = int(np.prod(sharding.shard_shape(leaf.shape), dtype=np.int64))
    axes = padded_spec(sharding, leaf.ndim)
    return _Row(
        name=name,
        shape=leaf.shape,
        dtype=leaf.dtype.name,
        count=leaf.size,
        bytes=leaf.size * leaf.dtype.itemsize,
        bytes_per_device=held * leaf.dtype.itemsize,
        sharding=", ".join("-" if axis is None else str(axis) for axis in axes),
    )
