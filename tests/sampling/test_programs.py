"""The engine's programs, compiled from shapes alone."""

import dataclasses
import itertools
import math
import re
from collections.abc import Collection, Iterator
from typing import Any

import jax
import pytest
from forms import fast
from tiny_models import TINY_CONFIG

from cipo_jax.policy import sharding
from cipo_jax.policy.config import ModelConfig
from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.programs import abstract_cache, lower_decode, lower_prefill
from cipo_jax.sampling.settings import (
    EngineSettings,
    context_pages,
    prefill_rows,
    prefill_widths,
    row_bucket,
)

# A cache so large that nothing else in these programs has its size.
SETTINGS = EngineSettings(
    max_prompt_tokens=24,
    max_new_tokens=16,
    choice=Choice(stop_ids=(1,)),
    chunk=2,
    page_size=16,
    cache_tokens=1 << 16,
)
# Heads, and heads of keys and values; sizes of 1 are those that a compiler treats in its own way.
HEADS: dict[str, dict[str, Any]] = {
    "Gemma 3 270M": {
        "num_heads": 4,
        "num_kv_heads": 1,
        "windows": (4, None),
        "post_norms": True,
        "qk_norm": True,
    },
    "one kv head": {"num_heads": 4, "num_kv_heads": 1},
    "Qwen2.5 0.5B": {"num_heads": 14, "num_kv_heads": 2, "attention_bias": True},
    "SmolLM2 135M": {"num_heads": 9, "num_kv_heads": 3},
}
# One slot and one stretch of a prompt, as with one prompt; and several numbers of rows.
SLOTS = {1: 16, 20: 192}  # slots: prefill_tokens
# What has the size of the cache without being a copy of it. What fusions do is listed as well.
IN_PLACE = {
    "parameter", "get-tuple-element", "tuple", "bitcast", "while", "call", "fusion",
    "dynamic-update-slice", "scatter",
}  # fmt: skip


def one_device() -> jax.sharding.Mesh:
    return sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])


def every_program(
    config: ModelConfig, settings: EngineSettings, names: Collection[str] = ()
) -> Iterator[tuple[str, jax.stages.Lowered]]:
    """All that the engine may compile with these settings, on one device; or those of `names`."""
    s, mesh = settings, one_device()
    numbers = range(1, s.slots + 1)
    for rows in sorted({row_bucket(s.slots, live) for live in numbers}):
        name = f"decode {rows}"
        if not names or name in names:
            yield name, lower_decode(config, mesh, s, rows)
    starts = range(s.max_prompt_tokens + s.max_new_tokens)
    for width in prefill_widths(s):
        for rows in sorted({prefill_rows(s, 1, width, wanted) for wanted in numbers}):
            for context in sorted({context_pages(s, start) for start in starts}):
                name = f"prefill {rows} x {width} after {context} pages"
                if not names or name in names:
                    yield name, lower_prefill(config, mesh, s, width, context, rows)


def whole_cache_written(lowered: jax.stages.Lowered, cache: Any) -> list[str]:
    """The instructions of the compiled program that write an array as large as one of `cache`, and
    not in place."""
    # The level concerns the machine code alone.
    compiled = lowered.compile({"xla_backend_optimization_level": 0})
    memory = compiled.memory_analysis()
    assert memory is not None
    found = []
    if memory.temp_size_in_bytes > 0.5 * min(x.size * x.dtype.itemsize for x in cache):
        found.append(f"{memory.temp_size_in_bytes} bytes of temporaries")
    if memory.alias_size_in_bytes < sum(x.size * x.dtype.itemsize for x in cache):
        found.append("it is not returned where it was")
    size = min(x.size for x in cache)
    for line in (compiled.as_text() or "").splitlines():
        array = re.search(r"= \w+\[([\d,]+)\]\S* ([\w\-]+)\(", line)
        if not array or math.prod(map(int, array[1].split(","))) < size:
            continue
        if array[2] not in IN_PLACE:
            found.append(line.strip()[:200])
    return found


def shaped(heads: str, slots: int) -> tuple[ModelConfig, EngineSettings, Any]:
    """A small model with heads of `HEADS`, settings for some `SLOTS`, and the cache's shapes."""
    sizes = {"num_layers": 2, "vocab_size": 64, "d_model": 16, "mlp_dim": 16, "head_dim": 64}
    config = dataclasses.replace(TINY_CONFIG, **{**sizes, **HEADS[heads]})
    s = dataclasses.replace(SETTINGS, slots=slots, prefill_tokens=SLOTS[slots])
    return config, s, abstract_cache(config, one_device(), s)


@pytest.mark.parametrize("heads", fast(list(HEADS), 0))
def test_programs_of_one_prompt_update_the_cache_in_place(heads: str) -> None:
    config, s, cache = shaped(heads, 1)
    some = {"decode 1", "prefill 1 x 16 after 0 pages", "prefill 1 x 32 after 3 pages"}
    for name, lowered in every_program(config, s, some):
        assert not whole_cache_written(lowered, cache), name


EVERY = [
    pytest.param(heads, slots, marks=[pytest.mark.long] if i else [])
    for i, (heads, slots) in enumerate(itertools.product(HEADS, SLOTS))
]


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "slots"), EVERY)
def test_every_program_updates_the_cache_in_place(heads: str, slots: int) -> None:
    config, s, cache = shaped(heads, slots)
    for name, lowered in every_program(config, s):
        assert not whole_cache_written(lowered, cache), name


def test_a_decode_step_multiplies_with_weights_where_they_are() -> None:
    """It copies none out of a stack, which takes as long as the product where rows are few."""
    config = dataclasses.replace(TINY_CONFIG, d_model=24, mlp_dim=40)
    s = dataclasses.replace(SETTINGS, slots=2)
    compiled = lower_decode(config, one_device(), s).compile({"xla_backend_optimization_level": 0})
    written = re.findall(r"= f32\[([\d,]+)\]\S* ([\w\-]+)\(", compiled.as_text() or "")
    matrices = {(24, 40), (40, 24), (1, 24, 40), (1, 40, 24)}
    how = {opcode for shape, opcode in written if tuple(map(int, shape.split(","))) in matrices}
    assert how == {"parameter", "get-tuple-element"}


def test_a_bfloat16_model_updates_the_cache_in_place() -> None:
    """Not by a conversion of the cache to another dtype and back."""
    config = dataclasses.replace(TINY_CONFIG, compute_dtype="bfloat16")
    s = dataclasses.replace(SETTINGS, slots=1, prefill_tokens=16)
    mesh = one_device()
    cache = abstract_cache(config, mesh, s)
    for lowered in (lower_decode(config, mesh, s), lower_prefill(config, mesh, s, 16, 1)):
        assert not whole_cache_written(lowered, cache)
