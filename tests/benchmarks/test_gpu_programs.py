"""benchmarks/gpu_programs.py and one_accelerator_memory.py, as far as nothing is compiled."""

import dataclasses
import sys
from types import SimpleNamespace
from typing import Any

import jax
from places import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import gpu_programs  # noqa: E402
import one_accelerator_memory  # noqa: E402
from plan_memory import SHAPES  # noqa: E402

from cipo_jax.config.resolve import resolve  # noqa: E402
from cipo_jax.policy.model import ModelConfig  # noqa: E402
from cipo_jax.run.devices.chips import GPUS  # noqa: E402
from cipo_jax.run.devices.optimised_hlo import Work  # noqa: E402

SMALL = ModelConfig(**SHAPES["qwen2.5-0.5b"], compute_dtype="bfloat16")


def test_a_decode_step_reads_what_is_live() -> None:
    raw = gpu_programs.read_config("shortest")
    raw.sampling.slots, raw.sampling.cache_tokens = 16, 20_000
    raw.sampling.chunk = 32
    cache = 2 * 24 * 2 * 64 * 2 * 30_000  # of 30,000 tokens
    steps = Work(None, kernels=25 + 24 * 15, flops=1e9, bytes=24 * cache + 10**9)
    other = Work(None, kernels=5, flops=1.0, bytes=1)
    chunk = Work(1, kernels=20, bytes=32 * 1000, inner=(other, steps))
    gpu: Any = SimpleNamespace(device_kind=GPUS["l4"].kind)
    step = gpu_programs.decode_step(chunk, resolve(raw), SMALL, [gpu], cache)
    # 16 sequences of 2,048 tokens are more than the cache may hold by its settings.
    assert step["live_tokens"] == 20_000
    assert step["kernels"] == 25 + 24 * 15 and step["kernels_a_layer"] == step["kernels"] / 24
    # 2 heads of 64 in 24 layers, in bfloat16; the weights, of which the embedding is the head too.
    live = 20_000 * 2 * 24 * 2 * 64 * 2
    assert step["moved_bytes"] == 10**9 + live + 1000
    assert step["needed_bytes"] == 2 * 494_032_768 + live
    assert step["seconds_at_bandwidth"] == step["needed_bytes"] / 0.3e12


def test_lengths_and_sizes_are_those_of_a_run() -> None:
    config = resolve(gpu_programs.read_config("short"))
    sized, policy = gpu_programs.sized(config, SMALL, jax.devices()[:1])
    assert policy.longest_correction_prompt + policy.longest_completion == 512 + 84 + 2 * 2048
    assert sized.batch.row_tokens >= 512 + 84 + 2 * 2048 and sized.sampling.slots > 0


def test_what_cannot_fit_is_not_compiled() -> None:
    choices = [one_accelerator_memory.Choice("adamw", "float32", "full")]
    rows = one_accelerator_memory.rows_of("qwen3-4b", jax.devices()[:1], 59 * 2**30, choices, 1)
    (row,) = rows
    assert row["verdict"] == "no: with gradients 59.9 at least"
    assert dataclasses.asdict(choices[0]).items() <= row.items()
