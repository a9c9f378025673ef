"""Reading checkpoints: each byte once, straight to its shard, and errors that name the culprit."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
import pytest
import tiny_models
from places import ROOT
from safetensors.numpy import load_file, save_file
from tiny_models import load

from cipo_jax.policy import model, sharding
from cipo_jax.policy.huggingface import load as hf_load
from cipo_jax.policy.huggingface.config import config_from_hf, config_to_hf
from cipo_jax.policy.huggingface.export import export_hf
from cipo_jax.policy.huggingface.load import load_params
from cipo_jax.policy.huggingface.weights import (
    EMBEDDING,
    HEAD,
    INDEX_FILE,
    in_stored_order,
    stored_shape,
)
from cipo_jax.types import CipoError


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4), (1, 2, 2, 2)])
def test_loads_onto_shards_reading_each_byte_once(
    sizes: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_models.save_tiny_model_without_torch(tmp_path / "model")
    assert config_from_hf(tmp_path / "model") == config
    mesh = sharding.make_mesh(*sizes)
    read_bytes = []
    read = hf_load._read

    def counted(*args):
        part = read(*args)
        read_bytes.append(part.nbytes)
        return part

    monkeypatch.setattr(hf_load, "_read", counted)
    params = load_params(tmp_path / "model", config, mesh)
    jax.tree.map(np.testing.assert_array_equal, params, tiny_models.tiny_params(config))
    jax.tree.map(
        lambda x, s: np.testing.assert_(x.sharding == s),
        params,
        model.param_shardings(config, mesh),
    )
    assert sum(read_bytes) == sum(x.nbytes for x in jax.tree.leaves(params))


MEASURE = """
import gc, re, sys, threading, time
from pathlib import Path
import jax
from cipo_jax.policy import model, sharding
from cipo_jax.policy.huggingface import config as hf_config, load as hf_load

def resident():  # without the pages of mapped files, which the system may drop
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", status)[1])

directory = Path(sys.argv[1])
config = hf_config.config_from_hf(directory)
mesh = sharding.make_mesh(1, 1, 1)
size = sum(x.nbytes for x in jax.tree.leaves(hf_load.load_params(directory, config, mesh)))
gc.collect()  # what that has compiled stays, and is no part of the measurement
before, peak = resident(), 0
done = threading.Event()

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, resident())
        time.sleep(0.001)

