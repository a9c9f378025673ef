"""The sizes that a config leaves open (0): derived from lengths, what is sampled, and the devices.

    batch.row_tokens         the longest sequence that is trained on; on a CPU at least d_model, for
                             prompts with several completions: attention then is a small part
    batch.microbatch_rows    tokens that keep a device busy, in as few equal microbatches
    sampling.tensor          the fewest shards with which the weights take a small share of memory
    sampling.slots           what is sampled at a time, as far as the cache is large enough
    sampling.cache_tokens    every slot at full length, as far as memory allows

They change how fast a run is and how much memory it takes, not what it computes. The number of
verifier workers is decided in `verifiers/judge.py`, which needs no model.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cipo_jax.config.keys import Config
from cipo_jax.config.resolve import changed_config
from cipo_jax.policy import sharding
from cipo_jax.policy.cache.pages import stored_width
from cipo_jax.policy.model import ModelConfig, abstract_params
from cipo_jax.run.devices.memory import device_memory
from cipo_jax.run.hosts.processes import Hosts
from cipo_jax.run.update import Policy, policy_plan, rows_needed, shares_prompts
from cipo_jax.sampling.settings import default_cache_dtype
from cipo_jax.types import CipoError

# Rows are a multiple of this many tokens; on accelerators, a block of their attention kernels.
CPU_BLOCK, ACCELERATOR_BLOCK = 16, 128
# Tokens of a microbatch: on each accelerator, and on a CPU in all.
ACCELERATOR_TOKENS, CPU_TOKENS = 16_384, 2_048
# Of a device's memory: the key/value cache, and the weights that sampling reads.
CACHE_SHARE, WEIGHT_SHARE = 0.25, 0.15
MOST_SLOTS = 256  # of a row shard; more gain little
# Completions end before their limit: slots are planned for this part of the full length.
USUAL_PART = 8
GIB = 2**30


class Size(NamedTuple):
    """A size, and why it has that value."""

    value: int
    reason: str


def derive_sizes(config: Config, policy: Policy, sequences: int = 0) -> dict[str, Size]:
    """{"section.key": size} of every size that is 0 in `config`, except for
    `batch.microbatch_rows` where the rows are too short: `update.rows_needed` refuses them.

    Args:
      sequences: most completions that are sampled together, by a mode that trains nothing and needs
        no sizes of `batch`; 0: those of a training step, and all sizes.

    Raises:
      CipoError: a size that is set does not fit the devices or the longest sequence.
    """
    if sequences:
        return _of_sampling(config, policy, [(sequences, 1)])
    return _of_the_update(config, policy) | _of_sampling(config, policy, sampled_groups(config))


def with_sizes(
    config: Config, policy: Policy, sequences: int = 0, hosts: Hosts | None = None
) -> Config:
    """`config` without the open sizes that `derive_sizes` gives; arguments and errors as there.

    Args:
      hosts: of the run, which all take the sizes of the first: their memories may differ.
    """
    sizes = {k: size.value for k, size in derive_sizes(config, policy, sequences).items()}
    return changed_config(config, hosts.first_says(sizes) if hosts else sizes)


def sampled_groups(config: Config) -> list[tuple[int, int]]:
    """(prompts, completions of each) of each stream of a training step."""
    return [
        (config.rollout.problems_per_step, config.rollout.group_size),
        (config.num_anchors, config.correction.group_size),
    ]


def longest_trained(config: Config, policy: Policy) -> int:
    """Tokens of the longest prompt and completion that an update may be given."""
    corrects = config.num_corrections or config.cold_start.max_steps
    longest = policy.longest_correction_prompt if corrects else policy.longest_prompt
    return longest + policy.longest_completion


def _of_the_update(config: Config, policy: Policy) -> dict[str, Size]:
    sizes, batch = {}, config.batch
    on_cpu = policy.mesh.devices.flat[0].platform == "cpu"
    split = policy.mesh.shape[sharding.TOKENS]
    if not batch.row_tokens:
        longest, block = longest_trained(config, policy), CPU_BLOCK if on_cpu else ACCELERATOR_BLOCK
        why = f"the longest sequence has {longest:,}, in blocks of {block}"
        if split > 1:
            block, why = block * split, f"{why} on each of {split} devices"
        if shares_prompts(policy.mesh) and policy.model.d_model > longest:
            longest, why = policy.model.d_model, "completions share a prompt; as many as d_model"
        tokens = -(-longest // block) * block
        sizes["batch.row_tokens"] = Size(tokens, why)
        batch = dataclasses.replace(batch, row_tokens=tokens)
    if not batch.microbatch_rows:
        try:
            needed = rows_needed(policy, policy_plan(dataclasses.replace(config, batch=batch)))
        except CipoError:  # rows too short: the update says so, and other modes need none
            return sizes
        shards, T = sharding.row_count(policy.mesh), batch.row_tokens
        aim = CPU_TOKENS if on_cpu else ACCELERATOR_TOKENS * shards
        per_shard = 1 if split > 1 else max(1, aim // (T * shards))
        rows = shards * min(per_shard, -(-needed // shards))
        share = "in all on a CPU" if on_cpu else "a device"
        why = f"about {CPU_TOKENS if on_cpu else ACCELERATOR_TOKENS:,} tokens {share}"
        if per_shard * shards > needed:
            why = f"all {needed} rows of an update"
        elif split > 1:
            why = f"a row for {split} devices, which share it"
        elif per_shard == 1:
            why = "a row a device"
        sizes["batch.microbatch_rows"] = Size(rows, why)
    return sizes


def _of_sampling(
    config: Config, policy: Policy, groups: Sequence[tuple[int, int]]
) -> dict[str, Size]:
    """Args: groups: (prompts, completions of each) of what is sampled together."""
    s, sizes = config.sampling, {}
    devices = list(policy.mesh.devices.flat)
    # JAX tells the memory of this host's devices alone.
    own = (d for d in devices if d.process_index == jax.process_index())
    device = next(own, devices[0])
    on_cpu, known = device.platform == "cpu", device_memory(device)
    memory = None if known is None else known.bytes
    tensor = s.tensor
    if not tensor:
        sizes["sampling.tensor"] = _tensor_shards(config, policy, None if on_cpu else memory)
        tensor = sizes["sampling.tensor"].value or policy.mesh.shape["tensor"]
    if policy.mesh.size % tensor:
        raise CipoError(
            f"config.sampling.tensor: got {tensor}, wanted a divisor of {policy.mesh.size}, the "
            "number of devices"
        )
    shards = policy.mesh.size // tensor
    longest = policy.longest_correction_prompt + policy.longest_completion
    full = (-(-longest // s.page_size) + 1) * s.page_size  # a slot's pages at full length
    room = s.cache_tokens
    if not room and memory is not None:
        dtype = s.cache_dtype or default_cache_dtype(policy.model.compute_dtype, device.platform)
        each = _cache_token_bytes(policy.model, dtype, device.platform, tensor)
        room = max(full, int(CACHE_SHARE * memory) // each) * shards
    slots = s.slots
    if not slots:
        most = MOST_SLOTS if on_cpu else MOST_SLOTS * shards
        sequences = max(prompts * samples for prompts, samples in groups)
        hosts = len({device.process_index for device in devices})
        wanted = _slots_for_groups(groups, hosts, shards)
        slots, why = min(wanted, most), f"{sequences:,} are sampled together"
        if wanted > -(-sequences // shards) * shards:
            why += f", and {shards} shards get whole groups"
        if wanted > most:
            why += f"; more than {MOST_SLOTS} {'on a CPU' if on_cpu else 'a shard'} gain little"
        usual = room * USUAL_PART // full
        if room and slots > usual:
            slots = max(1, usual)  # a cache that is too small is refused where its pages are made
            why = f"the cache holds so many at 1/{USUAL_PART} of {full:,} tokens"
        slots = -(-slots // shards) * shards
        sizes["sampling.slots"] = Size(slots, why)
    if not s.cache_tokens:
        whole = slots * full
        if not room or whole <= room:
            sizes["sampling.cache_tokens"] = Size(0, f"every slot at full length: {whole:,} tokens")
        else:
            why = f"{CACHE_SHARE:.0%} of a device's memory; all slots at full length: {whole:,}"
            sizes["sampling.cache_tokens"] = Size(room, why)
    return sizes


def _slots_for_groups(groups: Sequence[tuple[int, int]], hosts: int, shards: int) -> int:
    """Slots with which no completion waits: prompts are shared out over hosts, and on each over its
    row shards; the completions of one stay together. More than there are completions where prompts
    do not divide by hosts and shards."""
    most = 0
    for prompts, samples in groups:
        of_host = -(-prompts // hosts)
        of_shard = -(-of_host // max(1, shards // hosts))
        most = max(most, shards * of_shard * samples)
    return most


def _tensor_shards(config: Config, policy: Policy, memory: int | None) -> Size:
    """The fewest tensor shards with which the weights take their share of `memory`."""
    hosts = len({device.process_index for device in policy.mesh.devices.flat})
    own = policy.mesh.size // hosts  # each host samples on its own devices
    if memory is None or own == 1:
        return Size(0, "as in mesh")
    m = policy.model
    size = jnp.dtype(m.compute_dtype).itemsize
    weights = size * sum(x.size for x in jax.tree.leaves(abstract_params(m)))
    possible = tensor_choices(m, own)
    fits = [t for t in possible if weights / t <= WEIGHT_SHARE * memory]
    chosen = fits[0] if fits else possible[-1]
    return Size(
        chosen,
        f"weights of {weights / chosen / GIB:.1f} GiB a device, which has {memory / GIB:.0f}",
    )


def tensor_choices(model: ModelConfig, devices: int) -> list[int]:
    """Into how many tensor shards a host may split the model over its own devices."""
    heads, mlp = model.num_heads, model.mlp_dim
    return [n for n in range(1, devices + 1) if not (devices % n or heads % n or mlp % n)]


def _cache_token_bytes(model: ModelConfig, dtype: str, platform: str, tensor: int) -> int:
    """Bytes of a token's keys and values on one device."""
    heads = model.num_kv_heads
    heads = heads // tensor if heads % tensor == 0 else heads
    width = stored_width(model.head_dim, platform)
    return 2 * model.num_layers * heads * width * jnp.dtype(dtype).itemsize
