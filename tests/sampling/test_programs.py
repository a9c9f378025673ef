"""The engine's programs, compiled from shapes alone."""

import dataclasses

import jax
import pytest
from tiny_models import TINY_CONFIG

from cipo_jax.policy import sharding
from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.programs import abstract_cache, lower_decode, lower_programs
from cipo_jax.sampling.settings import EngineSettings

SETTINGS = EngineSettings(
    max_prompt_tokens=24,
    max_new_tokens=16,
    choice=Choice(stop_ids=(1,)),
    slots=4,
    cache_tokens=1 << 16,
    prefill_tokens=32,
)


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_the_cache_is_updated_in_place(compute_dtype: str) -> None:
    """A copy of it, or a conversion to another dtype and back, would show as temporary memory."""
    config = dataclasses.replace(TINY_CONFIG, compute_dtype=compute_dtype)
    mesh = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
    size = sum(x.size * x.dtype.itemsize for x in abstract_cache(config, mesh, SETTINGS))
    for name, lowered in lower_programs(config, mesh, SETTINGS).items():
        memory = lowered.compile().memory_analysis()
        assert memory is not None
        assert memory.temp_size_in_bytes < 0.5 * size, name


@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize("kv_heads", [2, 3])
def test_no_decode_program_copies_the_cache(slots: int, kv_heads: int) -> None:
    """Those of few slots: XLA:CPU rewrites a batch of one in a way that copies the whole cache."""
    config = dataclasses.replace(
        TINY_CONFIG, num_heads=2 * kv_heads, num_kv_heads=kv_heads, head_dim=64
    )
    mesh = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
    settings = dataclasses.replace(SETTINGS, slots=slots, page_size=16, chunk=2)
    size = sum(x.size * x.dtype.itemsize for x in abstract_cache(config, mesh, settings))
    memory = lower_decode(config, mesh, settings).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 0.5 * size
