"""What the programs of a run need on each device, from shapes alone: nothing is loaded.

    update, decode chunk, prefill of each width    compiled; bytes as the compiler plans them
    other sizes                                    compiled at a few, interpolated between them

Decides which programs count and what is in memory at the same time, not what follows from it.
"""

import dataclasses
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cipo_jax.config.keys import Config
from cipo_jax.data.tokenizer import Tokenizer
from cipo_jax.policy import sharding
from cipo_jax.policy.model import ModelConfig
from cipo_jax.run.devices.optimised_hlo import Work, parse, work
from cipo_jax.run.parts import (
    longest_prompt,
    open_engine,
    open_mesh,
    open_policy,
    open_prompts,
    open_tokenizer,
)
from cipo_jax.run.sizes import GIB, with_sizes
from cipo_jax.run.update import (
    Policy,
    Update,
    bytes_per_device,
    make_policy_update,
    make_score,
)
from cipo_jax.sampling.programs import (
    abstract_cache,
    lower_decode,
    lower_programs,
)
from cipo_jax.sampling.settings import EngineSettings
from cipo_jax.sampling.weights import extra_weights
from cipo_jax.types import CipoError

MOST_COMPILATIONS = 3  # of other sizes, to find the largest that fits
SPARE = 0.03  # of a device's memory, which what is chosen leaves free: allocators leave gaps
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program; bytes on one device.

    Attributes:
      argument_bytes: of what it is given. Results that replace none of that are in
        `temporary_bytes`.
      work: of a call.
    """

    name: str
    argument_bytes: int
    temporary_bytes: int
    work: Work = Work()


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run needs; bytes on one device.

    Attributes:
      programs: the update first.
      state_bytes: parameters and optimiser state, there all the time.
      weight_bytes: what the sampler copies of the parameters; 0 if it samples with those.
      cache_bytes, slots: the key/value cache, and the sequences it is for.
      checkpoint_bytes: of one, over all devices.
    """

    parameters: int
    programs: tuple[Program, ...]
    state_bytes: int
    weight_bytes: int
    cache_bytes: int
    slots: int
    checkpoint_bytes: int

    @property
    def update_bytes(self) -> int:
        """While the update runs: the cache is not there then."""
        update = self.programs[0]
        return update.argument_bytes + update.temporary_bytes

    @property
    def sampling_bytes(self) -> int:
        """While sampling, in the program that needs most."""
        most = max(p.temporary_bytes for p in self.programs[1:])
        return self.state_bytes + self.weight_bytes + self.cache_bytes + most


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What the programs of a run are lowered from.

    Attributes:
      sampler: model, mesh and settings of the engine. With several hosts they are replicas in one
        mesh: each samples on its own devices, and every device holds and computes the same.
    """

    config: Config
    policy: Policy
    sampler: tuple[ModelConfig, Mesh, EngineSettings]

    def update(self, microbatch_rows: int | None = None) -> Update:
        """The update, with another number of rows if one is given."""
        c = self.config
        rows = microbatch_rows or c.batch.microbatch_rows
        batch = dataclasses.replace(c.batch, microbatch_rows=rows)
        c = dataclasses.replace(c, batch=batch)
        return make_policy_update(c, self.policy, lambda _: c.optimizer.learning_rate)


@dataclasses.dataclass(frozen=True)
class Fit:
    """The largest size that fits into a device, as far as the search went.

    Attributes:
      size: 0 if the smallest possible does not fit.
      compiled: {size: bytes} of those that were compiled; others are interpolated.
    """

    size: int
    compiled: dict[int, int]

    def __str__(self) -> str:
        how = "compiled" if self.size in self.compiled else "interpolated"
        known = ", ".join(f"{k}: {v / GIB:.3f} GiB" for k, v in sorted(self.compiled.items()))
        return f"{self.size} ({how}; compiled were {known})"


def open_shapes(
    config: Config,
    devices: list[Any],
    shape: Mapping[str, Any] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Shapes:
    """What a run of `config` on `devices` compiles.

    Args:
      shape: of another model instead of the config's, as arguments of `ModelConfig`.
      tokenizer: the config's, if it has been opened.

    Raises:
      CipoError: whatever in the config cannot work with the devices.
    """
    c, tokenizer = config, tokenizer or open_tokenizer(config)
    mesh = open_mesh(c.mesh, devices)
    policy = open_policy(c, tokenizer, mesh, longest_prompt(c, open_prompts(c, tokenizer)))
    if shape:
        m = policy.model
        same: Any = {n: getattr(m, n) for n in ("param_dtype", "compute_dtype", "remat", "unroll")}
        other = ModelConfig(**shape, **same)
        score = make_score(other, mesh, c.sampling.temperature)
        policy = dataclasses.replace(policy, model=other, score=score)
    c = with_sizes(c, policy)
    sampling, sampling_policy = c.sampling, policy
    hosts = len({device.process_index for device in devices})
    if hosts > 1:
        # As `host_copy.host_meshes`.
        tensor = c.sampling.tensor or mesh.shape["tensor"]
        data, fsdp = (-1, 1) if c.sampling.tensor else (hosts, -1)
        own_mesh = sharding.make_mesh(data, fsdp, tensor, devices=devices)
        sampling_policy = dataclasses.replace(policy, mesh=own_mesh)
        sampling = dataclasses.replace(sampling, tensor=0)
    engine = open_engine(sampling, sampling_policy, tokenizer)
    return Shapes(c, policy, (engine.config, engine.mesh, engine.settings))


def least_bytes(shapes: Shapes) -> int:
    """What an update needs at least, on one device: its state, and the whole gradient in float32,
    whose norm is known only when all of it is there."""
    abstract = shapes.update().abstract
    floats = [x.update(dtype=jnp.float32) for x in jax.tree.leaves(abstract.params)]
    return bytes_per_device([abstract.params, abstract.opt_state, floats])


def compile_update(shapes: Shapes, say: Say) -> Program:
    """Compiles the update alone."""
    return compile_program("update", _lower(shapes, shapes.update()), say)


def make_plan(shapes: Shapes, say: Say, update_program: Program | None = None) -> Plan:
    """Compiles the programs; `say` is told of each.

    Args:
      update_program: the update, if it has been compiled.
    """
    update, (model, mesh, settings) = shapes.update(), shapes.sampler
    programs = [update_program or compile_update(shapes, say)]
    for name, lowered in lower_programs(model, mesh, settings).items():
        programs.append(compile_program(name, lowered, say))
    return Plan(
        parameters=update.sizes.parameters,
        programs=tuple(programs),
        state_bytes=update.sizes.device_bytes,
        weight_bytes=bytes_per_device(extra_weights(model, mesh, shapes.policy.mesh)),
        cache_bytes=bytes_per_device(abstract_cache(model, mesh, settings)),
        slots=settings.slots,
        checkpoint_bytes=update.sizes.checkpoint_bytes,
    )


def fit_microbatch(shapes: Shapes, plan: Plan, device_bytes: int, say: Say) -> Fit:
    """The largest `batch.microbatch_rows`, up to all rows of an update in one."""
    configured = shapes.config.batch.microbatch_rows
    _, microbatches, rows, _ = shapes.update().abstract_batch.tokens.shape

    def measure(size: int) -> int:
        lowered = _lower(shapes, shapes.update(size))
        program = compile_program(f"update with {size} rows", lowered, say)
        return program.argument_bytes + program.temporary_bytes

    step = sharding.row_count(shapes.policy.mesh)
    known = {configured: plan.update_bytes}
    return largest_that_fits(measure, known, step, microbatches * rows, device_bytes)


def fit_slots(shapes: Shapes, plan: Plan, device_bytes: int, say: Say) -> Fit:
    """The largest `sampling.slots`, with a cache in proportion, up to a step's completions."""
    c, (model, mesh, settings) = shapes.config, shapes.sampler
    prefill = max(p.temporary_bytes for p in plan.programs[2:])

    def measure(size: int) -> int:
        tokens = settings.cache_tokens * size // settings.slots
        changed = dataclasses.replace(settings, slots=size, cache_tokens=tokens)
        sampler = model, mesh, changed
        program = compile_program(f"decode chunk of {size}", lower_decode(*sampler), say)
        cache = bytes_per_device(abstract_cache(*sampler))
        return plan.state_bytes + plan.weight_bytes + cache + max(prefill, program.temporary_bytes)

    step = sharding.row_count(mesh)
    most = max(c.num_attempts, c.num_corrections, plan.slots)
    return largest_that_fits(measure, {plan.slots: plan.sampling_bytes}, step, most, device_bytes)


