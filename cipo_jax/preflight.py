"""`--mode=preflight`: what a training run will need, found out without training or loading weights.

    devices     those of this machine, or of --topology=v5e:4x4: compiling for a TPU that is not
                here needs libtpu (`pip install libtpu`), which serves one process at a time
    programs    update, decode chunk and prefill are compiled from shapes alone; bytes are those of
                one device, as the compiler plans them
    data        opened and checked as training does; the verifier is started

On the CPU the compiler plans more temporaries than on accelerators (it computes bfloat16 in
float32). With --device_memory, or where the devices say what they have, a run that does not fit is
an error.
"""

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from cipo_jax.build import correction_prompt_limit, make_model_config, open_engine, open_tokenizer
from cipo_jax.config import Config
from cipo_jax.config_checks import check_training
from cipo_jax.policy import sharding
from cipo_jax.problem_sets import open_evaluation, open_training
from cipo_jax.sampling.programs import abstract_cache, abstract_weights, lower_programs
from cipo_jax.types import CipoError
from cipo_jax.update import Policy, Update, make_policy_update, make_score
from cipo_jax.verification import open_pool

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program; bytes on one device.

    Attributes:
      argument_bytes: what it is given. Of its results, what replaces none of that is in
        `temporary_bytes`.
      flops: as XLA counts them on one device, a loop's body once; None where it does not.
    """

    name: str
    argument_bytes: int
    temporary_bytes: int
    flops: float | None
    seconds: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run needs; bytes on one device.

    Attributes:
      state_bytes: parameters and optimiser state, there all the time.
      weight_bytes: the sampler's own copy of the parameters; 0 if it samples with those.
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
        """While decoding."""
        most = max(p.temporary_bytes for p in self.programs[1:])
        return self.state_bytes + self.weight_bytes + self.cache_bytes + most

    def slots_that_fit(self, device_bytes: int) -> int:
        """With a cache in proportion."""
        free = device_bytes - (self.sampling_bytes - self.cache_bytes)
        return max(0, int(free / self.cache_bytes * self.slots))


def preflight(config: Config, topology: str | None, device_gib: float | None) -> Plan:
    """Checks, plans, prints; returns the plan.

    Raises:
      CipoError: what training would raise, a topology that cannot be compiled for, or a run that
        does not fit into the devices' memory.
    """
    check_training(config)
    tokenizer = open_tokenizer(config)
    for name, opened in (
        ("data.train", open_training(config, tokenizer)),
        ("data.eval", open_evaluation(config)),
    ):
        for source, facts in opened.fingerprints.items():
            print(f"{name:10} {source}: {facts['problems'] or 'no end of'} problems")
    with open_pool(config.verifier) as pool:
        print(f"verifier   {config.verifier.kind}: {pool.about or 'runs no programs'}")

    devices = topology_devices(topology) if topology else jax.devices()
    planned = plan(config, devices, say=lambda line: print(line, flush=True))
    print(f"parameters {planned.parameters:,}")
    for label, size in (
        ("state", planned.state_bytes),
        ("sampler", planned.weight_bytes),
        ("cache", planned.cache_bytes),
        ("update", planned.update_bytes),
        ("sampling", planned.sampling_bytes),
    ):
        print(f"{label:10} {size / _GIB:.3f} GiB per device{_NOTES[label]}")
    r, k, limit = config.rollout, config.correction, config.data.max_completion_tokens
    anchors = round(k.replay_fraction * r.problems_per_step) if k.weight else 0
    completions = r.problems_per_step * r.group_size + anchors * k.group_size
    print(f"step       {completions} completions, at most {completions * limit:,} tokens")
    kept = config.checkpoint.keep + config.checkpoint.keep_best + 1
    disk = planned.checkpoint_bytes / _GIB
    print(f"disk       {disk:.3f} GiB a checkpoint, up to {kept * disk:.3f} GiB")
    _require_fit(planned, _memory(devices, topology, device_gib))
    return planned


_NOTES = {
    "state": ": parameters and optimiser, all the time",
    "sampler": ": its own copy of the parameters",
    "cache": ": keys and values of all slots",
    "update": " in all while the update runs",
    "sampling": " in all while sampling",
}


def topology_devices(topology: str) -> list[Any]:
    """The devices of a TPU that is not here.

    Raises:
      CipoError: libtpu is missing or busy, or does not know the name.
    """
    from jax.experimental.topologies import get_topology_desc

    # The two cores of a v4 chip make one device, as on real ones.
    options = {"chip_config_name": "megacore"} if topology.startswith("v4") else {}
    try:
        return get_topology_desc(topology, platform="tpu", **options).devices
    except Exception as error:  # whatever the plugin raises
        raise CipoError(
            f"--topology={topology}: cannot be compiled for here ({str(error)[:300]}); wanted a "
            "name such as v5e:4x4, libtpu installed, no other process that uses it, and without "
            "a TPU in the machine TPU_SKIP_MDS_QUERY=1 in the environment"
        ) from error


def plan(config: Config, devices: list[Any], say: Any = lambda line: None) -> Plan:
    """Compiles the programs for `devices`; `say` is told of each."""
    c, tokenizer = config, open_tokenizer(config)
    model_config = make_model_config(c, tokenizer)
    mesh = sharding.make_mesh(c.mesh.data, c.mesh.fsdp, c.mesh.tensor, devices=devices)
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    say(f"devices    {mesh.size} x {devices[0].device_kind}; mesh {axes}")
    longest = correction_prompt_limit(c, tokenizer, model_config)
    policy = Policy(
        mesh=mesh,
        model=model_config,
        score=make_score(c, model_config, mesh),
        longest_prompt=c.data.max_prompt_tokens,
        longest_correction_prompt=longest,
    )
    anchors = round(c.correction.replay_fraction * c.rollout.problems_per_step)
    update = make_policy_update(
        c, policy, lambda _: c.optimizer.learning_rate, anchors if c.correction.weight else 0
    )
    hosts = len({device.process_index for device in devices})
    if hosts > 1:
        # Each host samples on its own devices. With the hosts as replicas, what a device holds and
        # computes is the same.
        tensor = c.sampling.tensor or c.mesh.tensor
        sampling_mesh = sharding.make_mesh(hosts, -1, tensor, devices=devices)
        c = dataclasses.replace(c, sampling=dataclasses.replace(c.sampling, tensor=0))
    else:
        sampling_mesh = mesh
    engine = open_engine(c, model_config, sampling_mesh, tokenizer, longest)
    sampler = engine.config, engine.mesh, engine.settings
    lowered = {"update": update.lower(with_reference=bool(c.algorithm.kl_coef))}
    programs = []
    for name, program in (lowered | lower_programs(*sampler)).items():
        programs.append(_compile(name, program))
        p = programs[-1]
        flops = f", {p.flops:.2e} FLOPs" if p.flops else ""
        say(
            f"{name:10} arguments {p.argument_bytes / _GIB:.3f} GiB, temporaries "
            f"{p.temporary_bytes / _GIB:.3f} GiB{flops}, compiled in {p.seconds:.0f} s"
        )
    shares = model_config.param_dtype == model_config.compute_dtype and engine.mesh == mesh
    return Plan(
        parameters=sum(x.size for x in jax.tree.leaves(update.abstract.params)),
        programs=tuple(programs),
        state_bytes=_bytes(update.abstract),
        weight_bytes=0 if shares else _bytes(abstract_weights(*sampler[:2])),
        cache_bytes=_bytes(abstract_cache(*sampler)),
        slots=engine.settings.slots,
        checkpoint_bytes=_checkpoint_bytes(update),
    )


def _compile(name: str, lowered: jax.stages.Lowered) -> Program:
    began = time.monotonic()
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    if memory is None:
        raise CipoError("preflight: the compiler of these devices does not plan memory")
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    costs: Any = compiled.cost_analysis() or {}
    return Program(
        name=name,
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes + max(0, fresh),
        flops=costs.get("flops"),
        seconds=time.monotonic() - began,
    )


def _bytes(tree: Any) -> int:
    """On one device, by the shardings."""
    return sum(
        int(np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def _checkpoint_bytes(update: Update) -> int:
    leaves = jax.tree.leaves((update.abstract.params, update.abstract.opt_state))
    return sum(x.size * x.dtype.itemsize for x in leaves)


def _memory(devices: list[Any], topology: str | None, gib: float | None) -> int | None:
    """Bytes of a device, if they are known."""
    if gib is not None:
        return int(gib * _GIB)
    stats = None if topology else devices[0].memory_stats()
    return stats.get("bytes_limit") if stats else None


def _require_fit(planned: Plan, device_bytes: int | None) -> None:
    if device_bytes is None:
        print("memory     of a device is not known here; give it by --device_memory=GIB")
        return
    have = device_bytes / _GIB
    fitting = planned.slots_that_fit(device_bytes)
    if planned.update_bytes > device_bytes:
        raise CipoError(
            f"the update needs {planned.update_bytes / _GIB:.2f} GiB, a device has {have:.2f}; "
            "lower config.batch.microbatch_rows or row_tokens, or shard over more devices "
            "(config.mesh.fsdp)"
        )
    if planned.sampling_bytes > device_bytes:
        raise CipoError(
            f"sampling needs {planned.sampling_bytes / _GIB:.2f} GiB, a device has {have:.2f}; "
            f"config.sampling.slots: got {planned.slots}, about {fitting} would fit"
        )
    print(f"fits       a device has {have:.2f} GiB; about {fitting} slots would")
