"""The sizes that a config leaves open."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from cipo_jax.config import default_config
from cipo_jax.config.keys import Config
from cipo_jax.config.resolve import resolve
from cipo_jax.policy.model import ModelConfig
from cipo_jax.run.devices.chips import CHIPS
from cipo_jax.run.devices.memory import device_memory
from cipo_jax.run.hosts.processes import share_of
from cipo_jax.run.sizes import GIB, _slots_for_groups, derive_sizes, with_sizes
from cipo_jax.run.update import Policy, policy_plan, rows_needed
from cipo_jax.types import CipoError

QWEN3_4B = ModelConfig(
    vocab_size=151_936,
    num_layers=36,
    d_model=2560,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    mlp_dim=9728,
    tie_embeddings=True,
    compute_dtype="bfloat16",
)
TINY = ModelConfig(
    vocab_size=50, num_layers=2, d_model=8, num_heads=4, num_kv_heads=2, head_dim=4, mlp_dim=16
)


def policy(
    kind: str = "cpu", devices: int = 1, model: ModelConfig = TINY, lengths: Any = (24, 72, 44)
) -> Policy:
    """On `devices` of a kind that need not be here, all on the fsdp axis."""
    one = SimpleNamespace(
        platform="cpu" if kind == "cpu" else "tpu",
        device_kind=kind,
        process_index=0,
        memory_stats=lambda: None,
    )
    mesh: Any = SimpleNamespace(
        size=devices,
        devices=SimpleNamespace(flat=[one] * devices),
        shape={"data": 1, "fsdp": devices, "context": 1, "tensor": 1},
    )
    score: Any = None
    return Policy(mesh, model, score, *lengths)


def config(**changes: Any) -> Config:
    raw = default_config()
    raw.sampling.page_size = 64
    raw.update_from_flattened_dict(changes)
    return resolve(raw)


def values(config: Config, policy: Policy, sequences: int = 0) -> dict[str, int]:
    return {key: size.value for key, size in derive_sizes(config, policy, sequences).items()}


MATH = {
    "rollout.problems_per_step": 128,
    "correction.replay_fraction": 0.5,
    "data.max_prompt_tokens": 1024,
    "data.max_attempt_tokens": 8192,
    "data.max_completion_tokens": 8192,
}


@pytest.mark.parametrize(
    ("kind", "devices", "tensor", "shards"),
    [("TPU v5e", 16, 4, 4), ("TPU v4", 16, 2, 8), ("TPU v5p", 8, 1, 8)],
)
def test_a_4b_model_on_a_slice(kind: str, devices: int, tensor: int, shards: int) -> None:
    math = policy(kind, devices, QWEN3_4B, (1024, 9300, 8192))
    sizes = values(config(**MATH), math)
    assert sizes["batch.row_tokens"] == 17536  # 9300 + 8192 = 17492, in blocks of 128
    assert sizes["batch.microbatch_rows"] == devices  # a row of more than 16k tokens on each
    assert sizes["sampling.tensor"] == tensor
    # Keys and values of a token, on one device of a row shard, in bfloat16.
    each = 2 * 36 * (8 // tensor) * 128 * 2
    assert sizes["sampling.cache_tokens"] == CHIPS[kind].memory // 4 // each * shards
    assert sizes["sampling.slots"] % shards == 0
    assert 100 < sizes["sampling.slots"] <= 1024


def test_a_row_that_devices_share_is_a_multiple_of_their_blocks() -> None:
    shared = policy("TPU v5e", 16, QWEN3_4B, (1024, 9300, 8192))
    shared.mesh.shape.update(fsdp=4, context=4)
    sizes = derive_sizes(config(**MATH), shared)
    assert sizes["batch.row_tokens"].value == 17920  # 17492, in blocks of 4 x 128
    # One for four devices, however few tokens that is for each.
    assert sizes["batch.microbatch_rows"] == (4, "a row for 4 devices, which share it")


def test_a_small_step_needs_no_more_than_it_has() -> None:
    few = {"rollout.problems_per_step": 3, "rollout.group_size": 4, "correction.group_size": 2}
    sizes = values(config(**few), policy())
    assert sizes == {
        "batch.row_tokens": 128,  # 72 + 44, in blocks of 16
        # 12 attempts of up to 68 tokens and 6 corrections of up to 116, a row each.
        "batch.microbatch_rows": 16,
        "sampling.tensor": 0,
        "sampling.slots": 12,
        "sampling.cache_tokens": 0,
    }
    assert values(config(**few, **{"correction.weight": 0.0}), policy()) == sizes | {
        "batch.row_tokens": 80,  # 24 + 44
        "batch.microbatch_rows": 12,
    }


def test_rows_on_a_cpu_hold_a_prompt_with_several_completions() -> None:
    wide = dataclasses.replace(policy().model, d_model=300)
    cpu, tpu = (dataclasses.replace(policy(*on), model=wide) for on in ((), ("TPU v5e", 1)))
    assert values(config(), cpu)["batch.row_tokens"] == 304  # in blocks of 16
    assert values(config(), tpu)["batch.row_tokens"] == 128  # the longest sequence


def test_what_is_asked_decides_the_slots() -> None:
    assert values(config(), policy(), 5)["sampling.slots"] == 5
    assert values(config(), policy(), 5_000)["sampling.slots"] == 256
    assert values(config(), policy("TPU v5p", 4), 5_000)["sampling.slots"] == 1024


def test_a_size_that_is_set_is_kept_and_the_others_follow_it() -> None:
    sizes = values(config(**{"batch.row_tokens": 500, "sampling.slots": 7}), policy())
    assert not {"batch.row_tokens", "sampling.slots"} & set(sizes)
    assert sizes["batch.microbatch_rows"] == 4  # of 500 tokens, 2,048 in all
    every = config(
        **{
            "batch.row_tokens": 500,
            "batch.microbatch_rows": 2,
            "sampling.slots": 7,
            "sampling.tensor": 1,
            "sampling.cache_tokens": 4096,
        }
    )
    assert with_sizes(every, policy()) == every


@pytest.mark.parametrize(
    ("hosts", "shards", "groups", "slots"),
    [
        (1, 1, [(128, 8), (64, 8)], 1024),
        (4, 16, [(128, 8), (64, 8)], 1024),
        (16, 16, [(100, 8)], 16 * 7 * 8),  # seven prompts on the first hosts
        (64, 256, [(128, 8), (64, 8)], 256 * 8),  # two prompts a host, on two of its four shards
        (256, 1024, [(128, 8)], 1024 * 8),
        (1, 4, [(5, 1)], 8),
    ],
)
def test_no_completion_waits_for_a_slot_where_groups_stay_together(
    hosts: int, shards: int, groups: list[tuple[int, int]], slots: int
) -> None:
    """Against the shares themselves, and the shards with the fewest that prompts go to."""
    assert _slots_for_groups(groups, hosts, shards) == slots
    fullest = 0
    for prompts, samples in groups:
        for host in range(hosts):
            own = len(share_of(prompts, host, hosts))
            fullest = max(fullest, -(-own // (shards // hosts)) * samples)
    assert slots == fullest * shards


def test_groups_that_do_not_divide_get_more_slots_and_a_reason() -> None:
    changes = {"rollout.problems_per_step": 5, "rollout.group_size": 3, "correction.weight": 0.0}
    size = derive_sizes(config(**changes), policy("TPU v5p", 4))["sampling.slots"]
    assert size.value == 4 * 2 * 3
    assert size.reason == "15 are sampled together, and 4 shards get whole groups"


def test_a_cache_beyond_memory_is_cut_and_its_slots_with_it() -> None:
    wide = dataclasses.replace(TINY, num_layers=100, num_kv_heads=64, num_heads=64, head_dim=512)
    long = policy(model=wide, lengths=(1000, 30_000, 2000))
    memory = device_memory(long.mesh.devices.flat[0])
    assert memory is not None
    each = 2 * 100 * 64 * 512 * 4
    sizes = values(config(), long)
    full = (-(-32_000 // 64) + 1) * 64
    assert sizes["sampling.cache_tokens"] == max(full, memory.bytes // 4 // each)
    assert sizes["sampling.slots"] < 256


@pytest.mark.parametrize(("page", "tokens", "lengths"), [(64, 10, (24, 72, 44)), (1, 0, (2, 2, 1))])
def test_there_is_a_slot_in_the_smallest_cache(page: int, tokens: int, lengths: Any) -> None:
    keys = {"sampling.page_size": page, "sampling.cache_tokens": tokens}
    assert values(config(**keys), policy(lengths=lengths), 1)["sampling.slots"] == 1


def test_rows_that_are_too_short_leave_other_sizes_to_modes_without_an_update() -> None:
    sizes = values(config(**{"batch.row_tokens": 60}), policy(), 5)
    assert sizes["sampling.slots"] == 5 and "batch.microbatch_rows" not in sizes


def test_rows_that_are_too_short_are_named_once_with_what_both_streams_need() -> None:
    plan = policy_plan(config(**{"batch.row_tokens": 60}))
    with pytest.raises(CipoError, match=r"batch.row_tokens: got 60, wanted 0 .* at least 116"):
        rows_needed(policy(), plan)


@pytest.mark.parametrize("tensor", [3, 16])
def test_tensor_shards_that_do_not_divide_the_devices_are_refused(tensor: int) -> None:
    with pytest.raises(CipoError, match=rf"sampling.tensor: got {tensor}, wanted a divisor of 8"):
        derive_sizes(config(**{"sampling.tensor": tensor}), policy("TPU v5p", 8))


def test_tensor_shards_that_take_what_is_left_are_counted_on_the_mesh() -> None:
    split = policy(devices=8)
    split.mesh.shape.update(fsdp=1, tensor=8)
    sizes = values(config(**{"mesh.fsdp": 1, "mesh.tensor": -1}), split, 5)
    assert sizes["sampling.slots"] == 5  # one row shard


def test_who_only_samples_needs_no_sizes_of_an_update() -> None:
    short = config(**{"batch.row_tokens": 60})  # too short to train with this policy
    assert all(key.startswith("sampling.") for key in values(short, policy(), 5))


def test_hosts_ask_their_own_device_for_memory_and_take_the_sizes_of_the_first() -> None:
    def refuses() -> Any:
        raise RuntimeError("MemoryStats is only supported for addressable PjRt devices.")

    gpu = {"platform": "gpu", "device_kind": "a GPU"}
    other = SimpleNamespace(**gpu, process_index=1, memory_stats=refuses)
    own = SimpleNamespace(**gpu, process_index=0, memory_stats=lambda: {"bytes_limit": 80 * GIB})
    two = policy(devices=4)
    two.mesh.devices.flat[:] = [other, other, own, own]
    assert values(config(), two)["sampling.tensor"] == 1
    first: Any = SimpleNamespace(first_says=lambda sizes: sizes | {"sampling.slots": 11})
    assert with_sizes(config(), two, hosts=first).sampling.slots == 11
