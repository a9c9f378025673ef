"""Checkpoints: parity with transformers, exact round trips, and errors that name the culprit."""

import dataclasses
import functools
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
from safetensors.numpy import load_file, save_file

from cipo_jax.policy import hf_weights, model, sharding
from cipo_jax.policy.hf_weights import config_from_hf, export_hf, load_params
from cipo_jax.types import CipoError

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,  # shorter than the rows below
}
LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}
CASES = {
    "qwen3": ("qwen3", {}),
    "qwen3-tied": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3-biases": ("qwen3", {"attention_bias": True}),
    "qwen2": ("qwen2", {}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "llama": ("llama", {}),
    "llama-biases": ("llama", {"attention_bias": True}),
    "llama-llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama-linear-tied": ("llama", {"rope_parameters": LINEAR, "tie_word_embeddings": True}),
}
F32 = {"param_dtype": "float32", "compute_dtype": "float32", "remat": "none"}


def one_device() -> jax.sharding.Mesh:
    return sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])


def load(directory: Path, **dtypes: str) -> tuple[model.ModelConfig, model.Params]:
    config = config_from_hf(directory, **{**F32, **dtypes})
    return config, load_params(directory, config, one_device())


@functools.partial(jax.jit, static_argnums=0)
def logits(config, params, tokens, positions, segments) -> jax.Array:
    hidden, _ = model.hidden_states(config, params, tokens, positions, segments)
    return model.unembed(config, params, hidden)


def padded_rows(left: bool, vocab: int = 128) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tokens, positions, segments of rows of 60, 37 and 5 tokens, padded to 60: [3, 60] int32."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, vocab, (3, 60)).astype(np.int32)
    positions, segments = np.zeros_like(tokens), np.zeros_like(tokens)
    for row, length in enumerate((60, 37, 5)):
        real = slice(60 - length, 60) if left else slice(0, length)
        positions[row, real] = np.arange(length)
        segments[row, real] = 1
    return tokens, positions, segments


def assert_same_files(got: Path, wanted: Path) -> None:
    """The tensors of two checkpoint directories are equal: names, dtypes, bits."""
    read = [
        {k: v for file in sorted(d.glob("*.safetensors")) for k, v in load_file(file).items()}
        for d in (got, wanted)
    ]
    assert read[0].keys() == read[1].keys()
    for name, value in read[1].items():
        assert read[0][name].dtype == value.dtype, name
        np.testing.assert_array_equal(read[0][name], value, err_msg=name)


# Parity with transformers, round trips.


@pytest.mark.parametrize("case", CASES)
def test_parity_and_round_trip(case: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="parity needs torch: pip install cipo_jax[test]")
    import transformers

    architecture, overrides = CASES[case]
    source, exported = tmp_path / "source", tmp_path / "exported"
    network = tiny_models.save_tiny_model(source, architecture, **overrides)
    config, params = load(source)
    export_hf(params, config, exported, source)
    assert_same_files(exported, source)
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(exported).eval()

    for left in (False, True):
        tokens, positions, segments = padded_rows(left)
        ours = np.asarray(logits(config, params, tokens, positions, segments))
        for theirs_model in (network, reloaded):
            with torch.no_grad():
                theirs = theirs_model(
                    input_ids=torch.tensor(tokens).long(),
                    attention_mask=torch.tensor(segments).long(),
                    position_ids=torch.tensor(positions).long(),
                ).logits.numpy()
            real = segments > 0
            assert 1 < np.abs(theirs[real]).max() < 30  # neither trivially small nor saturated
            assert np.abs(ours[real] - theirs[real]).max() <= 2e-4


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
        {"qk_norm": False, "rope_scaling": model.RopeScaling("linear", 4.0)},
        {"qk_norm": False, "rope_scaling": model.RopeScaling("llama3", 8.0, 1.0, 4.0, 32)},
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

    torch = pytest.importorskip("torch", reason="parity needs torch")
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens, positions, segments = padded_rows(left=False)
    with torch.no_grad():
        theirs = network(torch.tensor(tokens[:1]).long()).logits.numpy()
    ours = logits(config, params, tokens[:1], positions[:1], segments[:1])
    assert np.abs(ours - theirs).max() <= 2e-4


# The shape of a read.


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_loads_onto_shards_reading_each_byte_once(
    sizes: tuple[int, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tiny_models.save_tiny_model_without_torch(tmp_path / "model")
    config, whole = load(tmp_path / "model")
    assert config == saved
    mesh = sharding.make_mesh(*sizes)
    read_bytes = []
    read = hf_weights._read

    def counted(*args):
        part = read(*args)
        read_bytes.append(part.nbytes)
        return part

    monkeypatch.setattr(hf_weights, "_read", counted)
    params = load_params(tmp_path / "model", config, mesh)
    jax.tree.map(np.testing.assert_array_equal, params, whole)
    jax.tree.map(
        lambda x, s: np.testing.assert_(x.sharding == s),
        params,
        model.param_shardings(config, mesh),
    )
    assert sum(read_bytes) == sum(x.nbytes for x in jax.tree.leaves(params))


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
from cipo_jax.policy import hf_weights, sharding
config = hf_weights.config_from_hf(folder / "model")
params = hf_weights.load_params(folder / "model", config, sharding.make_mesh(1, 2, 2))
assert not params["layers"]["q"].is_fully_addressable
hf_weights.export_hf(params, config, folder / "out", folder / "model", max_shard_bytes=50_000)
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
            env={"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[2])},
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


# Damaged checkpoints.


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_models.save_tiny_model_without_torch(tmp_path / "model")
    return tmp_path / "model"


def damage(directory: Path, change) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


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


# Export.


def test_export_copies_tokenizer_files_and_nothing_else(saved: Path, tmp_path: Path) -> None:
    config, params = load(saved)
    copied = {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    for name in (*copied, "notes.txt", "optimizer.pt"):
        (saved / name).write_text(f'{{"from": "{name}"}}')
    export_hf(params, config, tmp_path / "out", saved)
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == copied | {"config.json", "model.safetensors"}
    for name in copied:
        assert (tmp_path / "out" / name).read_text() == (saved / name).read_text()


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

    monkeypatch.setattr(hf_weights, "save_file", full_disk)
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