watcher = threading.Thread(target=watch)
watcher.start()
params = hf_load.load_params(directory, config, mesh)
done.set()
watcher.join()
print(peak - before - size)
"""


@pytest.mark.slow
def test_the_host_holds_one_layer_at_a_time(tmp_path: Path) -> None:
    config = dataclasses.replace(
        tiny_models.TINY_CONFIG, num_layers=64, d_model=256, mlp_dim=1024, vocab_size=512
    )
    shapes = flax.traverse_util.flatten_dict(model.abstract_params(config), sep="/")
    ones = {
        name: np.ones(stored_shape(path, shapes[path].shape[layer is not None :]), np.float32)
        for name, path, layer in in_stored_order(shapes, config)
    }
    save_file(ones, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(config)))
    del ones
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        # Every block of a stored tensor's size goes back to the system when it is freed.
        env={
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
            "MALLOC_MMAP_THRESHOLD_": str(2**19),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    stored = 4 * 256 * 1024  # bytes; the stacked parameter is 64 times that
    assert int(run.stdout) < 16 * stored, run.stdout


# Damaged checkpoints.


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_models.save_tiny_model_without_torch(tmp_path / "model")
    return tmp_path / "model"


def damage(directory: Path, change) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


UP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.layers.2.self_attn.q_norm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(UP), rf"missing: {UP} \[48, 32\]"),
        (lambda t: t.update({"model.extra": t[UP]}), "extra: model.extra in model.safetensors"),
        (lambda t: t.update({UP: t[UP].T.copy()}), rf"misshapen: {UP} is \[32, 48\].*\[48, 32\]"),
        (lambda t: t.update({NORM: t[NORM][:1]}), rf"misshapen: {NORM} is \[1\].*\[16\]"),
        (lambda t: t.update({UP: t[UP].astype(np.int8)}), f"dtype: {UP} is I8.*F32"),
        (lambda t: [t.pop(k) for k in list(t) if "mlp" not in k], "missing:(.|\n)*and [0-9]+ more"),
    ],
    ids=["missing", "extra", "misshapen", "misshapen-vector", "dtype", "many"],
)
def test_tensors_that_do_not_fit_are_named(change, message: str, saved: Path) -> None:
    damage(saved, change)
    with pytest.raises(CipoError, match=message):
        load(saved)


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    neither = "wanted model.safetensors or model.safetensors.index.json, found neither"
    with pytest.raises(CipoError, match=f"{neither}$"):
        hf_load.require_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(CipoError, match=f"{neither}; save weights of torch again"):
        hf_load.require_weights(tmp_path)
    (tmp_path / "model.safetensors").touch()
    hf_load.require_weights(tmp_path)


def test_harmless_tensors_are_ignored(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    tiny_models.save_tiny_model_without_torch(directory, tie_embeddings=True)
    _, before = load(directory)
    damage(
        directory,
        lambda t: t.update(
            {
                "lm_head.weight": t["model.embed_tokens.weight"],
                "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
            }
        ),
    )
    _, after = load(directory)
    jax.tree.map(np.testing.assert_array_equal, before, after)


def save_tied(directory: Path, architecture: str, sharded: bool, change) -> None:
    """A checkpoint that config.json calls tied, with other tensors; one file or several."""
    network = tiny_models.save_tiny_model(directory, architecture, tie_word_embeddings=True)
    assert set(load_file(directory / "model.safetensors")) == set(network.state_dict()) - {HEAD}
    damage(directory, change)
    if sharded:
        file = directory / "model.safetensors"
        weight_map = {}
        for i, (name, tensor) in enumerate(load_file(file).items()):
            weight_map[name] = f"model-{i % 3}.safetensors"
            part = directory / weight_map[name]
            known = load_file(part) if part.exists() else {}
            save_file(known | {name: tensor}, part, {"format": "pt"})
        (directory / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        file.unlink()


def add_head(tensors: dict) -> None:
    tensors[HEAD] = np.roll(tensors[EMBEDDING], 1, axis=0)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("architecture", ["qwen3", "gemma3"])
def test_a_head_of_its_own_is_used_whatever_the_config_says(
    architecture: str, sharded: bool, tmp_path: Path
) -> None:
    """As transformers 5 does; and it is exported with a config that says so."""
    source, exported = tmp_path / "source", tmp_path / "exported"
    save_tied(source, architecture, sharded, add_head)
    config, params = load(source)
    assert not config.tie_embeddings
    tiny_models.assert_transformers_agrees(source, config, params)
    export_hf(params, config, exported, source)
    tiny_models.assert_same_files(exported, source)
    assert json.loads((exported / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update({HEAD: t[EMBEDDING]}),
        lambda t: t.update({HEAD: t.pop(EMBEDDING)}),  # one tensor under the head's name
    ],
    ids=["copy", "only head"],
)
def test_a_head_that_is_the_embedding_is_tied(change, tmp_path: Path) -> None:
    save_tied(tmp_path, "qwen3", False, change)
    config, params = load(tmp_path)
    assert config.tie_embeddings and "head" not in params
    tiny_models.assert_transformers_agrees(tmp_path, config, params)


def test_untied_model_needs_its_head(saved: Path) -> None:
    damage(saved, lambda t: t.pop("lm_head.weight"))
    with pytest.raises(CipoError, match="missing: lm_head.weight"):
        load(saved)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_truncated_file(keep: int, saved: Path) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CipoError, match="model.safetensors: not a complete safetensors file"):
        load(saved)


def test_damaged_sets_of_files(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    config = tiny_models.TINY_CONFIG
    export_hf(tiny_models.tiny_params(config), config, directory, max_shard_bytes=50_000)
    last = sorted(directory.glob("*.safetensors"))[-1]
    content = last.read_bytes()

    last.write_bytes(content[:-8])
    with pytest.raises(CipoError, match=f"{last.name}: not a complete"):
        load(directory)
    save_file({"something": np.zeros(1)}, last)
    with pytest.raises(CipoError, match=f"{last.name}: lacks .*, which .*index.json places there"):
        load(directory)
    last.unlink()
    with pytest.raises(CipoError, match=f"{last.name}: no such file"):
        load(directory)
    (directory / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CipoError, match="index.json: weight_map"):
        load(directory)
    (directory / "model.safetensors.index.json").unlink()
    with pytest.raises(CipoError, match="wanted model.safetensors or"):
        load(directory)
