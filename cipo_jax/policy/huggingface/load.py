"""Reading a Hugging Face checkpoint: safetensors files to parameters on their shards.

Not decided here: names and layouts of tensors (`weights`), where shards live (`policy/sharding`),
where a checkpoint is downloaded from (`hub`).
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors import SafetensorError, safe_open

from cipo_jax.policy.huggingface.json_files import read_json
from cipo_jax.policy.huggingface.weights import (
    EMBEDDING,
    HEAD,
    INDEX_FILE,
    SINGLE_FILE,
    stacked,
    stored_dims,
    stored_names,
    stored_shape,
)
from cipo_jax.policy.model import ModelConfig, Params, abstract_params, param_shardings
from cipo_jax.policy.sharding import padded_spec
from cipo_jax.types import CipoError

Tensor = tuple[Path, Any]  # the file, and a lazy slice of a tensor in it

_DTYPES = ("F32", "F16", "BF16")
_COMPARED = 2**22  # numbers of a head and an embedding that are compared at a time


def load_params(directory: Path, config: ModelConfig, mesh: Mesh) -> Params:
    """The checkpoint's parameters on their shards of `mesh`, in `config.param_dtype`.

    Every host reads the slices of its own devices, so all need to see `directory`. Besides the
    pages of the mapped files, a host holds two stored tensors at most.

    Raises:
      CipoError: no safetensors; a truncated or corrupt file; tensors that are missing, that the
        model has no place for, or of a shape or dtype that does not fit, each by name.
    """
    shapes = flax.traverse_util.flatten_dict(abstract_params(config), sep="/")
    shardings = flax.traverse_util.flatten_dict(param_shardings(config, mesh), sep="/")
    with contextlib.ExitStack() as stack:
        tensors = _open(directory, stack)
        if config.tie_embeddings and EMBEDDING not in tensors and HEAD in tensors:
            tensors[EMBEDDING] = tensors[HEAD]  # stored under the head's name alone
        _check(directory, config, shapes, tensors)
        params = {
            path: _load(path, config, leaf, shardings[path], tensors)
            for path, leaf in shapes.items()
        }
    return flax.traverse_util.unflatten_dict(params, sep="/")


def require_weights(directory: Path) -> None:
    """Raises `CipoError` if the directory has no file of safetensors; none is read."""
    if any((directory / name).exists() for name in (SINGLE_FILE, INDEX_FILE)):
        return
    remedy = ""
    if any(directory.glob("*.bin")):
        remedy = "; save weights of torch again, by save_pretrained of transformers"
    raise CipoError(f"{directory}: wanted {SINGLE_FILE} or {INDEX_FILE}, found neither{remedy}")


def has_own_head(directory: Path) -> bool:
    """Whether a checkpoint stores a head that is not its embedding. transformers then uses it, even
    if config.json says that they are tied. False where there are no files of tensors.

    Raises:
      CipoError: a file that cannot be read.
    """
    if not any((directory / name).exists() for name in (SINGLE_FILE, INDEX_FILE)):
        return False
    with contextlib.ExitStack() as stack:
        tensors = _open(directory, stack)
        if not {EMBEDDING, HEAD} <= tensors.keys():
            return False
        shape = tensors[HEAD][1].get_shape()
        if shape != tensors[EMBEDDING][1].get_shape() or len(shape) != 2:
            return True
        rows, some = shape[0], max(1, _COMPARED // shape[1])
        parts = (((i, min(i + some, rows)), (0, shape[1])) for i in range(0, rows, some))
        return any(
            not np.array_equal(_read(tensors[HEAD], part), _read(tensors[EMBEDDING], part))
            for part in parts
        )


def _load(
    path: str,
    config: ModelConfig,
    leaf: jax.ShapeDtypeStruct,
    sharding: NamedSharding,
    tensors: Mapping[str, Tensor],
) -> jax.Array:
    """One parameter; if stacked over layers, filled on the devices layer by layer."""
    parts = [tensors[name] for name in stored_names(path, config)]
    shape, axes = leaf.shape, padded_spec(sharding, leaf.ndim)
    if stacked(path):
        assert axes[0] is None, "a stored tensor is one layer, whole"
        shape, axes = leaf.shape[1:], axes[1:]
    dims = stored_dims(path)
    # A slice of merged dimensions is contiguous only if the inner ones are whole.
    assert all(axes[d] is None for group in dims for d in group[1:]), (path, axes)
    stored_sharding = NamedSharding(sharding.mesh, P(*(axes[group[0]] for group in dims)))
    read = functools.partial(_read_shards, stored_shape(path, shape), stored_sharding)
    convert = _converter(dims, shape, leaf.dtype, NamedSharding(sharding.mesh, P(*axes)))
    if not stacked(path):
        return convert(read(parts[0]))
    write = _layer_writer(sharding)
    array = jnp.zeros(leaf.shape, leaf.dtype, device=sharding)
    for layer, part in enumerate(parts):
        stored = read(part)
        # The transfer runs during the next read, and no longer.
        array.block_until_ready()
        array = write(array, convert(stored), layer)
    return array


@functools.cache
def _converter(
    dims: tuple[tuple[int, ...], ...], shape: tuple[int, ...], dtype: Any, sharding: NamedSharding
) -> Callable[[jax.Array], jax.Array]:
    """Compiled: a stored tensor in our layout and dtype."""
    order = [d for group in dims for d in group]

    def convert(stored: jax.Array) -> jax.Array:
        value = stored.reshape([shape[d] for d in order]).transpose(np.argsort(order))
        return value.astype(dtype)

    return jax.jit(convert, out_shardings=sharding)


@functools.cache
def _layer_writer(sharding: NamedSharding) -> Callable[[jax.Array, jax.Array, int], jax.Array]:
    """Compiled: a stacked parameter with one layer written in place."""
    write = functools.partial(jax.lax.dynamic_update_index_in_dim, axis=0)
    return jax.jit(write, donate_argnums=0, out_shardings=sharding)


def _read_shards(shape: tuple[int, ...], sharding: NamedSharding, tensor: Tensor) -> jax.Array:
    """A stored tensor on the devices; this host reads what its own devices hold."""
    piece = functools.cache(functools.partial(_read, tensor))  # replicas share one read

    def read(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # it is only for shardings without layout
        return piece(tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True)))

    return jax.make_array_from_callback(shape, sharding, read)


def _read(tensor: Tensor, bounds: tuple[tuple[int, int], ...]) -> np.ndarray:
    file, stored = tensor
    try:
        return stored[tuple(slice(*bound) for bound in bounds)]
    except SafetensorError as error:
        raise CipoError(f"{file}: cannot be read: {error}") from error


def _open(directory: Path, stack: contextlib.ExitStack) -> dict[str, Tensor]:
    """Every stored tensor's name -> (file, lazy slice); files stay open as long as `stack`."""

    def open_file(file: Path) -> Any:
        try:
            return stack.enter_context(safe_open(file, framework="numpy"))
        except FileNotFoundError as error:
            raise CipoError(f"{file}: no such file, but {INDEX_FILE} names it") from error
        except (SafetensorError, OSError) as error:
            raise CipoError(
                f"{file}: not a complete safetensors file ({error}); fetch it again"
            ) from error

    if (file := directory / SINGLE_FILE).exists():
        handle = open_file(file)
        return {name: (file, handle.get_slice(name)) for name in handle.keys()}  # noqa: SIM118
    require_weights(directory)
    weight_map = read_json(directory / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CipoError(f"{directory / INDEX_FILE}: weight_map: wanted a map of tensor to file")
    handles = {name: open_file(directory / name) for name in sorted(set(weight_map.values()))}
    held = {name: set(handle.keys()) for name, handle in handles.items()}
    tensors = {}
    for tensor, name in weight_map.items():
        if tensor not in held[name]:
            raise CipoError(f"{directory / name}: lacks {tensor}, which {INDEX_FILE} places there")
        tensors[tensor] = (directory / name, handles[name].get_slice(tensor))
    return tensors


def _check(
    directory: Path,
    config: ModelConfig,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    tensors: Mapping[str, Tensor],
) -> None:
    """Refuses a checkpoint whose tensors are not exactly the model's."""
    wanted = {
        name: stored_shape(path, leaf.shape[1:] if stacked(path) else leaf.shape)
        for path, leaf in shapes.items()
        for name in stored_names(path, config)
    }
    ignored = {HEAD} if config.tie_embeddings else set()
    problems = [f"missing: {name} {list(wanted[name])}" for name in wanted if name not in tensors]
    for name, (file, stored) in tensors.items():
        if name in wanted:
            found, dtype, right = stored.get_shape(), stored.get_dtype(), list(wanted[name])
            if found != right:
                problems.append(f"misshapen: {name} is {found} in {file.name}, wanted {right}")
            if dtype not in _DTYPES:
                allowed = " | ".join(_DTYPES)
                problems.append(f"dtype: {name} is {dtype} in {file.name}, wanted {allowed}")
        elif name not in ignored and not name.endswith("rotary_emb.inv_freq"):
            problems.append(f"extra: {name} in {file.name}, which the model has no place for")
    if problems:
        shown = problems[:10] + ([f"and {len(problems) - 10} more"] if len(problems) > 10 else [])
        listed = "\n  ".join(shown)
        raise CipoError(f"{directory}: tensors do not fit its config.json:\n  {listed}")
