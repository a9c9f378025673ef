"""What fits on one accelerator: full fine-tuning by model, optimiser, dtype of weights, and remat.

    export JAX_PLATFORMS=cpu
    python benchmarks/one_accelerator_memory.py --card=h100:1 --models=qwen3-1.7b,qwen3-4b
    python benchmarks/one_accelerator_memory.py --card=l4:1 --models=qwen2.5-0.5b --remat=full,dots
    python benchmarks/one_accelerator_memory.py --card=v5e:1x1 --models=qwen2.5-0.5b

Needs the cuda or the tpu extra, but no accelerator: programs are compiled, not run. The config is
configs/math.py with prompts of 512 tokens and completions of 2,048, which are quoted whole, so that
a row has 4,736; a microbatch is one row. A line for each choice, in GiB:

    state      parameters and optimiser, there all the time
    updating   with the gradients and whatever else the compiler plans for the update
    sampling   with the sampler's copy of the weights, the cache, and the temporaries of the program
               that needs most: decode chunk, or a prefill with the longest context (of a sequence
               that was put off when the cache was full). The cache is what a run derives: a quarter
               of the device's memory, or all slots at full length

What cannot fit, because state and gradients alone are too large, is not compiled.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from gpu_programs import read_config, sampler, sized
from jax.sharding import Mesh
from plan_memory import SHAPES

from cipo_jax.config.resolve import resolve
from cipo_jax.policy.model import ModelConfig
from cipo_jax.run.devices.memory import device_memory
from cipo_jax.run.devices.topology import topology_devices
from cipo_jax.run.memory_plan import compile_program
from cipo_jax.run.sizes import GIB
from cipo_jax.run.update import bytes_per_device, make_policy_update
from cipo_jax.sampling.programs import abstract_cache, lower_decode, lower_prefill
from cipo_jax.sampling.settings import EngineSettings, prefill_widths, table_width
from cipo_jax.sampling.weights import extra_weights

OPTIMIZERS, DTYPES = "adamw,adafactor,muon", "float32,bfloat16"


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is chosen besides card and model."""

    optimizer: str
    param_dtype: str
    remat: str


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--card", default="h100:1", help="as --topology of --mode=preflight")
    parser.add_argument("--models", default="qwen3-4b", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--optimizers", default=OPTIMIZERS)
    parser.add_argument("--param-dtypes", default=DTYPES)
    parser.add_argument("--remat", default="full", help="as config.model.remat, several by commas")
    parser.add_argument("--update-only", action="store_true", help="compile no sampling")
    parser.add_argument("--rows", type=int, default=1, help="of a microbatch")
    parser.add_argument("--json", action="store_true", help="print a json object a line")
    options = parser.parse_args(argv)
    devices = topology_devices(options.card)
    memory = device_memory(devices[0])
    assert memory is not None
    choices = [
        Choice(optimizer, dtype, remat)
        for dtype in options.param_dtypes.split(",")
        for optimizer in options.optimizers.split(",")
        for remat in options.remat.split(",")
    ]
    if not options.json:
        print(f"{options.card}: {memory.bytes / GIB:.2f} GiB for programs ({memory.source})")
    for model in options.models.split(","):
        update_only = options.update_only
        for row in rows_of(model, devices, memory.bytes, choices, options.rows, update_only):
            if options.json:
                print(json.dumps({"card": options.card} | row), flush=True)
                continue
            updating, sampling = (
                f"{row[part]:6.2f}" if row[part] else "   -  " for part in ("updating", "sampling")
            )
            print(
                f"{model:13} {row['param_dtype']:8} {row['optimizer']:9} remat {row['remat']:9} "
                f"state {row['state']:6.2f}  updating {updating}  sampling {sampling} with "
                f"{row['slots']} slots, {row['cache_tokens']:,} tokens  {row['verdict']}",
                flush=True,
            )


def rows_of(
    model: str,
    devices: list[Any],
    device_bytes: int,
    choices: Sequence[Choice],
    rows: int,
    update_only: bool = False,
) -> Iterator[dict[str, Any]]:
    """The line of each choice, GiB; 0 for what was not compiled."""
    most: int | None = None  # temporaries while sampling, which no choice changes
    for choice in choices:
        raw = read_config("short")
        raw.model.param_dtype, raw.optimizer.name = choice.param_dtype, choice.optimizer
        raw.model.remat, raw.batch.microbatch_rows = choice.remat, rows
        shape = ModelConfig(
            **SHAPES[model],
            param_dtype=choice.param_dtype,
            compute_dtype=raw.model.compute_dtype,
            remat=choice.remat,
        )
        config, policy = sized(resolve(raw), shape, devices)
        update = make_policy_update(config, policy, lambda _: 1e-6)
        state = update.sizes.device_bytes
        row = {"model": model, **dataclasses.asdict(choice), "state": state / GIB}
        row |= {"slots": config.sampling.slots, "cache_tokens": config.sampling.cache_tokens}
        row |= {"updating": 0.0, "sampling": 0.0}
        gradients = 4 * update.sizes.parameters
        if state + gradients > device_bytes:
            yield row | {"verdict": f"no: with gradients {(state + gradients) / GIB:.1f} at least"}
            continue
        program = compile_program("update", update.lower(), lambda line: None)
        updating = program.argument_bytes + program.temporary_bytes
        mesh, settings = sampler(config, policy, devices)
        if most is None and not update_only:
            most = max(map(temporaries, sampling_programs(shape, mesh, settings)))
        cache = bytes_per_device(abstract_cache(shape, mesh, settings))
        copy = bytes_per_device(extra_weights(shape, mesh, policy.mesh))
        sampling = 0 if most is None else state + copy + cache + most
        fits = max(updating, sampling) <= device_bytes
        row |= {"updating": updating / GIB, "sampling": sampling / GIB}
        yield row | {"verdict": "fits" if fits else "no"}


def sampling_programs(
    shape: ModelConfig, mesh: Mesh, settings: EngineSettings
) -> Iterator[jax.stages.Lowered]:
    """Decode chunk, and the prefills of most and of fewest rows with the longest context."""
    yield lower_decode(shape, mesh, settings)
    widths, context = prefill_widths(settings), table_width(settings)
    for width in (widths[0], widths[-1]):
        yield lower_prefill(shape, mesh, settings, width, context)


def temporaries(lowered: jax.stages.Lowered) -> int:
    """Bytes that a program takes besides its arguments."""
    return compile_program("", lowered, lambda line: None).temporary_bytes


if __name__ == "__main__":
    main()
