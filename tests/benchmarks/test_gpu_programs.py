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


def test_a_decode_step_turns_over_the_live_pages() -> None:
    raw = gpu_programs.read_config("shortest")
    raw.sampling.slots, raw.sampling.cache_tokens = 16, 20_000
    walk = Work(None, kernels=15, flops=1.0, bytes=1000)
    layers = Work(24, kernels=33, flops=1e9, bytes=10_000, inner=(walk,))
    other = Work(None, kernels=5, flops=1.0, bytes=1)
    steps = Work(None, kernels=25, flops=1e9, bytes=7, inner=(layers,))
    chunk = Work(1, kernels=20, inner=(other, steps))
    gpu: Any = SimpleNamespace(device_kind=GPUS["l4"].kind)
    step = gpu_programs.decode_step(chunk, resolve(raw), SMALL, [gpu])
    # 16 sequences of 2,048 tokens are more than the cache holds: 313 pages of 64, 32 at a time.
    assert (step["live_tokens"], step["turns"]) == (20_000, 10)
    assert step["kernels_a_layer"] == 33 + 10 * 15
    assert step["kernels"] == 25 + 24 * (33 + 10 * 15)
    assert step["moved_bytes"] == 7 + 24 * (10_000 + 10 * 1000)
    # Weights, of which the embedding is the head too, and 2 heads of 64 in 24 layers, in bfloat16.
    assert step["needed_bytes"] == 2 * 494_032_768 + 20_000 * 2 * 24 * 2 * 64 * 2
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
