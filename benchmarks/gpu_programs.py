"""A run's programs, compiled for GPUs without having one: memory, kernels, bytes, collectives.

    export JAX_PLATFORMS=cpu
    python benchmarks/gpu_programs.py --gpus=h100:1 --model=qwen3-4b
    python benchmarks/gpu_programs.py --gpus=h100:8 --model=llama-8b --programs=decode
    python benchmarks/gpu_programs.py --gpus=l4:1 --model=qwen2.5-0.5b

Needs the cuda extra, no GPU and no driver. Nothing is run, so there are no times. Models of some
billion parameters have the lengths of configs/math.py; small ones prompts of 512 tokens and
completions of 1,024, corrected whole. Sizes are those that a run derives (run/sizes.py). The
output:

    memory       of one GPU, as the compiler plans it: arguments and temporaries. With less than
                 that the program cannot run; the compiler itself refuses none
    kernels      launched by the host, loop by loop, and what each loop's turn computes and moves.
                 CUDA graphs, which XLA makes of some of them when it runs, do not show
    collectives  counts and bytes of the results, by depth in loops: 0 once per call, 1 the loop
                 over microbatches (or decode steps), 2 over layers, 3 within a layer
    decode       a step with 2,048 live tokens a sequence, or what the cache holds: kernels in all
                 and a layer, bytes moved (live keys and values once, and the step's share of what
                 a chunk moves once) over the bytes that it has to read (weights, live keys and
                 values), and the time that those take at the memory's bandwidth

Products of matrices are tuned on the GPU itself; compiled here, XLA takes its first choice.
"""

import argparse
import dataclasses
import json
import math
import runpy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from plan_memory import SHAPES
from tpu_programs import GIB, LIVE_TOKENS, decode_roofline, print_collectives
from tpu_programs import Slice as Devices

from cipo_jax.config.keys import Config
from cipo_jax.config.resolve import resolve
from cipo_jax.policy import sharding
from cipo_jax.policy.model import ModelConfig
from cipo_jax.run.devices.chips import CHIPS
from cipo_jax.run.devices.memory import device_memory
from cipo_jax.run.devices.optimised_hlo import Work, collectives, parse, work
from cipo_jax.run.devices.topology import topology_devices
from cipo_jax.run.forecast.counts import step_bytes
from cipo_jax.run.memory_plan import planned_bytes
from cipo_jax.run.sizes import with_sizes
from cipo_jax.run.update import Policy, bytes_per_device, make_policy_update, make_score
from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.programs import abstract_cache, lower_decode, lower_prefill
from cipo_jax.sampling.settings import EngineSettings, prefill_widths

PROGRAMS = ("update", "decode", "prefill")
SMALL = 1024  # width of the models with the shortest lengths, at most
# Tokens of prompts and of completions, where they are not those of configs/math.py.
LENGTHS = {"short": (512, 2048), "shortest": (512, 1024)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gpus", default="h100:1", help="as --topology of --mode=preflight")
    parser.add_argument("--model", choices=SHAPES, default="qwen3-4b")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help="comma-separated")
    parser.add_argument("--param-dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--optimizer", default="adamw", help="as config.optimizer.name")
    parser.add_argument("--slots", type=int, default=0, help="0: derived")
    parser.add_argument("--cache-tokens", type=int, default=0, help="0: derived")
    parser.add_argument("--json", action="store_true", help="print one json object")
    options = parser.parse_args(argv)
    devices = topology_devices(options.gpus)
    raw = read_config("shortest" if SHAPES[options.model]["d_model"] <= SMALL else "full")
    raw.model.param_dtype, raw.optimizer.name = options.param_dtype, options.optimizer
    raw.sampling.slots, raw.sampling.cache_tokens = options.slots, options.cache_tokens
    shape = ModelConfig(
        **SHAPES[options.model],
        param_dtype=raw.model.param_dtype,
        compute_dtype=raw.model.compute_dtype,
        remat=raw.model.remat,
    )
    config, policy = sized(resolve(raw), shape, devices)
    report: dict[str, Any] = {"gpus": options.gpus, "model": options.model}
    memory = device_memory(devices[0])
    assert memory is not None
    report["sizes"] = {
        "row_tokens": config.batch.row_tokens,
        "microbatch_rows": config.batch.microbatch_rows,
        "slots": config.sampling.slots,
        "cache_tokens": config.sampling.cache_tokens,
        "tensor": config.sampling.tensor,
        "device_bytes": memory.bytes,
    }
    if not options.json:
        print(f"{options.model} on {options.gpus}, {memory.bytes / GIB:.1f} GiB ({memory.source})")
        print("  " + ", ".join(f"{k} {v:,}" for k, v in report["sizes"].items()))
    for name in options.programs.split(","):
        done, report[name] = examine(lower(name, config, policy, devices))
        if name == "decode":
            cache = abstract_cache(policy.model, *sampler(config, policy, devices))
            cache_bytes = bytes_per_device(cache)
            report["step"] = decode_step(done, config, shape, devices, cache_bytes)
        if not options.json:
            print_program(name, report[name], done)
    if options.json:
        print(json.dumps(report))
    elif "step" in report:
        print_step(report["step"])


def read_config(lengths: str) -> Any:
    """configs/math.py, with the lengths of `LENGTHS`."""
    file = Path(__file__).parents[1] / "configs" / "math.py"
    raw = runpy.run_path(str(file))["get_config"]()
    if lengths != "full":
        raw.data.max_prompt_tokens, most = LENGTHS[lengths]
        raw.data.max_attempt_tokens = raw.data.max_completion_tokens = most
        raw.rollout.problems_per_step = 32
    return raw


