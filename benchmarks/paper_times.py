"""The paper's setting on paper: seconds of a step's parts, and hours of its run, on several slices.

    JAX_PLATFORMS=cpu python benchmarks/paper_times.py
    JAX_PLATFORMS=cpu python benchmarks/paper_times.py --slices=v5p-128 --sampling-tensor=4

A step of configs/math.py samples 1,024 attempts and 512 corrections, of up to 8,192 tokens and
2,000 on average, 500 steps. Everything else is as `--mode=explain` counts and assumes it for a
topology (cipo_jax/run/forecast). Prompts are counted in bytes, so that no model has to be here.
Prints the table of docs/scaling.md. Nothing is compiled or run.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence

from cipo_jax.config import load_file
from cipo_jax.config.resolve import changed_config, resolve
from cipo_jax.policy.published import SHAPES
from cipo_jax.run.devices.topology import paper_devices
from cipo_jax.run.forecast.assumptions import Assumptions
from cipo_jax.run.forecast.timeline import Timeline, make_timeline, with_published_shape
from cipo_jax.run.memory_plan import open_shapes

STEPS, MEAN_TOKENS = 500, 2000
MODELS = {"Qwen3-4B": "Qwen/Qwen3-4B", "Seed-Coder-8B": "ByteDance-Seed/Seed-Coder-8B-Base"}
# By what a slice is called: its topology.
SLICES = {
    "v5e-16": "v5e:4x4",
    "v5e-64": "v5e:8x8",
    "v5p-16": "v5p:2x2x2",
    "v5p-128": "v5p:4x4x4",
    "8 H100": "h100:8",
}
HEADER = (
    "| devices, chips | model | sampling, s | verdicts, s | update, s (MFU) | a step, s | an "
    "evaluation, s | the run, h | bound by |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--slices", default=",".join(SLICES), help="comma-separated")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    parser.add_argument("--sampling-tensor", type=int, default=0, help="0: derived")
    options = parser.parse_args(argv)
    print("\n".join(HEADER))
    slices, models = options.slices.split(","), options.models.split(",")
    for line in table(slices, models, options.sampling_tensor):
        print(line, flush=True)


def table(slices: Sequence[str], models: Sequence[str], tensor: int = 0) -> Iterator[str]:
    """A line for each model on each slice."""
    for name in slices:
        for model in models:
            yield row(name, model, timeline(SLICES[name], model, tensor), tensor)


def timeline(topology: str, model: str, tensor: int = 0) -> Timeline:
    """Of configs/math.py with another number of steps.

    Args:
      tensor: `sampling.tensor`.
    """
    raw = load_file("../configs/math.py", beside=__file__).get_config()
    config = dataclasses.replace(resolve(raw), num_steps=STEPS)
    config = changed_config(with_published_shape(config), {"sampling.tensor": tensor})
    shapes = open_shapes(config, paper_devices(topology), SHAPES[MODELS[model]])
    return make_timeline(shapes, Assumptions(), MEAN_TOKENS)


def row(name: str, model: str, found: Timeline, tensor: int) -> str:
    """A line of the table."""
    bounds = list(found.bounds.items())[:2]
    bound = ", ".join(f"{what} {seconds / found.step:.0%}" for what, seconds in bounds)
    chips = f"{name}, {found.machine.chips}" + (f", sampling.tensor={tensor}" if tensor else "")
    cells = (
        chips,
        model,
        f"{found.sampling:,.0f}",
        f"{found.verification:.1f}",
        f"{found.update.seconds:,.0f} ({found.update.mfu:.0%})",
        f"{found.step:,.0f}",
        f"{found.evaluation:,.0f}",
        f"{found.hours:,.0f}",
        bound,
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
