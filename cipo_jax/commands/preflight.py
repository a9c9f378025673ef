"""`--mode=preflight`: what a training run will need, without training or loading weights.

    devices     those of this machine, or of --topology=h100:8, h100:8x2 (two nodes), v5e:4x4 and so
                on, which need not be here: see run/devices/topology.py for what that needs
    programs    update, decode chunk and prefills are compiled from shapes alone; bytes are those of
                one device, as the compiler plans them. FLOPs and bytes moved are those of a call;
                a loop that ends when it ends (over decode steps) counts as one turn. For GPUs also
                the kernels that each loop launches
    memory      of a device: what its runtime, its kind or --device_memory says
    data        opened and checked as training does, demonstrations too; the verifier is started

Other sizes are compiled as well, to find the largest that fit into that memory. A run that does not
fit is an error, which names overrides that fit, as far as `run/proposal.py` finds some. On the CPU
the compiler plans more temporaries than on accelerators (it computes bfloat16 in float32).
"""

import math
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax

from cipo_jax.config.checks import check_training
from cipo_jax.config.command_line import Invocation
from cipo_jax.config.keys import Config
from cipo_jax.policy.sharding import describe
from cipo_jax.run.cold_start import open_material
from cipo_jax.run.devices.memory import Memory, device_memory
from cipo_jax.run.devices.topology import topology_devices
from cipo_jax.run.draw import check_enough
from cipo_jax.run.memory_plan import (
    Plan,
    Shapes,
    fit_microbatch,
    fit_slots,
    least_bytes,
    make_plan,
    open_shapes,
)
from cipo_jax.run.parameters import check_fits
from cipo_jax.run.parts import open_prompts, open_tokenizer
from cipo_jax.run.problems import evaluation_prompts, open_evaluation, open_training
from cipo_jax.run.proposal import as_flags, propose
from cipo_jax.run.remat import choose_remat
from cipo_jax.run.sizes import GIB
from cipo_jax.run.start import check_start
from cipo_jax.run.watch.compiles import Ledger
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.types import CipoError
from cipo_jax.verifiers.judge import open_pool


def command(invocation: Invocation) -> None:
    """The mode."""
    config, flags = invocation.config, invocation.flags
    with Heartbeat(config.log.heartbeat_seconds) as heartbeat, Ledger(None, config.log, heartbeat):
        heartbeat.begin("preflight", "reading, or tracing a program")  # or what is being compiled
        preflight(config, flags["topology"], flags["device_memory"])


def preflight(config: Config, topology: str | None, device_gib: float | None) -> Plan:
    """Checks, plans, prints; returns the plan.

    Raises:
      CipoError: what training would raise, a topology that cannot be compiled for, or a run that
        does not fit into the devices' memory.
    """
    if device_gib is not None and not 0 < device_gib < math.inf:
        raise CipoError(f"--device_memory: got {device_gib:g}, wanted GiB, a number above 0")
    check_training(config)
    check_start(config)
    if config.init_from:
        check_fits(Path(config.init_from), config, "config.init_from")
    _say("reading      tokenizer and data")
    prompts = open_prompts(config, open_tokenizer(config))
    training, evaluation = open_training(config, prompts), open_evaluation(config)
    check_enough(training.source, config.rollout.problems_per_step)
    evaluation_prompts(config, evaluation, prompts)
    if config.cold_start.max_steps and not config.init_from:
        open_material(config, prompts)
    for name, opened in (("data.train", training), ("data.eval", evaluation)):
        for source, facts in opened.fingerprints.items():
            _say(f"{name:12} {source}: {facts['problems'] or 'unlimited'} problems")
    with open_pool(config.verifier) as pool:
        _say(f"verifier     {config.verifier.kind}: {pool.about or 'runs no programs'}")

    devices = topology_devices(topology) if topology else jax.devices()
    memory = device_memory(devices[0])
    if device_gib is not None:
        memory = Memory(int(device_gib * GIB), "by --device_memory")
    config, update = choose_remat(config, devices, memory.bytes if memory else None, _say)
    shapes = open_shapes(config, devices)
    mesh = shapes.policy.mesh
    _say(f"devices      {mesh.size} x {devices[0].device_kind}; mesh {describe(mesh)}")
    known = (
        f"{memory.bytes / GIB:.2f} GiB ({memory.source})"
        if memory
        else ("not known; --device_memory=GIB looks for what fits")
    )
    _say(f"memory       of a device, for programs: {known}")
    if memory is not None and (least := least_bytes(shapes)) > memory.bytes:
        short = f"state and gradient alone need {least / GIB:.2f} GiB"
        short += f", a device has {memory.bytes / GIB:.2f}"
        _refuse(short, _Device(config, devices, memory.bytes))
    plan = make_plan(shapes, _say, update)
    _say(f"parameters   {plan.parameters:,}")
    for label, size, note in (
        ("state", plan.state_bytes, ": parameters and optimiser, all the time"),
        ("sampler", plan.weight_bytes, ": its own copy of the parameters"),
        ("cache", plan.cache_bytes, ": keys and values of all slots"),
        ("updating", plan.update_bytes, " in all"),
        ("sampling", plan.sampling_bytes, " in all"),
    ):
        _say(f"{label:12} {size / GIB:.3f} GiB per device{note}")
    r, limit = config.rollout, config.data.max_completion_tokens
    most = r.most_problems * r.group_size + config.num_corrections
    refilled = r.max_refills > 0
    completions = f"at most {most} completions and" if refilled else f"{most} completions, at most"
    _say(f"step         {completions} {most * limit:,} tokens")
    kept = config.checkpoint.keep + config.checkpoint.keep_best + 1
    disk = plan.checkpoint_bytes / GIB
    _say(f"disk         {disk:.3f} GiB a checkpoint, up to {kept * disk:.3f} GiB")
    if devices[0].platform == "gpu":
        _say_kernels(plan)
    if memory is not None:
        _require_fit(shapes, plan, _Device(config, devices, memory.bytes))
    return plan


