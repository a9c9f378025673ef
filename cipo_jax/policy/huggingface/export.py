"""Writing a Hugging Face checkpoint from parameters.

Files go to a temporary directory that is renamed at the end: one with the final name is complete.
Not decided here: names and layouts of tensors (`weights`), what config.json says (`config`), which
parameters are exported, tokenizer files.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from jax.experimental import multihost_utils
from safetensors.numpy import save_file

from cipo_jax.policy.huggingface.config import config_from_hf, config_to_hf
from cipo_jax.policy.huggingface.json_files import read_json
from cipo_jax.policy.huggingface.weights import (
    INDEX_FILE,
    SINGLE_FILE,
    in_stored_order,
    stored_layout,
)
from cipo_jax.policy.model import ModelConfig, Params, abstract_params
from cipo_jax.types import CipoError


def export_hf(
    params: Params,
    config: ModelConfig,
    directory: Path,
    source: Path | None = None,
    max_shard_bytes: int = 5_000_000_000,
    add_files: Callable[[Path], None] | None = None,
) -> None:
    """Writes `directory` so that `transformers.AutoModelForCausalLM.from_pretrained` loads it.

    Tensors keep `config.param_dtype`. On several hosts all must call this; the first one writes.

    Args:
      directory: must not exist yet, or be empty.
      source: the checkpoint this model came from, whose config.json is kept except for the dtype,
        and for tied embeddings that are not; None: config.json is written from `config`.
      max_shard_bytes: a safetensors file holds at most this much, but at least one tensor; the
        host needs this much memory.
      add_files: puts other files (of the tokenizer) into the directory it is given, before the
        renaming.

    Raises:
      CipoError: `directory` is in use, `source` describes another model, or no supported
        architecture has the features of `config`.
    """
    require_unused(directory)
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
            if add_files is not None:
                add_files(partial)
            partial.replace(directory)
    except BaseException:
        if writing:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def require_unused(directory: Path) -> None:
    """Raises `CipoError` if there is anything at `directory` that an export would overwrite."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CipoError(f"export: {directory} is in use; give a directory that does not exist yet")


def _source_config(source: Path, config: ModelConfig) -> dict[str, Any]:
    """config.json of `source`, with the dtype that is written; `config` must describe the same."""
    file = source / "config.json"
    names = ("param_dtype", "compute_dtype", "remat", "unroll")
    original = config_from_hf(source, **{name: getattr(config, name) for name in names})
    for field in dataclasses.fields(config):
        ours, theirs = getattr(config, field.name), getattr(original, field.name)
        if ours != theirs:
            raise CipoError(f"export: the model has {field.name}={ours!r}, {file} says {theirs!r}")
    values = read_json(file)
    if not config.tie_embeddings and values.get("tie_word_embeddings") is not False:
        values["tie_word_embeddings"] = False  # the files hold two
    values["torch_dtype" if "torch_dtype" in values else "dtype"] = config.param_dtype
    return values


def _write_tensors(
    flat: Mapping[str, jax.Array], config: ModelConfig, folder: Path | None, max_shard_bytes: int
) -> None:
    """Writes all tensors, layer by layer, and the index; with `folder` None, a host only takes part
    in gathering them."""
    shards: list[list[tuple[str, str, int | None]]] = [[]]
    sizes = [0]
    for name, path, layer in in_stored_order(flat, config):
        size = flat[path].nbytes // (1 if layer is None else config.num_layers)
        if shards[-1] and sizes[-1] + size > max_shard_bytes:
            shards.append([])
            sizes.append(0)
        shards[-1].append((name, path, layer))
        sizes[-1] += size

    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if shards[1:] else SINGLE_FILE
        tensors = {}
        for name, path, layer in shard:
            value = _on_host(flat[path], layer)
            if folder is not None:
                tensors[name] = stored_layout(path, value)
                weight_map[name] = file
        if folder is not None:
            # transformers refuses files without this mark.
            save_file(tensors, folder / file, {"format": "pt"})
    if folder is not None and len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")


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
