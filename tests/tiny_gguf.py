"""A small Llama as a GGUF file, written by the `gguf` package as llama.cpp's converter does."""

from pathlib import Path

import gguf
import numpy as np
from tiny_hf import CHAT_TEMPLATE, make_tokenizer

from cipo_jax.policy.huggingface.json_files import read_json

SIZES = {"width": 32, "mlp": 64, "layers": 2, "heads": 4, "kv_heads": 2, "positions": 512}
_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def token_metadata(directory: Path) -> dict:
    """The GGUF metadata of a tokenizer that `tiny_hf.make_tokenizer` wrote, by key."""
    model = read_json(directory / "tokenizer.json")
    tokens = dict(sorted((i, token) for token, i in model["model"]["vocab"].items()))
    kinds = dict.fromkeys(tokens, 1)
    for added in model["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = 3 if added["special"] else 4
    ids = {token: i for i, token in tokens.items()}
    prefix = "tokenizer.ggml"
    return {
        f"{prefix}.model": "gpt2",
        f"{prefix}.pre": "gpt-2",
        f"{prefix}.tokens": [tokens[i] for i in range(len(tokens))],
        f"{prefix}.token_type": [kinds[i] for i in range(len(tokens))],
        f"{prefix}.merges": [" ".join(pair) for pair in model["model"]["merges"]],
        f"{prefix}.eos_token_id": ids["<|im_end|>"],
        f"{prefix}.padding_token_id": ids["<|endoftext|>"],
        f"{prefix}.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def make_tensors(vocab_size: int) -> dict[str, np.ndarray]:
    """Random weights under their Hugging Face names, embeddings tied."""
    rng = np.random.default_rng(0)
    d, f = SIZES["width"], SIZES["mlp"]
    kv = d // SIZES["heads"] * SIZES["kv_heads"]
    matrices = {"q": (d, d), "k": (kv, d), "v": (kv, d), "o": (d, d)}
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (vocab_size, d), "norm": (d,)}
    for i in range(SIZES["layers"]):
        at = f"layers.{i}"
        shapes |= {f"{at}.self_attn.{name}_proj": shape for name, shape in matrices.items()}
        shapes |= {f"{at}.mlp.gate_proj": (f, d), f"{at}.mlp.up_proj": (f, d)}
        shapes |= {f"{at}.mlp.down_proj": (d, f)}
        shapes |= {f"{at}.{name}_layernorm": (d,) for name in ("input", "post_attention")}
    return {
        f"model.{name}.weight": rng.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_gguf(
    file: Path,
    tokenizer: Path,
    metadata: dict | None = None,
    extra: dict[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Writes a model; returns its weights as float32 under their Hugging Face names.

    The embedding is quantised to 8 bits. The tokenizer is made in the directory `tokenizer`.

    Args:
      metadata: replaces values, None leaves a key out.
      extra: further tensors, by their GGUF names.
    """
    make_tokenizer(tokenizer)
    tokens = token_metadata(tokenizer)
    tensors = make_tensors(len(tokens["tokenizer.ggml.tokens"]))
    values = {
        "llama.context_length": SIZES["positions"],
        "llama.embedding_length": SIZES["width"],
        "llama.feed_forward_length": SIZES["mlp"],
        "llama.block_count": SIZES["layers"],
        "llama.attention.head_count": SIZES["heads"],
        "llama.attention.head_count_kv": SIZES["kv_heads"],
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 50_000.0,
        **tokens,
        **(metadata or {}),
    }
    writer = gguf.GGUFWriter(file, values.pop("general.architecture", "llama"))
    for key, value in values.items():
        add = {
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
            list: writer.add_array,
        }
        if value is not None:
            add[type(value)](key, value)
    for name, array in tensors.items():
        if name == "model.embed_tokens.weight":
            kind = gguf.GGMLQuantizationType.Q8_0
            packed = gguf.quants.quantize(array, kind)
            writer.add_tensor("token_embd.weight", packed, raw_dtype=kind)
            tensors[name] = gguf.quants.dequantize(packed, kind)
            continue
        part = name.removeprefix("model.").removesuffix(".weight")
        if part == "norm":
            writer.add_tensor("output_norm.weight", array)
            continue
        _, layer, part = part.split(".", 2)
        heads = {"attn_q": SIZES["heads"], "attn_k": SIZES["kv_heads"]}.get(_NAMES[part])
        if heads:  # llama.cpp's order of rows
            rows, columns = array.shape
            halves = array.reshape(heads, 2, rows // heads // 2, columns)
            array = halves.swapaxes(1, 2).reshape(rows, columns)
        writer.add_tensor(f"blk.{layer}.{_NAMES[part]}.weight", array)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors
