"""Hugging Face checkpoints in and out: safetensors files and our parameter tree.

Reading is streamed: each parameter is built from the slices of the stored tensors that this host's
shards need, so the host holds one or two (stacked) parameters at a time, not the model. Writing
goes to a temporary directory that is renamed at the end: one with the final name is complete.

Not decided here: what config.json means (`hf_config`), what the architecture computes (`model`),
where shards live (`sharding`), where a checkpoint is downloaded from. Tokenizer files are only
copied along.
"""

import contextlib
import dataclasses
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cipo_jax.policy.hf_config import config_from_hf, config_to_hf, read_json
from cipo_jax.policy.model import ModelConfig, Params, abstract_params, param_shardings
from cipo_jax.types import CipoError

# Parameter path -> name of the stored tensor, and for each of its dimensions the dimensions of our
# (single-layer) parameter that are merged into it. torch keeps linear weights as [outputs, inputs].
_TENSORS: dict[str, tuple[str, tuple[tuple[int, ...], ...]]] = {
    "embedding": ("model.embed_tokens.weight", ((0,), (1,))),
    "layers/attention_norm/scale": ("model.layers.{}.input_layernorm.weight", ((0,),)),
    "layers/q": ("model.layers.{}.self_attn.q_proj.weight", ((1, 2), (0,))),
    "layers/k": ("model.layers.{}.self_attn.k_proj.weight", ((1, 2), (0,))),
    "layers/v": ("model.layers.{}.self_attn.v_proj.weight", ((1, 2), (0,))),
    "layers/o": ("model.layers.{}.self_attn.o_proj.weight", ((2,), (0, 1))),
    "layers/q_bias": ("model.layers.{}.self_attn.q_proj.bias", ((0, 1),)),
    "layers/k_bias": ("model.layers.{}.self_attn.k_proj.bias", ((0, 1),)),
    "layers/v_bias": ("model.layers.{}.self_attn.v_proj.bias", ((0, 1),)),
    "layers/o_bias": ("model.layers.{}.self_attn.o_proj.bias", ((0,),)),
    "layers/q_norm/scale": ("model.layers.{}.self_attn.q_norm.weight", ((0,),)),
    "layers/k_norm/scale": ("model.layers.{}.self_attn.k_norm.weight", ((0,),)),
    "layers/mlp_norm/scale": ("model.layers.{}.post_attention_layernorm.weight", ((0,),)),
    "layers/gate": ("model.layers.{}.mlp.gate_proj.weight", ((1,), (0,))),
    "layers/up": ("model.layers.{}.mlp.up_proj.weight", ((1,), (0,))),
    "layers/down": ("model.layers.{}.mlp.down_proj.weight", ((1,), (0,))),
    "final_norm/scale": ("model.norm.weight", ((0,),)),
    "head": ("lm_head.weight", ((1,), (0,))),
}
_DTYPES = ("F32", "F16", "BF16")
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_COPIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


# Reading.


def load_params(directory: Path, config: ModelConfig, mesh: Mesh) -> Params:
    """The checkpoint's parameters on their shards of `mesh`, in `config.param_dtype`.

    Every host reads the slices of its own devices, so all need to see `directory`.

    Raises:
      CipoError: no safetensors; a truncated or corrupt file; tensors that are missing, that the
        model has no place for, or of a shape or dtype that does not fit, each by name.
    """
    shapes = flax.traverse_util.flatten_dict(abstract_params(config), sep="/")
    shardings = flax.traverse_util.flatten_dict(param_shardings(config, mesh), sep="/")
    with contextlib.ExitStack() as stack:
        tensors = _open(directory, stack)
        _check(directory, config, shapes, tensors)
        params = {
            path: _load(path, config, leaf, shardings[path], tensors)
            for path, leaf in shapes.items()
        }
    return flax.traverse_util.unflatten_dict(params, sep="/")


