"""The decode chunk by itself: when it ends, what it leaves alone, and that it copies no cache."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
import tiny_engines
from tiny_engines import CONFIG, LIMIT, STOP, params

from cipo_jax.policy.cache.pages import empty_pages
from cipo_jax.sampling import decode
from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.decode import ChunkResult, Slots, decode_chunk, empty_slots
from cipo_jax.sampling.plan import chunk_plan
from cipo_jax.sampling.requests import CachedPrompt, Request, Row

SLOTS, CHUNK, PAGE, WIDTH = 8, 5, 4, 5


def rows(limits: dict[int, int]) -> list[Row]:
    """A row in each slot of `limits`, at the start of a prompt of one token."""
    made = []
    for slot, limit in limits.items():
        prompt = CachedPrompt(np.array([slot + 2], np.int32), shard=0, waiting=0)
        request = Request(slot, np.zeros(2, np.uint32), 1.0, limit, prompt, prompt.tokens, slot)
        made.append(Row(request, slot, 0, list(range(WIDTH * slot, WIDTH * (slot + 1)))))
    return made


def arguments(limits: dict[int, int], fresh: bool = True) -> tuple[Any, Any, Any]:
    """pages, slots, plan."""
    c, members = CONFIG, rows(limits)
    pages = empty_pages(c.num_layers, SLOTS * WIDTH, PAGE, c.num_kv_heads, c.head_dim, "float32")
    plan = chunk_plan(
        [members], 8, members if fresh else [], [[]], slots=SLOTS, width=WIDTH, page_size=PAGE
    )
    return pages, empty_slots(SLOTS), plan


@pytest.fixture(scope="module")
def chunk() -> Any:
    """The compiled chunk, and the number of steps it has taken."""
    steps: list[int] = []
    real = decode.choose_tokens

    def counted(*args: Any) -> Any:
        jax.debug.callback(lambda: steps.append(1))
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "choose_tokens", counted)
        program = jax.jit(
            functools.partial(decode_chunk, CONFIG, (), Choice(stop_ids=STOP), CHUNK, params())
        )
        program(*arguments({}))  # traced while patched

    def run(limits: dict[int, int], slots: Slots | None = None) -> Any:
        steps.clear()
        pages, empty, plan = arguments(limits, fresh=slots is None)
        out = jax.device_get(program(pages, slots or empty, plan))
        jax.effects_barrier()
        return *out, len(steps)

    return run


def test_it_ends_with_the_last_row_and_not_before(chunk: Any) -> None:
    _, slots, result, steps = chunk({0: 2, 3: 3, 4: 1})
    lengths = np.count_nonzero(result.logprobs, axis=0)
    assert steps == result.sampled.max() == lengths.max() <= 3
    assert result.sampled.tolist()[:3] == lengths.tolist()[:3] and not result.live.any()
    # Rows beyond the three, and the slots that no row names, are as they were.
    assert not lengths[3:].any() and not np.delete(slots.sampled, [0, 3, 4]).any()
    assert slots.sampled[[0, 3, 4]].tolist() == result.sampled[:3].tolist()


def test_it_ends_at_the_chunk_and_goes_on_in_the_next(chunk: Any) -> None:
    everywhere = dict.fromkeys(range(SLOTS), LIMIT)
    _, slots, first, steps = chunk(everywhere)
    assert steps == CHUNK and first.live.any()
    _, later, second, steps = chunk(everywhere, slots)
    assert 1 <= steps <= CHUNK
    for i in range(SLOTS):
        tokens = first.tokens[: first.sampled[i], i]
        stopped = bool(np.isin(tokens[-1], STOP))
        assert first.live[i] != stopped and (stopped or first.sampled[i] == CHUNK)
        if stopped:  # nothing more is drawn
            assert second.sampled[i] == first.sampled[i] and not second.tokens[:, i].any()
        else:
            assert second.sampled[i] > CHUNK and later.position[i] == second.sampled[i]


def test_nothing_live_takes_no_step(chunk: Any) -> None:
    pages, _, result, steps = chunk({})
    assert steps == 0 and not result.tokens.any() and not any(x.any() for x in pages)


def test_the_cache_is_updated_in_place() -> None:
    """Donated pages come back as the result: the program holds the cache once."""
    pages, slots, plan = arguments({0: 2})
    program = jax.jit(
        functools.partial(decode_chunk, CONFIG, (), Choice(stop_ids=STOP), CHUNK),
        donate_argnums=(1, 2),
    )
    memory = program.lower(params(), pages, slots, plan).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= sum(x.nbytes for x in pages)


def test_the_engine_donates_its_cache() -> None:
    sampler = tiny_engines.sampler()
    sampler()
    held = sampler.engine._pages
    assert held is not None
    sampler(key=1)
    assert all(x.is_deleted() for x in held)


def test_result_has_a_row_for_each_of_the_plan(chunk: Any) -> None:
    _, _, result, _ = chunk({1: 1})
    assert isinstance(result, ChunkResult)
    assert {x.shape[-1] for x in jax.tree.leaves(result)} == {8}
