"""transformers' `generate` on random weights of the same shape, in torch."""

import time
from typing import Any

from one_device.work import Work
from peers.turns import spread


def measure_peer(work: Work) -> list[dict[str, Any]]:
    """transformers' `generate` at `peer_rows` rows."""
    return [_measure(work)]


def _measure(work: Work) -> dict[str, Any]:
    import torch
    import transformers

    if work.platform == "gpu" and not torch.cuda.is_available():
        return {"skipped": f"torch {torch.__version__} finds no CUDA device"}
    if work.platform not in ("gpu", "cpu"):
        return {"skipped": f"torch {torch.__version__} is not tried on {work.platform}"}
    device = "cuda" if work.platform == "gpu" else "cpu"
    shape = work.shape
    config = transformers.Qwen3Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.d_model,
        intermediate_size=shape.mlp_dim,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=shape.tie_embeddings,
        max_position_embeddings=work.prompt + work.new,
    )
    dtype = getattr(torch, work.compute_dtype)
    with torch.device(device):
        network = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        ids = torch.randint(shape.vocab_size, (work.peer_rows, work.prompt))
    seconds = []
    for _ in range(1 + work.repeats):
        began = time.perf_counter()
        out = network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            max_new_tokens=work.new,
            eos_token_id=None,
            pad_token_id=0,
        )
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        assert out.shape[1] == work.prompt + work.new
    sampled = work.peer_rows * work.new
    return {
        "rows": work.peer_rows,
        "parameters": sum(p.numel() for p in network.parameters()),
        "tokens_per_second": spread([sampled / s for s in seconds[1:]]),
        "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
