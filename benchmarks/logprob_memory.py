"""Memory and time of log-probs and entropies: in blocks of tokens, against all logits at once.

    python benchmarks/logprob_memory.py            # about a minute
    python benchmarks/logprob_memory.py --json

Both are `model.token_logprobs`, forward and backward, of a model with one small layer and Qwen3's
vocabulary; in the naive version the block is as long as the row. Memory is what the compiler plans
for 4096 tokens; nothing is run. Time is measured at a size that a small machine can run; the ratio
compares neighbouring runs.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cipo_jax.policy import logprobs, model

PLANNED = {"V": 151_936, "T": 4096, "D": 2560}
TIMED = {"V": 32_768, "T": 2048, "D": 256}
REPETITIONS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--block", type=int, default=logprobs.BLOCK)
    parser.add_argument("--json", action="store_true", help="print one json object")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")

    results: dict[str, Any] = {"block": options.block, "planned_at": PLANNED, "timed_at": TIMED}
    for direction, make in (("forward", forward), ("backward", backward)):
        chunked = planned_bytes(make, options.block)
        naive = planned_bytes(make, PLANNED["T"])
        seconds = timed(make, options.block)
        results[direction] = {
            "chunked_bytes": chunked,
            "naive_bytes": naive,
            "memory_ratio": naive / chunked,
            "chunked_seconds": seconds[0],
            "naive_seconds": seconds[1],
            "time_ratio": seconds[0] / seconds[1],
        }
    if options.json:
        print(json.dumps(results))
        return
    print(f"blocks of {options.block} tokens; logits of a whole row: {_gib(4 * 4096 * 151_936)}")
    for direction in ("forward", "backward"):
        r = results[direction]
        print(
            f"{direction:9} temporaries {_gib(r['chunked_bytes'])} in blocks, "
            f"{_gib(r['naive_bytes'])} naive: 1/{r['memory_ratio']:.1f}\n"
            f"{'':9} time {r['chunked_seconds']:.2f} s in blocks, {r['naive_seconds']:.2f} s "
            f"naive: {r['time_ratio']:.2f} x"
        )


def forward(params: model.Params, config: model.ModelConfig, tokens: jax.Array) -> Any:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return model.token_logprobs(config, params, tokens, positions, jnp.ones_like(tokens))


def backward(params: model.Params, config: model.ModelConfig, tokens: jax.Array) -> Any:
    def loss(params: model.Params) -> jax.Array:
        logprobs, entropy = forward(params, config, tokens)
        return jnp.sum(logprobs) + 0.01 * jnp.sum(entropy)

    return jax.grad(loss)(params)


def planned_bytes(make: Callable[..., Any], block: int) -> int:
    """Temporaries of the compiled program at the planned size."""
    return _compiled(make, block, PLANNED).memory_analysis().temp_size_in_bytes


def timed(make: Callable[..., Any], block: int) -> tuple[float, float]:
    """Median seconds in blocks and of the naive program, run in turn."""
    config = _config(TIMED)
    params = model.init_params(config, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (1, TIMED["T"]), 0, TIMED["V"])
    programs = [_compiled(make, length, TIMED) for length in (block, TIMED["T"])]
    seconds: list[list[float]] = [[], []]
    for repetition in range(REPETITIONS + 1):
        for taken, program in zip(seconds, programs, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(program(params, tokens))
            if repetition:  # the first one warms up
                taken.append(time.perf_counter() - began)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def _config(size: dict[str, int]) -> model.ModelConfig:
    return model.ModelConfig(
        vocab_size=size["V"],
        num_layers=1,
        d_model=size["D"],
        num_heads=1,
        num_kv_heads=1,
        head_dim=16,
        mlp_dim=16,
        tie_embeddings=True,
        remat="full",
    )


def _compiled(make: Callable[..., Any], block: int, size: dict[str, int]) -> Any:
    config = _config(size)
    usual, logprobs.BLOCK = logprobs.BLOCK, block
    try:
        # A new function each time: traces of another block length must not be found again.
        program = jax.jit(lambda params, tokens: make(params, config, tokens))
        tokens = jax.ShapeDtypeStruct((1, size["T"]), jnp.int32)
        return program.lower(model.abstract_params(config), tokens).compile()
    finally:
        logprobs.BLOCK = usual


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


if __name__ == "__main__":
    main()
