"""A full-size run's programs, compiled for TPU slices without having one, and their rooflines.

    export TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu
    python benchmarks/tpu_programs.py --slice=v5e-16
    python benchmarks/tpu_programs.py --slice=v5p-8 --model=llama-8b

Needs libtpu, which serves one process at a time; an update takes a minute or two to compile. The
sizes are those of configs/math.py, a row of 18,432 tokens per chip. Nothing is run. The output:

    memory       per chip, as the compiler plans it; it refuses a program that does not fit
    collectives  counts and bytes of the results in the optimised program, by depth in loops: 0 once
                 per call, 1 the loop over microbatches (or decode steps), 2 over layers, 3 within a
                 product that gathers its weights piece by piece
    HBM          traffic of a decode step in the optimised program: bytes read besides keys and
                 values (also as a multiple of the chip's share of the weights), bytes written, and
                 the ratio of all traffic to what "decode" counts. A kernel reads the keys and
                 values of live pages; that ratio includes them.
    update       FLOPs counted from the shapes. "executed" adds to the model's own FLOPs (forward
                 and backward, causal attention over whole rows) what `remat` computes again
                 (`run/remat.py`), and the head's logits, which always are.
                 Compute time is executed FLOPs at the chip's peak. Communication is three passes of
                 the weights in bfloat16 over the chip's links: gathered forward and backward,
                 gradients scattered back. MFU divides model FLOPs by the longer time at peak. It is
                 a bound that only kernels at their peak with perfect overlap would reach.
    decode       bytes that a step has to read, at the chip's bandwidth: its share of the weights,
                 and keys and values of live tokens (2,048 a sequence, or what the cache holds)
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
import numpy as np
from plan_memory import SHAPES

from cipo_jax.config.keys import Config
from cipo_jax.config.resolve import resolve
from cipo_jax.policy import sharding
from cipo_jax.policy.model import REMAT_POLICIES, ModelConfig
from cipo_jax.run.devices.chips import CHIPS
from cipo_jax.run.devices.optimised_hlo import collectives, hbm_traffic, parse
from cipo_jax.run.devices.topology import topology_devices
from cipo_jax.run.forecast.counts import (
    count_parameters,
    repeated_flops,
    step_bytes,
    weights_over_links,
)
from cipo_jax.run.update import Policy, make_policy_update, make_score
from cipo_jax.run.watch.speed import forward_flops
from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.programs import lower_decode, lower_prefill
from cipo_jax.sampling.settings import EngineSettings, prefill_widths

GIB = 2**30
LIVE_TOKENS = 2048  # of a sequence, on average
LEAST_CACHED = 25_600  # on each group of chips: the longest sequence takes 17,472
FEW_MIB = 2500  # less than an update needs of any chip


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice, and how the run sees it.

    Attributes:
      mesh: data, fsdp, tensor, context of the update.
      tensor: tensor shards while sampling.
      flops: bfloat16 FLOP/s of a chip; hbm, links: bytes/s of a chip's memory, and of all its links
        in one direction. See run/devices/chips.py.
    """

    topology: str
    mesh: tuple[int, int, int, int]
    tensor: int
    flops: float
    hbm: float
    links: float