def sized(config: Config, shape: ModelConfig, devices: list[Any]) -> tuple[Config, Policy]:
    """The config with its open sizes derived, and the policy."""
    mesh = sharding.make_mesh(1, -1, 1, devices=devices)
    prompt, most = config.data.max_prompt_tokens, config.data.max_completion_tokens
    corrected = prompt + config.data.max_attempt_tokens + 84  # with the template's own words
    score = make_score(shape, mesh, config.sampling.temperature)
    policy = Policy(mesh, shape, score, prompt, corrected, most)
    return with_sizes(config, policy), policy


def lower(name: str, config: Config, policy: Policy, devices: list[Any]) -> jax.stages.Lowered:
    """One of `PROGRAMS`."""
    if name == "update":
        return make_policy_update(config, policy, lambda _: 1e-6).lower()
    mesh, settings = sampler(config, policy, devices)
    if name == "decode":
        return lower_decode(policy.model, mesh, settings)
    return lower_prefill(policy.model, mesh, settings, prefill_widths(settings)[-1], 0)


def sampler(config: Config, policy: Policy, devices: list[Any]) -> tuple[Mesh, EngineSettings]:
    """Mesh and settings of the engine."""
    s = config.sampling
    settings = EngineSettings(
        max_prompt_tokens=policy.longest_correction_prompt,
        max_new_tokens=policy.longest_completion,
        choice=Choice(stop_ids=(0,)),
        slots=s.slots,
        chunk=s.chunk,
        page_size=s.page_size,
        cache_tokens=s.cache_tokens,
    )
    return sharding.make_mesh(-1, 1, s.tensor or 1, devices=devices), settings


def examine(lowered: jax.stages.Lowered) -> tuple[Work, dict[str, Any]]:
    """Compiles a program: its work, and bytes of one GPU, collectives, seconds."""
    began = time.monotonic()
    compiled = lowered.compile()
    arguments, temporaries = planned_bytes(compiled)
    program, entry = parse(compiled.as_text() or "")
    done = work(program, entry)
    return done, {
        "argument_bytes": arguments,
        "temporary_bytes": temporaries,
        "flops": done.total("flops"),
        "moved_bytes": done.total("bytes"),
        "kernels": done.total("kernels"),
        "loops": done.lines(),
        "collectives": collectives(program, entry),
        "seconds": time.monotonic() - began,
    }


def decode_step(
    done: Work, config: Config, shape: ModelConfig, devices: list[Any], cache_bytes: int
) -> dict[str, float]:
    """Of one decode step on one GPU: the loop over steps has no other inside. `cache_bytes`: of the
    cache on it; the kernel of each layer is handed all of it and reads its layer's live tokens."""
    s, chip = config.sampling, CHIPS[devices[0].device_kind]
    tensor = s.tensor or 1
    view = Devices("", (len(devices), 1, 1, 1), tensor, chip.flops, chip.bandwidth, math.nan)
    whole_cache = s.cache_tokens or s.slots * LIVE_TOKENS
    sampling = dataclasses.replace(s, cache_tokens=whole_cache)
    roofline = decode_roofline(dataclasses.replace(config, sampling=sampling), shape, view)
    groups = len(devices) // tensor
    live = min(s.slots * LIVE_TOKENS, whole_cache) / groups
    weights = step_bytes(shape, shape.compute_dtype, 0) / tensor
    step = max(done.inner, key=lambda loop: loop.total("flops"))
    if step.inner:
        raise ValueError("a decode step has loops, whose turns are not known here")
    handed = shape.num_layers * cache_bytes
    moved = step.bytes - handed + roofline["bytes"] - weights + done.bytes / s.chunk
    return {
        "rows": roofline["rows"],
        "live_tokens": live,
        "kernels": step.kernels,
        "kernels_a_layer": step.kernels / shape.num_layers,
        "moved_bytes": moved,
        "needed_bytes": roofline["bytes"],
        "moved_over_needed": moved / roofline["bytes"],
        "seconds_at_bandwidth": roofline["seconds"],
    }


def print_program(name: str, program: dict[str, Any], done: Work) -> None:
    """A program's lines."""
    print(
        f"{name}: arguments {program['argument_bytes'] / GIB:.2f} + temporaries "
        f"{program['temporary_bytes'] / GIB:.2f} GiB; {program['flops']:.3g} FLOPs, "
        f"{program['moved_bytes']:.3g} bytes; compiled in {program['seconds']:.0f} s"
    )
    for line in done.lines(indent="    "):
        print(line)
    print_collectives(program["collectives"])


def print_step(step: dict[str, float]) -> None:
    """The decode step's lines."""
    print(
        f"a decode step of {step['rows']:.0f} rows a GPU group, {step['live_tokens']:,.0f} live "
        f"tokens: {step['kernels']:,.0f} kernels, {step['kernels_a_layer']:,.1f} a layer; "
        f"moves {step['moved_bytes'] / GIB:.1f} GiB, "
        f"{step['moved_over_needed']:.2f} of the {step['needed_bytes'] / GIB:.1f} that it needs, "
        f"which take {1e3 * step['seconds_at_bandwidth']:.1f} ms"
    )


if __name__ == "__main__":
    main()
