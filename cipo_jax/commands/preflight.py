"""`--mode=preflight`: what a training run will need, without training or loading weights.

    devices     those of this machine, or of --topology=v5e:4x4: compiling for a TPU that is not
                here needs libtpu (`pip install libtpu`), which serves one process at a time
    programs    update, decode chunk and prefills are compiled from shapes alone; bytes are those of
                one device, as the compiler plans them
    data        opened and checked as training does; the verifier is started

On the CPU the compiler plans more temporaries than on accelerators (it computes bfloat16 in
float32). With --device_memory, or where the devices say what they have, other sizes are compiled as
well, to find the largest that fit, and a run that does not fit is an error.
"""

from typing import Any

import jax

from cipo_jax.config.checks import check_training
from cipo_jax.config.command_line import Invocation
from cipo_jax.config.keys import Config
from cipo_jax.run.memory_plan import (
    Fit,
    Plan,
    Shapes,
    fit_microbatch,
    fit_slots,
    make_plan,
    open_shapes,
    topology_devices,
)
from cipo_jax.run.parts import open_prompts, open_tokenizer
from cipo_jax.run.problems import check_places, open_evaluation, open_training
from cipo_jax.run.sizes import DEVICE_GIB, GIB
from cipo_jax.types import CipoError
from cipo_jax.verifiers.judge import open_pool


def command(invocation: Invocation) -> None:
    """The mode."""
    flags = invocation.flags
    preflight(invocation.config, flags["topology"], flags["device_memory"])


def preflight(config: Config, topology: str | None, device_gib: float | None) -> Plan:
    """Checks, plans, prints; returns the plan.

    Raises:
      CipoError: what training would raise, a topology that cannot be compiled for, or a run that
        does not fit into the devices' memory.
    """
    check_training(config)
    check_places(config)
    prompts = open_prompts(config, open_tokenizer(config))
    for name, opened in (
        ("data.train", open_training(config, prompts)),
        ("data.eval", open_evaluation(config)),
    ):
        for source, facts in opened.fingerprints.items():
            _say(f"{name:12} {source}: {facts['problems'] or 'unlimited'} problems")
    with open_pool(config.verifier) as pool:
        _say(f"verifier     {config.verifier.kind}: {pool.about or 'runs no programs'}")

    devices = topology_devices(topology) if topology else jax.devices()
    shapes = open_shapes(config, devices)
    mesh = shapes.policy.mesh
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    _say(f"devices      {mesh.size} x {devices[0].device_kind}; mesh {axes}")
    plan = make_plan(shapes, _say)
    _say(f"parameters   {plan.parameters:,}")
    for label, size, note in (
        ("state", plan.state_bytes, ": parameters and optimiser, all the time"),
        ("sampler", plan.weight_bytes, ": its own copy of the parameters"),
        ("cache", plan.cache_bytes, ": keys and values of all slots"),
        ("updating", plan.update_bytes, " in all"),
        ("sampling", plan.sampling_bytes, " in all"),
    ):
        _say(f"{label:12} {size / GIB:.3f} GiB per device{note}")
    limit = config.data.max_completion_tokens
    completions = config.num_attempts + config.num_corrections
    _say(f"step         {completions} completions, at most {completions * limit:,} tokens")
    kept = config.checkpoint.keep + config.checkpoint.keep_best + 1
    disk = plan.checkpoint_bytes / GIB
    _say(f"disk         {disk:.3f} GiB a checkpoint, up to {kept * disk:.3f} GiB")
    device_bytes = _memory(devices, topology, device_gib)
    if device_bytes is None:
        known = DEVICE_GIB.get(devices[0].device_kind)
        about = f"{known} GiB by its data sheet" if known else "not known here"
        flag = f"--device_memory={known or 'GIB'}"
        _say(f"memory       of a device: {about}; {flag} looks for what fits")
    else:
        _require_fit(shapes, plan, device_bytes)
    return plan


def _say(line: str) -> None:
    print(line, flush=True)


def _memory(devices: list[Any], topology: str | None, gib: float | None) -> int | None:
    """Bytes of a device, if they are known."""
    if gib is not None:
        return int(gib * GIB)
    stats = None if topology else devices[0].memory_stats()
    return stats.get("bytes_limit") if stats else None


def _require_fit(shapes: Shapes, plan: Plan, device_bytes: int) -> None:
    """Says the largest sizes that fit.

    Raises:
      CipoError: those of the config do not.
    """
    c, have = shapes.config, device_bytes / GIB
    rows = fit_microbatch(shapes, plan, device_bytes, _say)
    if plan.update_bytes > device_bytes:
        advice = "lower config.batch.row_tokens, or shard over more devices (config.mesh.fsdp)"
        raise CipoError(
            f"the update needs {plan.update_bytes / GIB:.2f} GiB, a device has {have:.2f}; "
            f"config.batch.microbatch_rows: got {c.batch.microbatch_rows}, {_wanted(rows, advice)}"
        )
    slots = fit_slots(shapes, plan, device_bytes, _say)
    if plan.sampling_bytes > device_bytes:
        advice = "shard over more devices (config.sampling.tensor)"
        raise CipoError(
            f"sampling needs {plan.sampling_bytes / GIB:.2f} GiB, a device has {have:.2f}; "
            f"config.sampling.slots: got {plan.slots}, {_wanted(slots, advice)}"
        )
    _say(f"fits         a device has {have:.2f} GiB; the largest useful sizes that would fit:")
    _say(f"  batch.microbatch_rows  {rows}")
    _say(f"  sampling.slots         {slots}")


def _wanted(fit: Fit, advice: str) -> str:
    return f"wanted at most {fit}" if fit.size else f"and none would fit: {advice}"