V4, V5E, V5P = (
    {"flops": chip.flops, "hbm": chip.bandwidth, "links": chip.links}
    for chip in map(CHIPS.__getitem__, ("TPU v4", "TPU v5e", "TPU v5p"))
)
SLICES = {
    "v4-8": Slice("v4:2x2x1", (1, 4, 1, 1), 4, **V4),
    "v5e-8": Slice("v5e:2x4", (1, 8, 1, 1), 4, **V5E),
    "v5e-16": Slice("v5e:4x4", (1, 16, 1, 1), 8, **V5E),
    "v5e-256": Slice("v5e:16x16", (16, 16, 1, 1), 8, **V5E),
    "v5p-8": Slice("v5p:2x2x1", (1, 4, 1, 1), 4, **V5P),
    "v5p-64": Slice("v5p:2x4x4", (2, 16, 1, 1), 8, **V5P),
    "v5p-128": Slice("v5p:4x4x4", (4, 16, 1, 1), 8, **V5P),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--slice", choices=SLICES, default="v5e-16")
    parser.add_argument("--model", choices=SHAPES, default="qwen3-4b")
    parser.add_argument(
        "--mesh", help="data,fsdp,tensor,context of the update; default: the slice's"
    )
    parser.add_argument("--programs", default="update,decode chunk,prefill", help="comma-separated")
    parser.add_argument("--mu-dtype", default="", help="config.optimizer.mu_dtype")
    parser.add_argument("--remat", choices=[*REMAT_POLICIES, "none"], default="full")
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="refuse programs of more than some GiB with the compiler's first estimate of what "
        "they need, made before it schedules: in seconds instead of minutes",
    )
    parser.add_argument("--json", action="store_true", help="print one json object")
    options = parser.parse_args(argv)
    chosen = SLICES[options.slice]
    if options.mesh:
        data, fsdp, tensor, context = map(int, options.mesh.split(","))
        chosen = dataclasses.replace(chosen, mesh=(data, fsdp, tensor, context))
    config = full_size(chosen, options.mu_dtype)
    shape = ModelConfig(
        **SHAPES[options.model],
        param_dtype=config.model.param_dtype,
        compute_dtype=config.model.compute_dtype,
        remat=options.remat,
    )
    report: dict[str, Any] = {"slice": options.slice, "model": options.model, "programs": {}}
    for name, lowered in programs(config, shape, chosen, options.programs.split(",")).items():
        report["programs"][name] = examine(lowered, options.estimate)
        if not options.json:
            print_program(name, report["programs"][name])
    report["update"] = update_roofline(config, shape, chosen)
    report["decode"] = decode_roofline(config, shape, chosen)
    chunk = report["programs"].get("decode chunk", {})
    if "hbm" in chunk:
        roofline_bytes = report["decode"]["bytes"]
        report["decode"] |= step_traffic(chunk["hbm"], shape, chosen.tensor, roofline_bytes)
    if options.json:
        print(json.dumps(report))
        return
    u, d = report["update"], report["decode"]
    print(
        f"update  {u['tokens']:,} tokens a microbatch: {u['executed_flops'] / 1e12:.0f} TFLOP a "
        f"chip in {u['compute_seconds']:.2f} s, weights over the links in "
        f"{u['links_seconds']:.2f} s; MFU at most {u['mfu_bound']:.0%}"
    )
    print(
        f"decode  {d['rows']:.0f} rows a group of chips: {d['bytes'] / GIB:.2f} GiB a chip and "
        f"step, {1e3 * d['seconds']:.1f} ms; {d['tokens_per_second']:,.0f} tokens/s at most"
    )
    if "read" in d:
        print(
            f"        the program reads {d['read'] / GIB:.3f} GiB a step besides keys and values, "
            f"{d['over_weights']:.3f} of the weights, and writes {d['written'] / 2**20:.1f} MiB; "
            f"with those, {d['over_roofline']:.3f} of the roofline's bytes"
        )


def full_size(chosen: Slice, mu_dtype: str) -> Config:
    """configs/math.py on a slice, a row per chip, at the sizes at which slices are compared."""
    file = Path(__file__).parents[1] / "configs" / "math.py"
    raw = runpy.run_path(str(file))["get_config"]()
    raw.mesh.data, raw.mesh.fsdp, raw.mesh.tensor, raw.mesh.context = chosen.mesh
    raw.batch.row_tokens, raw.batch.microbatch_rows = 18432, chosen.mesh[0] * chosen.mesh[1]
    groups = math.prod(chosen.mesh) // chosen.tensor
    raw.sampling.slots = 256
    raw.sampling.cache_tokens = max(400_000, groups * LEAST_CACHED)
    raw.sampling.tensor = chosen.tensor
    raw.optimizer.mu_dtype = mu_dtype
    return resolve(raw)


def programs(
    config: Config, shape: ModelConfig, chosen: Slice, names: Sequence[str]
) -> dict[str, jax.stages.Lowered]:
    """{name: program} of the update and the sampler."""
    devices = topology_devices(chosen.topology)
    mesh = sharding.make_mesh(*chosen.mesh, devices=devices)
    prompt, most = config.data.max_prompt_tokens, config.data.max_completion_tokens
    correction_prompt = prompt + config.data.max_attempt_tokens
    lowered: dict[str, jax.stages.Lowered] = {}
    if "update" in names:
        score = make_score(shape, mesh, config.sampling.temperature)
        policy = Policy(mesh, shape, score, prompt, correction_prompt, most)
        update = make_policy_update(config, policy, lambda _: 1e-6)
        lowered["update"] = update.lower()
    s = config.sampling
    settings = EngineSettings(
        max_prompt_tokens=correction_prompt,
        max_new_tokens=most,
        choice=Choice(stop_ids=(0,)),
        slots=s.slots,
        chunk=s.chunk,
        page_size=s.page_size,
        cache_tokens=s.cache_tokens,
    )
    sampling_mesh = sharding.make_mesh(-1, 1, s.tensor, devices=devices)
    if "decode chunk" in names:
        lowered["decode chunk"] = lower_decode(shape, sampling_mesh, settings)
    if "prefill" in names:
        widest = prefill_widths(settings)[-1]
        lowered["prefill"] = lower_prefill(shape, sampling_mesh, settings, widest, 0)
    return lowered


