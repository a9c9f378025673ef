"""What the engine does with its cache: sharing, eviction, leaks, compilations."""

from typing import Any

import jax
import jax.monitoring
import numpy as np
import pytest
import tiny_engines
from forms import fast
from tiny_engines import (
    LIMIT,
    PROMPTS,
    SAMPLES,
    TEMPERATURE,
    VOCAB,
    Ask,
    assert_same,
    assert_teacher_forced,
    completions,
    params,
    sampler,
)

from cipo_jax.sampling.settings import EngineStats


def fresh(**settings) -> tiny_engines.Sampler:
    """The shared engine without anything in its cache and without history."""
    got = sampler(**settings)
    got.engine.close()
    got.engine.stats = EngineStats()
    return got


def random_tokens(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, length).astype(np.int32)


# Sharing.


def test_the_prompt_of_a_group_is_prefilled_once() -> None:
    got = fresh()
    got([PROMPTS[1]], samples=16)  # twice as many as slots
    stats = got.engine.stats
    assert (stats.prompt_tokens, stats.reused_tokens) == (len(PROMPTS[1]) - 1, 0)


def test_a_later_prompt_finds_the_pages_that_it_has_in_common() -> None:
    """Pages of four: of eight equal tokens both whole pages are found."""
    got = fresh(max_prompt_tokens=24)
    common = random_tokens(9)
    first = np.concatenate([common, random_tokens(6, seed=1)])
    second = np.concatenate([common, random_tokens(11, seed=2)])
    got([first])
    assert got.engine.stats.reused_tokens == 0
    both = got([second, common])
    assert got.engine.stats.reused_tokens == 8 + 8
    again = got([second])
    assert got.engine.stats.reused_tokens == 16 + 16  # of 19 tokens before the last
    # Found or computed, it is the same.
    got.engine.close()
    assert_same(got([second, common]), both)
    assert_same(again, {r: c for r, c in both.items() if r < SAMPLES})


def test_other_parameters_find_nothing() -> None:
    """Even if only one array is another."""
    got = fresh()
    before = got()
    kept = got.params
    try:
        got.params = {**kept, "final_norm": jax.tree.map(lambda x: 2 * x, kept["final_norm"])}
        after = got()
        assert got.engine.stats.reused_tokens == 4  # PROMPTS share a page among themselves
        assert any(after[r].tokens.tolist() != before[r].tokens.tolist() for r in before)
    finally:
        got.params = kept
    assert_same(got(), before, tolerance=0)


# Eviction.


def test_a_full_cache_evicts_the_youngest() -> None:
    got = fresh(cache_tokens=28)
    with jax.set_mesh(got.mesh):
        order = [r for r, _ in got.in_order()]
    stats = got.engine.stats
    assert stats.evictions > 0 and 0 < stats.peak_pages <= 7
    # The oldest request is never evicted: it is out before the last ones begin.
    assert order.index(0) < len(order) // 2


@pytest.mark.parametrize(
    ("lengths", "samples"),
    [((32, 32), 1), ((32, 32, 5, 7, 32), 1), ((31, 31), 3), ((28, 8, 8, 8), 2), ((18, 18, 3), 2)],
)
def test_prompts_that_do_not_fit_beside_one_another_take_turns(
    lengths: tuple[int, ...], samples: int
) -> None:
    """Ten pages of four tokens; a prompt of 32 takes eight."""
    got = fresh(max_prompt_tokens=32, max_new_tokens=4, cache_tokens=40, slots=4, chunk=2)
    prompts = [random_tokens(n, seed=i) for i, n in enumerate(lengths)]
    with jax.set_mesh(got.mesh):
        engine, done, turns = got.engine, {}, 0
        engine.open(got.params)
        for i, prompt in enumerate(prompts):
            engine.submit(i * samples, prompt, np.zeros(2, np.uint32), samples)
        while engine.busy and turns < 100:
            done |= dict(engine.step())
            turns += 1
    assert done.keys() == set(range(len(lengths) * samples))
    got.assert_empty()


# Leaks.