def _load(
    path: str,
    config: ModelConfig,
    leaf: jax.ShapeDtypeStruct,
    sharding: jax.sharding.Sharding,
    tensors: Mapping[str, tuple[Path, Any]],
) -> jax.Array:
    """One parameter, stacked over layers, built from the slices that local devices hold."""
    names, dims = _stored_names(path, config), _TENSORS[path][1]
    shape = leaf.shape[1:] if _stacked(path) else leaf.shape
    pieces: dict[tuple, np.ndarray] = {}  # replicas share one reading

    def read(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # it is only for shardings without layout
        bounds = tuple(s.indices(n)[:2] for s, n in zip(index, leaf.shape, strict=True))
        if bounds not in pieces:
            piece = np.empty([stop - start for start, stop in bounds], leaf.dtype)
            if _stacked(path):
                for i, layer in enumerate(range(*bounds[0])):
                    piece[i] = _read(tensors[names[layer]], dims, shape, bounds[1:])
            else:
                piece[...] = _read(tensors[names[0]], dims, shape, bounds)
            pieces[bounds] = piece
        return pieces[bounds]

    array = jax.make_array_from_callback(leaf.shape, sharding, read)
    # Transfers run behind; waiting keeps host copies from piling up.
    return array.block_until_ready()


def _read(
    tensor: tuple[Path, Any],
    dims: tuple[tuple[int, ...], ...],
    shape: tuple[int, ...],
    bounds: tuple[tuple[int, int], ...],
) -> np.ndarray:
    """The part of a stored tensor that holds `bounds` of our parameter, in our layout."""
    file, stored = tensor
    index = []
    for first, *inner in dims:
        # A slice of merged dimensions is contiguous only if the inner ones are whole.
        assert all(bounds[d] == (0, shape[d]) for d in inner), (bounds, shape)
        width = math.prod(shape[d] for d in inner)
        index.append(slice(bounds[first][0] * width, bounds[first][1] * width))
    order = [d for group in dims for d in group]
    try:
        part = stored[tuple(index)]
    except SafetensorError as error:
        raise CipoError(f"{file}: cannot be read: {error}") from error
    return part.reshape([bounds[d][1] - bounds[d][0] for d in order]).transpose(np.argsort(order))


def _open(directory: Path, stack: contextlib.ExitStack) -> dict[str, tuple[Path, Any]]:
    """Every stored tensor's name -> (file, lazy slice); files stay open as long as `stack`."""

    def open_file(file: Path) -> Any:
        try:
            return stack.enter_context(safe_open(file, framework="numpy"))
        except FileNotFoundError as error:
            raise CipoError(f"{file}: no such file, but {_INDEX} names it") from error
        except (SafetensorError, OSError) as error:
            raise CipoError(
                f"{file}: not a complete safetensors file ({error}); fetch it again"
            ) from error

    if (directory / _SINGLE).exists():
        file = directory / _SINGLE
        handle = open_file(file)
        return {name: (file, handle.get_slice(name)) for name in handle.keys()}  # noqa: SIM118
    if not (directory / _INDEX).exists():
        raise CipoError(f"{directory}: wanted {_SINGLE} or {_INDEX}, found neither")
    weight_map = read_json(directory / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CipoError(f"{directory / _INDEX}: weight_map: wanted a map of tensor to file")
    handles = {name: open_file(directory / name) for name in sorted(set(weight_map.values()))}
    held = {name: set(handle.keys()) for name, handle in handles.items()}
    tensors = {}
    for tensor, name in weight_map.items():
        if tensor not in held[name]:
            raise CipoError(f"{directory / name}: lacks {tensor}, which {_INDEX} places there")
        tensors[tensor] = (directory / name, handles[name].get_slice(tensor))
    return tensors


def _check(
    directory: Path,
    config: ModelConfig,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    tensors: Mapping[str, tuple[Path, Any]],
) -> None:
    """Refuses a checkpoint whose tensors are not exactly the model's."""
    wanted = {
        name: _stored_shape(path, leaf.shape)
        for path, leaf in shapes.items()
        for name in _stored_names(path, config)
    }
    ignored = {"lm_head.weight"} if config.tie_embeddings else set()
    problems = [f"missing: {name} {list(wanted[name])}" for name in wanted if name not in tensors]
    for name, (file, stored) in tensors.items():
        if name in wanted:
            shape, dtype = tuple(stored.get_shape()), stored.get_dtype()
            if shape != wanted[name]:
                problems.append(
                    f"misshapen: {name} is {list(shape)} in {file.name}, "
                    f"wanted {list(wanted[name])}"
                )
            if dtype not in _DTYPES:
                problems.append(
                    f"dtype: {name} is {dtype} in {file.name}, wanted {' | '.join(_DTYPES)}"
                )
        elif name not in ignored and not name.endswith("rotary_emb.inv_freq"):
            problems.append(f"extra: {name} in {file.name}, which the model has no place for")
    if problems:
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise CipoError(
            f"{directory}: tensors do not fit its config.json:\n  "
            + "\n  ".join(problems[:10])
            + more
        )


# Writing.


def export_hf(
    params: Params,
    config: ModelConfig,
    directory: Path,
    source: Path | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes `directory` so that `transformers.AutoModelForCausalLM.from_pretrained` loads it.

    Tensors keep `config.param_dtype`. On several hosts all must call this; the first one writes.

    Args:
      directory: must not exist yet, or be empty.
      source: the checkpoint this model came from; its config.json, generation_config.json and
        tokenizer files are copied. Without it config.json is written from `config`.
      max_shard_bytes: a safetensors file holds at most this much, but at least one tensor; the
        host needs this much memory.

    Raises:
      CipoError: `directory` is in use, `source` describes another model, or no supported
        architecture has the features of `config`.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CipoError(f"export: {directory} is in use; give a directory that does not exist yet")
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    shapes = flax.traverse_util.flatten_dict(abstract_params(config), sep="/")
    got = {path: (x.shape, x.dtype) for path, x in flat.items()}
    if got != {path: (x.shape, x.dtype) for path, x in shapes.items()}:
        raise ValueError(f"params do not have the shapes and dtypes of {config}")
    hf_config = config_to_hf(config) if source is None else _source_config(source, config)
    writing = jax.process_index() == 0
    partial = directory.with_name(f".{directory.name}.partial")
    try:
        if writing:
            shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
            partial.mkdir(parents=True)
        _write_tensors(flat, config, partial if writing else None, max_shard_bytes)
        if writing:
            (partial / "config.json").write_text(json.dumps(hf_config, indent=2) + "\n")
            for name in _COPIED if source else ():
                if source and (source / name).exists():
                    shutil.copyfile(source / name, partial / name)
            partial.replace(directory)
    except BaseException:
        if writing:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _source_config(source: Path, config: ModelConfig) -> dict[str, Any]:
    """config.json of `source`, with the dtype that is written; `config` must describe the same."""
    file = source / "config.json"
    original = config_from_hf(
        source,
        param_dtype=config.param_dtype,
        compute_dtype=config.compute_dtype,
        remat=config.remat,
    )
    for field in dataclasses.fields(config):
        ours, theirs = getattr(config, field.name), getattr(original, field.name)
        if ours != theirs:
            raise CipoError(f"export: the model has {field.name}={ours!r}, {file} says {theirs!r}")
    values = read_json(file)
    values["torch_dtype" if "torch_dtype" in values else "dtype"] = config.param_dtype
    return values


def _write_tensors(
    flat: Mapping[str, jax.Array], config: ModelConfig, folder: Path | None, max_shard_bytes: int
) -> None:
    """Writes all tensors, layer by layer, and the index; `folder` None only takes part in
    gathering what other hosts hold."""
    shards: list[list[tuple[str, str, int | None]]] = [[]]
    sizes = [0]
    for name, path, layer in _in_stored_order(flat, config):
        size = flat[path].nbytes // (1 if layer is None else config.num_layers)
        if shards[-1] and sizes[-1] + size > max_shard_bytes:
            shards.append([])
            sizes.append(0)
        shards[-1].append((name, path, layer))
        sizes[-1] += size

    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        held = {}
        for name, path, layer in shard:
            value = _on_host(flat[path], layer)
            if folder is not None:
                held[name] = _stored_layout(path, value)
                weight_map[name] = file
        if folder is not None:
            # transformers refuses files without this mark.
            metadata = {"format": "pt"}
            save_file(held, folder / (file if len(shards) > 1 else _SINGLE), metadata)
    if folder is not None and len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
        (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _in_stored_order(
    flat: Mapping[str, Any], config: ModelConfig
) -> Iterator[tuple[str, str, int | None]]:
    """(stored name, parameter path, layer), embedding first, then layer by layer."""
    paths = [path for path in _TENSORS if path in flat]
    stacked = [path for path in paths if _stacked(path)]
    for path in paths:
        if path == stacked[0]:
            for layer in range(config.num_layers):
                for p in stacked:
                    yield _TENSORS[p][0].format(layer), p, layer
        if not _stacked(path):
            yield _TENSORS[path][0], path, None


@jax.jit
def _take_layer(x: jax.Array, layer: int) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, layer, keepdims=False)


def _on_host(x: jax.Array, layer: int | None) -> np.ndarray:
    """The whole array, or one layer of it, in host memory."""
    if layer is not None:
        x = _take_layer(x, layer)
    if not x.is_fully_addressable:
        return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)


# The correspondence of parameters and stored tensors.


def _stacked(path: str) -> bool:
    return path.startswith("layers/")


def _stored_names(path: str, config: ModelConfig) -> list[str]:
    template = _TENSORS[path][0]
    return [template.format(i) for i in range(config.num_layers)] if _stacked(path) else [template]


def _stored_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    shape = shape[1:] if _stacked(path) else shape
    return tuple(math.prod(shape[d] for d in group) for group in _TENSORS[path][1])


def _stored_layout(path: str, value: np.ndarray) -> np.ndarray:
    """One layer of a parameter as it is stored; contiguous, which `save_file` takes for granted."""
    dims = _TENSORS[path][1]
    shape = [math.prod(value.shape[d] for d in group) for group in dims]
    order = [d for group in dims for d in group]
    return np.ascontiguousarray(value.transpose(order).reshape(shape))