def examine(lowered: jax.stages.Lowered, estimate: bool = False) -> dict[str, Any]:
    """Compiles a program: bytes per chip, collectives, seconds; or why it does not fit.

    Args:
      estimate: for chips with `FEW_MIB`, which refuse it with the compiler's first estimate.
    """
    began = time.monotonic()
    options = {"xla_tpu_max_hbm_size_mib": str(FEW_MIB)} if estimate else None
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"refused": str(error).splitlines()[0]}
    memory = compiled.memory_analysis()
    assert memory is not None
    program, entry = parse(compiled.as_text() or "")
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "peak_bytes": memory.peak_memory_in_bytes,
        "collectives": collectives(program, entry),
        "hbm": hbm_traffic(program, entry),
        "seconds": time.monotonic() - began,
    }


def step_traffic(
    hbm: dict[int, dict[str, int]], shape: ModelConfig, tensor: int, roofline_bytes: float
) -> dict[str, float]:
    """Of one decode step on one chip, from `hbm_traffic` of the chunk: the loop over layers is
    inside the loop over steps. The loop that copies pages counts as a step's, with one page."""
    read, written = (
        hbm[1].get(kind, 0) + shape.num_layers * hbm[2].get(kind, 0) for kind in ("read", "written")
    )
    weights = step_bytes(shape, shape.compute_dtype, 0) / tensor
    keys_and_values = roofline_bytes - weights
    return {
        "read": read,
        "written": written,
        "over_weights": read / weights,
        "over_roofline": (read + written + keys_and_values) / roofline_bytes,
    }


def print_program(name: str, program: dict[str, Any]) -> None:
    """A program's lines."""
    if "refused" in program:
        print(f"{name}: {program['refused']}")
        return
    print(
        f"{name}: peak {program['peak_bytes'] / GIB:.2f} GiB a chip, of them arguments "
        f"{program['argument_bytes'] / GIB:.2f}; compiled in {program['seconds']:.0f} s"
    )
    print_collectives(program["collectives"])


def print_collectives(found: dict[str, list[dict[str, Any]]]) -> None:
    """A line for each kind and depth."""
    for kind, rows in found.items():
        for row in rows:
            print(
                f"    {kind:18} depth {row['depth']}: {row['count']:3d} of "
                f"{row['bytes'] / 2**20:,.1f} MiB together",
                flush=True,
            )


def update_roofline(config: Config, shape: ModelConfig, chosen: Slice) -> dict[str, float]:
    """Of one microbatch, on one chip."""
    rows, T = config.batch.microbatch_rows, config.batch.row_tokens
    chips = math.prod(chosen.mesh)
    tokens = rows * T
    seen = np.arange(1, T + 1)  # a row is one sequence
    model_flops = 3 * rows * forward_flops(shape, count_parameters(shape), seen) / chips
    executed = model_flops + rows * repeated_flops(shape, seen) / chips
    _, fsdp, tensor, context = chosen.mesh
    moved = weights_over_links(shape, fsdp * context, tensor)
    compute, links = executed / chosen.flops, moved / chosen.links
    return {
        "tokens": tokens,
        "executed_flops": executed,
        "compute_seconds": compute,
        "links_seconds": links,
        "mfu_bound": model_flops / (max(compute, links) * chosen.flops),
    }


def decode_roofline(config: Config, shape: ModelConfig, chosen: Slice) -> dict[str, float]:
    """Of one decode step, on one chip."""
    chips = math.prod(chosen.mesh)
    groups = chips // chosen.tensor
    rows = config.sampling.slots / groups
    live = min(rows * LIVE_TOKENS, config.sampling.cache_tokens / groups)
    read = step_bytes(shape, shape.compute_dtype, live) / chosen.tensor
    seconds = read / chosen.hbm
    return {
        "rows": rows,
        "bytes": read,
        "seconds": seconds,
        "tokens_per_second": config.sampling.slots / seconds,
    }


if __name__ == "__main__":
    main()
