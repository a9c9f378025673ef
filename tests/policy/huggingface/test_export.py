"""Writing checkpoints: exact round trips, and nothing half-written."""

import dataclasses
import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from places import ROOT
from safetensors.numpy import save_file
from tiny_models import assert_same_files, load

from cipo_jax.policy import sharding
from cipo_jax.policy.config import RopeScaling
from cipo_jax.policy.huggingface import export as hf_export
from cipo_jax.policy.huggingface.export import export_hf
from cipo_jax.policy.huggingface.load import load_params
from cipo_jax.types import CipoError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_models.save_tiny_model_without_torch(tmp_path / "model")
    return tmp_path / "model"


# Round trips.


def test_checkpoint_in_several_files(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="writes the checkpoint with transformers")
    network = tiny_models.tiny_transformer("qwen3", seed=1)
    network.save_pretrained(tmp_path / "one")
    network.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    config, one = load(tmp_path / "one")
    _, many = load(tmp_path / "many")
    jax.tree.map(np.testing.assert_array_equal, one, many)
    export_hf(many, config, tmp_path / "out", tmp_path / "many", max_shard_bytes=20_000)
    assert_same_files(tmp_path / "out", tmp_path / "many")


def test_bfloat16_keeps_every_bit(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tiny_models.save_tiny_model_without_torch(source, param_dtype="bfloat16")
    config, params = load(source, param_dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    export_hf(params, config, tmp_path / "out", source)
    assert_same_files(tmp_path / "out", source)
    _, wide = load(source, param_dtype="float32")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.astype("float32"), b), params, wide)


def test_export_states_the_dtype_it_wrote(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tiny_models.save_tiny_model_without_torch(source, param_dtype="bfloat16")
    config, params = load(source, param_dtype="float32")
    export_hf(params, config, tmp_path / "out", source)
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": True, "norm_eps": 1e-5, "rope_theta": 5e5},
        {"attention_bias": True, "attention_out_bias": True},
        {"qk_norm": False, "attention_bias": True, "head_dim": 8},
        {"qk_norm": False, "rope_scaling": RopeScaling("linear", 4.0)},
        {"qk_norm": False, "rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 32)},
    ],
    ids=lambda c: "-".join(c) or "plain",
)
def test_export_without_source(changes: dict, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny_models.TINY_CONFIG, **changes)
    params = tiny_models.tiny_params(config)
    export_hf(params, config, tmp_path / "out", max_shard_bytes=50_000)
    again, loaded = load(tmp_path / "out")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)

    pytest.importorskip("torch", reason="parity needs torch")
    tiny_models.assert_transformers_agrees(tmp_path / "out", config, params)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 2, 4)])
def test_exports_from_shards(sizes: tuple[int, int, int], tmp_path: Path) -> None:
    config = tiny_models.save_tiny_model_without_torch(tmp_path / "model")
    params = load_params(tmp_path / "model", config, sharding.make_mesh(*sizes))
    export_hf(params, config, tmp_path / "out")
    assert_same_files(tmp_path / "out", tmp_path / "model")


TWO_HOSTS = """
import sys
from pathlib import Path
import jax
port, host, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"localhost:{port}", 2, host)
from cipo_jax.policy import sharding
from cipo_jax.policy.huggingface import config as hf_config, export as hf_export, load as hf_load
config = hf_config.config_from_hf(folder / "model")
params = hf_load.load_params(folder / "model", config, sharding.make_mesh(1, 2, 2))
assert not params["layers"]["q"].is_fully_addressable
hf_export.export_hf(params, config, folder / "out", folder / "model", max_shard_bytes=50_000)
"""


@pytest.mark.slow
def test_two_hosts(tmp_path: Path) -> None:
    tiny_models.save_tiny_model_without_torch(tmp_path / "model")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_HOSTS, port, str(host), str(tmp_path)],
            env={"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for host in (0, 1)
    ]
    try:
        for host in hosts:
            _, log = host.communicate(timeout=200)
            assert host.returncode == 0, log
    finally:
        for host in hosts:
            host.kill()
    assert_same_files(tmp_path / "out", tmp_path / "model")


# What is written, and what is refused.


def test_added_files_are_there_when_the_directory_is(saved: Path, tmp_path: Path) -> None:
    config, params = load(saved)

    def add_files(directory: Path) -> None:
        assert not (tmp_path / "out").exists()
        (directory / "tokenizer.json").write_text("{}")

    export_hf(params, config, tmp_path / "out", saved, add_files=add_files)
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {"config.json", "model.safetensors", "tokenizer.json"}


def test_export_leaves_nothing_half_written(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, params = load(saved)
    calls = []

    def full_disk(*args):
        calls.append(args)
        if len(calls) == 3:
            raise OSError("no space left")
        return save_file(*args)

    monkeypatch.setattr(hf_export, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        export_hf(params, config, tmp_path / "out", max_shard_bytes=20_000)
    assert {p.name for p in tmp_path.iterdir()} == {"model"}


def test_export_takes_over_what_a_killed_one_left(saved: Path, tmp_path: Path) -> None:
    config, params = load(saved)
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial/model-00001-of-00009.safetensors").write_text("half")
    export_hf(params, config, tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"model", "out"}
    assert_same_files(tmp_path / "out", saved)


def test_export_refusals(saved: Path, tmp_path: Path) -> None:
    config, params = load(saved)
    with pytest.raises(CipoError, match="is in use"):
        export_hf(params, config, saved)
    tiny_models.rewrite_config(saved, rms_norm_eps=1e-5)
    with pytest.raises(CipoError, match="norm_eps=1e-06, .*config.json says 1e-05"):
        export_hf(params, config, tmp_path / "out", saved)
    odd = dataclasses.replace(config, attention_bias=True)  # Qwen3 has all biases or none
    with pytest.raises(CipoError, match="no architecture of .* attention_bias=True"):
        export_hf(tiny_models.tiny_params(odd), odd, tmp_path / "out")
    with pytest.raises(ValueError, match="do not have the shapes"):
        export_hf(params, dataclasses.replace(config, mlp_dim=64), tmp_path / "out")
    assert not (tmp_path / "out").exists()
