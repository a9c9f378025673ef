"""A rollout on paper: closed forms, and the engine's own counts."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from forms import fast
from tiny_engines import PROMPTS, SAMPLES, Sampler

from cipo_jax.policy.config import ModelConfig
from cipo_jax.run.forecast.decoding import Rollout, Shard, simulate
from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.settings import EngineSettings

MODEL = ModelConfig(
    vocab_size=32, num_layers=3, d_model=8, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=16
)
SHARD = Shard(MODEL, "float32", tensor=1, bandwidth=1e6, flops=1e18)


def sampled(lengths: Any, prompt: int = 5, shard: Shard = SHARD, **settings: Any) -> Rollout:
    """Completions of `lengths` [prompts, samples]."""
    standard: dict[str, Any] = {"slots": 64, "chunk": 4, "page_size": 4}
    lengths = np.asarray(lengths)
    engine = EngineSettings(
        max_prompt_tokens=8, max_new_tokens=40, choice=Choice(()), **{**standard, **settings}
    )
    return simulate(engine, 1, shard, [prompt] * len(lengths), lengths)


def test_one_slot_and_equal_lengths() -> None:
    """A step reads the weights, and the keys and values of the prompt and what there is."""
    found = sampled([[10], [10], [10]], slots=1)
    each = 10 * SHARD.weight_seconds + SHARD.token_seconds * sum(range(5, 15))
    assert found.parts["weights"] + found.parts["cache"] == pytest.approx(3 * each)
    assert found.seconds == pytest.approx(3 * each + found.parts["prefill"])
    assert found.stats.decode_steps == 30
    assert np.diff(found.finished) == pytest.approx(each + found.parts["prefill"] / 3)


def test_with_a_slot_for_each_a_rollout_takes_as_long_as_its_longest() -> None:
    found = sampled([[3, 12, 7], [9, 1, 12]])
    assert found.stats.decode_steps == 12
    assert found.parts["weights"] == pytest.approx(12 * SHARD.weight_seconds)
    reads = sum(sum(range(5, 5 + n)) for n in (3, 12, 7, 9, 1, 12))
    assert found.parts["cache"] == pytest.approx(reads * SHARD.token_seconds)
    assert found.finished[4] < found.finished[1] == found.seconds


def test_products_bound_where_memory_is_fast() -> None:
    shard = dataclasses.replace(SHARD, bandwidth=1e18, flops=1e6)
    found = sampled([[8] * 6], shard=shard)
    parameters = 2 * 32 * 8 + 3 * (2 * 64 + 2 * 32 + 3 * 128) + 3 * 16 + 8
    one = 2 * (parameters - 32 * 8) / 1e6  # FLOPs of a row; it computes 8, two of them empty
    assert found.parts["products"] == pytest.approx(8 * 8 * one)
    assert not {"weights", "cache"} & found.parts.keys()


def test_tensor_shards_read_their_part_and_exchange() -> None:
    two = dataclasses.replace(SHARD, tensor=2, exchange_seconds=0.5)
    assert two.weight_seconds == SHARD.weight_seconds / 2
    assert two.token_seconds == SHARD.token_seconds  # one head of keys is on both
    assert (SHARD.latency, two.latency) == (0.0, 0.5 * (2 * 3 + 3))
    assert sampled([[8]], shard=two).parts["latency"] == 8 * two.latency


def test_prefill_computes_its_tokens_and_what_they_see() -> None:
    shard = dataclasses.replace(SHARD, bandwidth=math.inf, flops=1.0)
    layers = 3 * (2 * 64 + 2 * 32 + 3 * 128 + 2 * 8) + 8
    seen = sum(range(101, 117))
    assert shard.prefill_seconds(2, 16, 100) == 2 * (2 * 16 * layers + 4 * 8 * 3 * seen)
    # Where products are fast, it reads the layers once, and not the head.
    assert SHARD.prefill_seconds(2, 16, 100) == pytest.approx(4 * layers / 1e6)


def test_the_host_adds_to_the_device_unless_chunks_are_dispatched_ahead() -> None:
    def host(ahead: bool, turn: float) -> float:
        settings = EngineSettings(8, 40, Choice(()), slots=1, chunk=4, dispatch_ahead=ahead)
        return simulate(settings, 1, SHARD, [5], np.array([[8]]), turn).parts.get("host", 0.0)

    assert host(False, 1.0) == 2.0
    # Hidden by the device, but for the chunk dispatched before the end was known.
    assert host(True, 1e-9) == 1e-9
    assert host(True, 1e3) == pytest.approx(3e3, rel=0.01)


@pytest.mark.parametrize(
    ("mesh", "settings"),
    fast(
        [
            ((1, 1, 1), {"slots": 5, "cache_tokens": 40}),
            ((2, 1, 1), {"slots": 6, "dispatch_ahead": True, "prefill_tokens": 16}),
        ],
        1,
        arguments=2,
    ),
)
def test_the_schedule_is_the_engines(mesh: tuple[int, int, int], settings: dict[str, Any]) -> None:
    """Steps, rows, pages, prefills and evictions, for the lengths that the engine has drawn. An
    evicted completion may find its tokens in the cache where another began with the same."""
    sampler = Sampler(mesh, **settings)
    done, engine = sampler(), sampler.engine
    lengths = np.array([len(done[i].tokens) for i in range(len(done))]).reshape(-1, SAMPLES)
    assert len(set(lengths.reshape(-1))) > 3
    prompts = [len(prompt) for prompt in PROMPTS]
    found = simulate(engine.settings, mesh[0] * mesh[1], SHARD, prompts, lengths)
    evicts = "cache_tokens" in settings
    texts = {"reused_tokens": 0, "prefill_positions": 0} if evicts else {}
    counted, wanted = (dataclasses.replace(stats, **texts) for stats in (found.stats, engine.stats))
    assert counted == wanted
    assert counted.decode_steps > 0 and (counted.evictions > 0) == evicts
