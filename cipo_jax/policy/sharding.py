"""Where arrays live on the device mesh.

The mesh has four axes:

    data     replicas of the parameters; rows of a batch are split over it
    fsdp     shards of parameters and optimiser state; rows are split over it as well
    context  shards of parameters and optimiser state; the tokens of a row are split over it, see
             `context`
    tensor   shards of heads, MLP and vocabulary inside one layer

Model code names the dimensions of its arrays by *logical* axes ("embed", "heads", ...), and
`logical_rules` says which mesh axis each of them is split over. Compilation then inserts the
collectives: with `embed -> fsdp`, a layer's weights are gathered just before use and its gradients
are reduce-scattered (ZeRO-3); with `heads, mlp, vocab -> tensor`, matmuls are split as in Megatron.
The context axis is one more of those that layers' weights are gathered over. Embedding and head are
split over it by vocabulary instead: no device then holds the whole of a head.

Axis types are Auto: under Explicit ones every gather needs its output sharding spelled out. The
logical axes of an array are decided where it is made.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import optax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cipo_jax.types import CipoError

MESH_AXES = ("data", "fsdp", "context", "tensor")
ROWS = ("data", "fsdp")  # the mesh axes over which rows of a batch are split
TOKENS = "context"  # the one over which tokens of a row are split

Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]


def make_cpu_devices(count: int) -> None:
    """Has JAX make `count` devices of the CPU; 0 changes nothing. After the first use of JAX in the
    process it has no effect, and prints a line that says so."""
    if not count:
        return
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        found = [d for d in jax.local_devices() if d.platform == "cpu"]
        if found and len(found) != count:
            print(
                f"devices  config.mesh.cpu_devices = {count} has no effect: this process uses JAX "
                f"with {len(found)} already"
            )


def make_mesh(
    data: int = 1,
    fsdp: int = -1,
    tensor: int = 1,
    context: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh over all devices (or `devices`); one size may be -1 and takes what is left.

    Raises:
      CipoError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "fsdp": fsdp, "context": context, "tensor": tensor}
    known = math.prod(s for s in sizes.values() if s != -1)
    shape = tuple(len(devices) // known if s == -1 else s for s in sizes.values())
    if math.prod(shape) != len(devices):
        raise CipoError(
            f"config.mesh: got {sizes}, wanted sizes that multiply to the {len(devices)} devices"
        )
    # `jax.make_mesh` splits a physical axis of a torus (8 = 4 x 2 of 4 x 4 x 4) on some TPUs only.
    placed = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(placed, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def describe(mesh: Mesh) -> str:
    """The axes and their sizes; of context only where it splits anything."""
    axes = mesh.shape.items()
    return " x ".join(f"{name} {size}" for name, size in axes if name != TOKENS or size > 1)


def whole_row_mesh(mesh: Mesh) -> Mesh:
    """The same devices with the context axis as more of fsdp, for what works on whole rows; weights
    of layers lie where they did."""
    data, fsdp, context, tensor = mesh.devices.shape
    if context == 1:
        return mesh
    devices = mesh.devices.reshape(data, fsdp * context, 1, tensor)
    return Mesh(devices, MESH_AXES, axis_types=mesh.axis_types)


def logical_rules(mesh: Mesh, axis_sizes: dict[str, int]) -> Rules:
    """The mesh axis of every logical axis, for a model whose logical axes have `axis_sizes`.

    The tensor axis must divide heads and MLP, fsdp x context D. Key/value heads and the vocabulary
    are whole on every device where it does not divide them: both are small next to the rest.
    Embedding and head, [vocab, vocab_embed] and the reverse, are split like other weights where
    context x tensor does not divide the vocabulary.

    Raises:
      CipoError: an axis that cannot be split.
    """
    split = mesh.shape[TOKENS] > 1
    shards: Any = ("fsdp", TOKENS) if split else "fsdp"  # of D
    rules: list[tuple[str, Any]] = [("batch", ROWS), ("batch_by_data", "data")]
    rules += [("tokens", TOKENS if split else None)]
    rules += [(logical, None) for logical in ("layers", "head_dim", "norm")]
    for logical, size in axis_sizes.items():
        axis = shards if logical == "embed" else "tensor"
        divides = size % _size(mesh, axis) == 0
        if not divides and logical not in ("kv_heads", "vocab"):
            named = axis if isinstance(axis, str) else " x ".join(axis)
            raise CipoError(
                f"config.mesh.{named}: got {_size(mesh, axis)}, which does not divide the model's "
                f"{logical} size {size}"
            )
        rules.append((logical, axis if divides else None))
    lookup = dict(rules)
    both = (TOKENS, "tensor")
    by_vocabulary = split and axis_sizes["vocab"] % _size(mesh, both) == 0
    if by_vocabulary:
        lookup["vocab"] = both
    lookup["vocab_embed"] = "fsdp" if by_vocabulary else shards
    return tuple(lookup.items())


def spec(rules: Rules, axes: Sequence[str | None]) -> P:
    """The PartitionSpec of an array whose dimensions have the logical `axes`.

    Raises:
      KeyError: an axis that no rule names; a typo must not silently mean "replicated".
    """
    lookup = dict(rules)
    return P(*(None if axis is None else lookup[axis] for axis in axes))


def axis_names(axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes of an entry of a PartitionSpec."""
    return () if axes is None else (axes,) if isinstance(axes, str) else axes


