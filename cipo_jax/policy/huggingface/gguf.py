"""Reading a GGUF file (llama.cpp's format) of a Llama model, and writing it as a checkpoint.

Quantised tensors are written as float32: exactly what the file holds, which is less than what was
quantised. The `gguf` package (the extra "real") reads the file. Not decided here: the tokenizer
(`data/gguf_tokenizer`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from cipo_jax.policy.huggingface.weights import SINGLE_FILE
from cipo_jax.types import CipoError

_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_OF_A_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# In our names: config.json's key -> the file's, behind the architecture's name.
_SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
}
_TOKENS = "tokenizer.ggml.tokens"


class GGUFFile:
    """An open GGUF file.

    Attributes:
      metadata: its keys and values.

    Raises:
      CipoError: the `gguf` package is not installed, or cannot read the file.
    """

    def __init__(self, file: Path) -> None:
        try:
            import gguf  # needed for nothing else
        except ImportError as error:
            raise CipoError(
                f"{file}: GGUF files are read by the package gguf, which is not installed; "
                "pip install -c constraints.txt -e '.[real]'"
            ) from error
        self._dequantize = gguf.quants.dequantize
        try:
            self._reader = gguf.GGUFReader(file)
            fields = self._reader.fields.items()
            self.metadata: dict[str, Any] = {key: field.contents() for key, field in fields}
        except (OSError, ValueError, IndexError, KeyError) as error:
            raise CipoError(f"{file}: not a complete GGUF file: {error}") from error
        self.path = file

    def names(self) -> list[str]:
        """The names of all tensors."""
        return [tensor.name for tensor in self._reader.tensors]

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, float32 array) of each tensor; matrices are [outputs, inputs]."""
        for tensor in self._reader.tensors:
            values = self._dequantize(tensor.data, tensor.tensor_type)
            # GGUF lists dimensions from the innermost one.
            yield tensor.name, values.reshape([int(n) for n in reversed(tensor.shape)])


def write_checkpoint(file: GGUFFile, directory: Path) -> None:
    """Writes config.json, generation_config.json and the weights into `directory`, which exists.

    Raises:
      CipoError: another architecture than Llama, missing metadata, or a tensor that Llama has not.
    """
    config = _config(file)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    stored = {name: _stored_name(file.path, name) for name in file.names()}
    tensors = {}
    for name, values in file.tensors():
        part = name.split(".")[2] if name.startswith("blk.") else ""
        if part in heads:
            values = _from_pairs(values, heads[part])
        tensors[stored[name]] = np.ascontiguousarray(values, np.float32)
    # transformers refuses files without this mark.
    save_file(tensors, directory / SINGLE_FILE, {"format": "pt"})
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, content in (("config.json", config), ("generation_config.json", special)):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n")


def _config(file: GGUFFile) -> dict[str, Any]:
    """config.json."""
    metadata = file.metadata

    def read(key: str) -> Any:
        if key not in metadata:
            raise CipoError(f"{file.path}: its metadata lack {key}")
        return metadata[key]

    architecture = read("general.architecture")
    if architecture != "llama":
        raise CipoError(f"{file.path}: general.architecture: got {architecture!r}, wanted 'llama'")
    scaled = [key for key in metadata if key.startswith("llama.rope.scaling.")]
    if scaled or "rope_freqs.weight" in file.names():
        found = scaled[0] if scaled else "rope_freqs.weight"
        raise CipoError(f"{file.path}: {found}: scaled rotary positions are not supported")
    sizes = {key: int(read(f"llama.{theirs}")) for key, theirs in _SIZES.items()}
    width = sizes["hidden_size"] // sizes["num_attention_heads"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **sizes,
        "vocab_size": len(read(_TOKENS)),
        "head_dim": int(metadata.get("llama.attention.key_length", width)),
        "hidden_act": "silu",
        # Stored as float32; 1e-05 is meant.
        "rms_norm_eps": float(f"{read('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": float(metadata.get("llama.rope.freq_base", 10_000.0)),
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": "output.weight" not in file.names(),
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
        "dtype": "float32",
    }


def _stored_name(path: Path, name: str) -> str:
    """The name of a tensor in a Hugging Face checkpoint."""
    if name in _WHOLE:
        return _WHOLE[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _OF_A_LAYER and parts[3] == "weight":
        return f"model.layers.{parts[1]}.{_OF_A_LAYER[parts[2]]}.weight"
    raise CipoError(f"{path}: tensor {name}: a Llama model has no place for it")


def _from_pairs(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k in Hugging Face's order. GGUF's Llama rotates neighbouring rows of a head with
    each other, Hugging Face's a row of the first half with one of the second."""
    rows, columns = values.shape
    pairs = values.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)