class _Device(NamedTuple):
    """What a plan has to fit into: `bytes` of each of the devices, for `config` as it was given."""

    config: Config
    devices: list[Any]
    bytes: int


def _say(line: str) -> None:
    print(line, flush=True)


def _say_kernels(plan: Plan) -> None:
    """What one device launches in a call of each program, loop by loop; of the prefills, the
    widest."""
    for program in (*plan.programs[:2], plan.programs[-1]):
        _say(f"kernels      {program.name}")
        for line in program.work.lines(indent="  "):
            _say(line)


def _require_fit(shapes: Shapes, plan: Plan, device: _Device) -> None:
    """Says the largest sizes that fit.

    Raises:
      CipoError: those of the config do not; with what would.
    """
    c, have = shapes.config, device.bytes / GIB
    rows = fit_microbatch(shapes, plan, device.bytes, _say)
    if plan.update_bytes > device.bytes:
        short = f"the update needs {plan.update_bytes / GIB:.2f} GiB, a device has {have:.2f}"
        if not rows.size:
            _refuse(short, device)
        raise CipoError(
            f"{short}; config.batch.microbatch_rows: got {c.batch.microbatch_rows}, wanted at most "
            f"{rows}"
        )
    slots = fit_slots(shapes, plan, device.bytes, _say)
    if plan.sampling_bytes > device.bytes:
        short = f"sampling needs {plan.sampling_bytes / GIB:.2f} GiB, a device has {have:.2f}"
        if not slots.size:
            _refuse(short, device)
        raise CipoError(f"{short}; config.sampling.slots: got {plan.slots}, wanted at most {slots}")
    _say(f"fits         a device has {have:.2f} GiB; the largest useful sizes that would fit:")
    _say(f"  batch.microbatch_rows  {rows}")
    _say(f"  sampling.slots         {slots}")


def _refuse(short: str, device: _Device) -> NoReturn:
    """Looks for overrides that fit.

    Raises:
      CipoError: `short`, and what has been found.
    """
    _say(f"too large    {short}; looking for what fits")
    found = propose(device.config, device.devices, device.bytes, _say)
    if found is None:
        raise CipoError(
            f"{short}; no other optimiser, dtype or length fits, nor a smaller model known here: "
            "shard over more devices (config.mesh.fsdp)"
        )
    plan = found.plan
    raise CipoError(
        f"{short}. Compiled, this fits (updating {plan.update_bytes / GIB:.2f} GiB, sampling "
        f"{plan.sampling_bytes / GIB:.2f} GiB with {plan.slots} slots): {as_flags(found.overrides)}"
    )
