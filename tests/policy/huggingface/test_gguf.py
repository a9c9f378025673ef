"""A GGUF file becomes the checkpoint that it was made of."""

from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_gguf import SIZES, write_gguf

from cipo_jax.policy.huggingface.config import config_from_hf
from cipo_jax.policy.huggingface.gguf import GGUFFile, write_checkpoint
from cipo_jax.policy.huggingface.load import load_params
from cipo_jax.policy.sharding import make_mesh
from cipo_jax.types import CipoError


def test_weights_and_config_are_those_of_the_file(tmp_path: Path) -> None:
    wanted = write_gguf(tmp_path / "m.gguf", tmp_path / "tokenizer")
    write_checkpoint(GGUFFile(tmp_path / "m.gguf"), tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert written.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(written[name], values, name)

    config = config_from_hf(tmp_path)
    assert (config.d_model, config.mlp_dim, config.num_layers) == (32, 64, 2)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (4, 2, 8)
    assert (config.norm_eps, config.rope_theta, config.max_positions) == (1e-5, 50_000.0, 512)
    assert config.tie_embeddings
    # No tensor is missing, left over or of another shape.
    load_params(tmp_path, config, make_mesh(1, 1, 1, devices=jax.devices()[:1]))


def test_an_own_head_is_taken(tmp_path: Path) -> None:
    vocabulary = len(write_gguf(tmp_path / "m.gguf", tmp_path / "t")["model.embed_tokens.weight"])
    head = np.ones((vocabulary, SIZES["width"]), np.float32)
    write_gguf(tmp_path / "m.gguf", tmp_path / "t", extra={"output.weight": head})
    write_checkpoint(GGUFFile(tmp_path / "m.gguf"), tmp_path)
    assert not config_from_hf(tmp_path).tie_embeddings
    assert load_file(tmp_path / "model.safetensors")["lm_head.weight"].all()


@pytest.mark.parametrize(
    ("metadata", "extra", "message"),
    [
        ({"general.architecture": "qwen2"}, (), "architecture: got 'qwen2', wanted 'llama'"),
        ({"llama.block_count": None}, (), "lack llama.block_count"),
        ({"llama.rope.scaling.type": "yarn"}, (), "llama.rope.scaling.type: scaled rotary"),
        ({}, ("rope_freqs.weight",), "rope_freqs.weight: scaled rotary"),
        ({}, ("blk.0.attn_q.bias",), "tensor blk.0.attn_q.bias: a Llama model has no place"),
    ],
)
def test_what_is_not_understood_is_refused(
    metadata: dict, extra: tuple, message: str, tmp_path: Path
) -> None:
    tensors = {name: np.ones(4, np.float32) for name in extra}
    write_gguf(tmp_path / "m.gguf", tmp_path / "t", metadata, tensors)
    with pytest.raises(CipoError, match=rf"m\.gguf: .*{message}"):
        write_checkpoint(GGUFFile(tmp_path / "m.gguf"), tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", tmp_path / "t")
    whole = (tmp_path / "m.gguf").read_bytes()
    for broken in (b"", b"no such format, and longer than a header", whole[:200], whole[:-500]):
        (tmp_path / "broken.gguf").write_bytes(broken)
        with pytest.raises(CipoError, match="broken.gguf: not a complete GGUF file"):
            GGUFFile(tmp_path / "broken.gguf")