def largest_that_fits(
    measure: Callable[[int], int], known: dict[int, int], step: int, most: int, device_bytes: int
) -> Fit:
    """Searches for the largest size that fits with `MOST_COMPILATIONS` measurements.

    Args:
      measure: size -> bytes, about linear.
      known: {size: bytes} of one that has been measured.
      step: sizes are multiples of it.
      most: the largest that is of use.
    """
    compiled, most = dict(known), max(most // step * step, step)
    for _ in range(MOST_COMPILATIONS):
        size = _estimate(compiled, step, most, device_bytes)
        if size == 0 or size in compiled:
            break
        compiled[size] = measure(size)
    return Fit(_estimate(compiled, step, most, device_bytes), compiled)


def _estimate(compiled: dict[int, int], step: int, most: int, device_bytes: int) -> int:
    """The largest size that fits, by a straight line through the nearest sizes on both sides, or
    the nearest two on one side. Where only one is known, a second one for the line."""
    below = sorted(n for n, size in compiled.items() if size <= device_bytes)
    above = sorted(n for n, size in compiled.items() if size > device_bytes)
    if len(compiled) == 1:
        guess = 2.0 * below[0] if below else step
    else:
        a, b = ([*below[-1:], *above] if above else below[-2:])[:2]
        slope = (compiled[b] - compiled[a]) / (b - a)
        guess = a + (device_bytes - compiled[a]) / slope if slope > 0 else most
    guess = min(guess, most, *(n - step for n in above))
    return max(0, *below, int(guess) // step * step)


def compile_program(name: str, lowered: jax.stages.Lowered, say: Say) -> Program:
    """Compiles it and says what it needs. Of a program that the compiler refuses as too large, only
    the temporaries are known, at most roughly.

    Raises:
      CipoError: the compiler of these devices does not plan memory.
    """
    began = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        # XLA for TPU knows the memory of its devices.
        say(f"{name:12} refused by the compiler: {str(error).splitlines()[0][:160]}")
        return Program(name, 0, _needed(str(error)))
    arguments, temporaries = planned_bytes(compiled)
    done = work(*parse(compiled.as_text() or ""))
    costs: Any = compiled.cost_analysis() or {}
    # XLA for TPU writes matrix products as convolutions; it counts a loop's body once.
    flops = done.total("flops") or costs.get("flops", 0.0)
    say(
        f"{name:12} arguments {arguments / GIB:.3f} GiB, temporaries {temporaries / GIB:.3f} GiB, "
        f"{flops:.2e} FLOPs, {done.total('bytes'):.2e} bytes, "
        f"compiled in {time.monotonic() - began:.0f} s"
    )
    return Program(name, arguments, temporaries, done)


def planned_bytes(compiled: jax.stages.Compiled) -> tuple[int, int]:
    """As in `Program`: (of arguments, of temporaries and results that replace no argument).

    Raises:
      CipoError: the compiler of these devices does not plan memory.
    """
    memory = compiled.memory_analysis()
    if memory is None:
        raise CipoError(
            "the compiler of these devices does not plan memory, which --mode=preflight and "
            "config.model.remat='auto' need"
        )
    arguments = memory.argument_size_in_bytes
    fresh = max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes)
    device = next(iter(jax.tree.leaves(compiled.input_shardings)[0].device_set))
    if device.platform == "tpu":
        # XLA for TPU knows a peak, of what lives at the same time. Others count no temporaries in
        # theirs.
        return arguments, max(fresh, memory.peak_memory_in_bytes - arguments)
    return arguments, memory.temp_size_in_bytes + fresh


def _needed(refusal: str) -> int:
    """What a refused program needs, where XLA for TPU says so; else more than any device has."""
    found = re.search(r"([\d.]+)([KMGT])\)? (?:of|exceeds)", refusal)
    units = {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
    return int(float(found[1]) * units[found[2]]) if found else 2**50


def _lower(shapes: Shapes, update: Update) -> jax.stages.Lowered:
    return update.lower(with_reference=bool(shapes.config.algorithm.kl_coef))