def constrain(x: jax.Array, rules: Rules, axes: Sequence[str | None]) -> jax.Array:
    """Pins the layout of an intermediate array. `rules = ()` says "one device, no mesh"."""
    return jax.lax.with_sharding_constraint(x, spec(rules, axes)) if rules else x


def padded_spec(sharding: NamedSharding, ndim: int) -> tuple[Any, ...]:
    """The mesh axes of each of an array's `ndim` dimensions."""
    return (*sharding.spec, *(None,) * (ndim - len(sharding.spec)))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_axes(mesh: Mesh) -> tuple[tuple[str, ...], str | None]:
    """The mesh axes of the rows of a training batch, and that of their tokens."""
    return ROWS, TOKENS if mesh.shape[TOKENS] > 1 else None


def _size(mesh: Mesh, axes: str | tuple[str, ...]) -> int:
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))


def row_count(mesh: Mesh) -> int:
    """Into how many parts rows are split; batch sizes are multiples of it."""
    return _size(mesh, ROWS)


def optimizer_shardings(
    optimizer: optax.GradientTransformation, abstract_params: Any, param_shardings: Any, mesh: Mesh
) -> Any:
    """Shardings of the optimiser state. A leaf belongs to the parameter whose path its own path
    ends with. Moments of the parameter's shape are split like it; factored ones (Adafactor's row
    and column means, without one dimension) like its other dimensions. All else is replicated.

    Without these, `jit(optimizer.init)` replicates Adam's moments on every device.
    """
    leaves = jax.tree_util.tree_leaves_with_path(abstract_params)
    pairs = zip(leaves, jax.tree.leaves(param_shardings), strict=True)
    params = {path: (leaf.shape, sharding) for (path, leaf), sharding in pairs}

    def of_leaf(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        endings = (path[start:] for start in range(len(path)))
        owner = next((params[ending] for ending in endings if ending in params), None)
        if owner is None:
            return replicated(mesh)
        shape, sharding = owner
        if leaf.shape == shape:
            return sharding
        axes = padded_spec(sharding, len(shape))
        for i in range(len(shape)):
            if leaf.shape == (*shape[:i], *shape[i + 1 :]):
                return NamedSharding(mesh, P(*axes[:i], *axes[i + 1 :]))
        return replicated(mesh)

    abstract_state = jax.eval_shape(optimizer.init, abstract_params)
    return jax.tree_util.tree_map_with_path(of_leaf, abstract_state)