@pytest.mark.parametrize("taken", [0, 1, 5])
@pytest.mark.parametrize("settings", fast([{}, {"cache_tokens": 40, "dispatch_ahead": True}], 0))
def test_a_call_given_up_leaves_nothing_behind(settings: dict, taken: int) -> None:
    got = fresh(**settings)
    with jax.set_mesh(got.mesh):
        arriving = got.engine.sample(got.params, PROMPTS, SAMPLES, jax.random.key(0))
        for _ in range(taken):
            next(arriving)
        assert got.engine.busy == (taken > 0)
        arriving.close()
    got.assert_empty()
    assert_same(got(), completions())


def test_requests_of_other_parameters_are_not_mixed() -> None:
    got = sampler()
    with jax.set_mesh(got.mesh):
        arriving = got.engine.sample(got.params, PROMPTS, SAMPLES, jax.random.key(0))
        next(arriving)
        with pytest.raises(RuntimeError, match="requests of other parameters"):
            got.engine.open(params())
        arriving.close()


def test_close_gives_the_memory_back() -> None:
    got = fresh(slots=3, chunk=3)
    got()
    pages = got.engine._pages
    assert pages is not None and all(x.nbytes > 0 for x in pages)
    shapes = {x.shape for x in pages}
    del pages
    before = sum(x.shape in shapes for x in jax.live_arrays())
    got.engine.close()
    assert sum(x.shape in shapes for x in jax.live_arrays()) == before - 2


def test_a_used_engine_begins_as_a_new_one() -> None:
    """The place of a row in the batch may show in its last bits, and a continued run's engine is
    new."""
    got = fresh(slots=3, chunk=3)
    schedule = got.engine._schedule
    new = [[2, 1, 0]]
    got()
    assert schedule.free != new  # in the order in which they were given back
    got.engine.close()
    with jax.set_mesh(got.mesh):
        got.engine.open(got.params)
    assert schedule.free == new and schedule._arrivals == 0


# Work and compilations.


def test_stats_count_what_was_done() -> None:
    got = fresh()
    done = got()
    stats = got.engine.stats
    assert stats.sampled_tokens == sum(len(c.tokens) for c in done.values())
    assert stats.prompt_tokens == sum(len(p) - 1 for p in PROMPTS)
    assert stats.row_steps == 8 * stats.decode_steps >= stats.sampled_tokens
    assert stats.evictions == 0 < stats.peak_pages <= got.engine.num_pages


def test_few_live_rows_run_in_a_small_program() -> None:
    got = fresh(slots=32)
    got.serve([Ask(i, PROMPTS[0]) for i in range(3)])
    assert got.engine.stats.row_steps == 8 * got.engine.stats.decode_steps


def mixed(seed: int, count: int) -> list[Ask]:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 9, count)
    limits = np.minimum(random.integers(1, 2 * LIMIT, count), LIMIT)
    return [
        Ask(i, random.integers(0, VOCAB, n).astype(np.int32), int(limit))
        for i, (n, limit) in enumerate(zip(lengths, limits, strict=True))
    ]


@pytest.mark.slow
def test_nothing_is_compiled_but_new_sizes() -> None:
    """Two thousand requests of all lengths, in a cache that is too small for them. After the first
    half, a seldom number of rows may still be new; what was met is not compiled again."""
    got = tiny_engines.Sampler(slots=16, cache_tokens=40, prefill_widths=(4, 8), prefill_tokens=32)
    engine, program, sizes = got.engine, got.engine._prefill, set[Any]()

    def prefill(context: int, params: Any, pages: Any, tokens: jax.Array, *rest: Any) -> Any:
        sizes.add((context, tokens.shape))
        return program(context, params, pages, tokens, *rest)

    engine._prefill = prefill  # type: ignore[assignment]
    got.serve(mixed(0, 1000), waves=40)
    met, compiled = len(sizes), list[str]()

    def note(event: str, duration: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        asked = mixed(1, 1000)
        done = got.serve(asked, waves=40)
        assert program._cache_size() == len(sizes) and engine._decode._cache_size() == 1
        assert len(compiled) == len(sizes) - met <= 3 and engine.stats.evictions > 0
        jax.jit(lambda x: x + len(done))(np.ones(3))  # what would have been noted
        assert len(compiled) > len(sizes) - met
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert done.keys() == set(range(1000))
    assert_teacher_forced(done, {ask.id: ask.prompt for ask in asked}, TEMPERATURE)
