"""Completions as callers see them: what they are, and what they do not depend on."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
import tiny_engines
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_engines import (
    CONFIG,
    LIMIT,
    LONGEST,
    PROMPTS,
    SAMPLES,
    STOP,
    TEMPERATURE,
    VOCAB,
    Ask,
    Completions,
    assert_same,
    assert_teacher_forced,
    completions,
    params,
    sampler,
)

from cipo_jax.policy import model, sharding
from cipo_jax.sampling.choose import Choice
from cipo_jax.types import CipoError

# Pages for the longest request and one more; and the device a chunk ahead of the host.
CRAMPED: dict[str, Any] = {"cache_tokens": 28}
AHEAD: dict[str, Any] = {"cache_tokens": 40, "dispatch_ahead": True}
PROMPT_OF = {r: PROMPTS[r // SAMPLES] for r in range(len(PROMPTS) * SAMPLES)}


# What a completion is.


def test_completions_end_with_a_stop_token_or_at_the_limit() -> None:
    assert completions().keys() == set(range(len(PROMPTS) * SAMPLES))
    for completion in completions().values():
        length = len(completion.tokens)
        assert 1 <= length <= LIMIT and completion.logprobs.shape == (length,)
        assert (completion.tokens.dtype, completion.logprobs.dtype) == (np.int32, np.float32)
        assert not np.isin(completion.tokens[:-1], STOP).any()
        assert completion.finished == (completion.tokens[-1] in STOP)
        assert completion.finished or length == LIMIT
    # Both ends occur, and both stop tokens.
    assert {c.finished for c in completions().values()} == {True, False}
    assert {int(c.tokens[-1]) for c in completions().values()} > set(STOP)


def test_logprobs_are_those_of_teacher_forcing() -> None:
    assert_teacher_forced(completions(), PROMPT_OF, TEMPERATURE)


def test_temperature_is_a_requests_own() -> None:
    """Greedy beside hot ones, in one batch; greedy is the argmax of full forward passes."""
    asked = [Ask(i, prompt, temperature=0.0) for i, prompt in enumerate(PROMPTS)]
    hot = [Ask(100 + i, prompt, temperature=2.0) for i, prompt in enumerate(PROMPTS)]
    results = sampler().serve([x for pair in zip(asked, hot, strict=True) for x in pair])
    by_id = {ask.id: ask.prompt for ask in (*asked, *hot)}
    greedy = {r: c for r, c in results.items() if r < 100}
    assert_teacher_forced(greedy, by_id, 1.0)
    assert_teacher_forced({r: c for r, c in results.items() if r >= 100}, by_id, 2.0)
    for i, wanted in enumerate(greedy_tokens()):
        first_stop = next((t for t, token in enumerate(wanted, 1) if token in STOP), LIMIT)
        assert greedy[i].tokens.tolist() == wanted[:first_stop]


def greedy_tokens() -> list[list[int]]:
    """LIMIT most likely tokens after each prompt, by full forward passes."""

    @jax.jit
    def most_likely(params, tokens, positions, segments):
        hidden, _ = model.hidden_states(CONFIG, params, tokens, positions, segments)
        return model.unembed(CONFIG, params, hidden).argmax(axis=-1)

    tokens = np.zeros((len(PROMPTS), LONGEST + LIMIT), np.int32)
    for row, prompt in enumerate(PROMPTS):
        tokens[row, : len(prompt)] = prompt
    positions = np.broadcast_to(np.arange(LONGEST + LIMIT, dtype=np.int32), tokens.shape)
    ends = np.array([len(p) for p in PROMPTS])
    rows = np.arange(len(PROMPTS))
    for step in range(LIMIT):
        segments = (positions < (ends + step)[:, None]).astype(np.int32)
        following = np.asarray(most_likely(params(), tokens, positions, segments))
        tokens[rows, ends + step] = following[rows, ends + step - 1]
    return [tokens[i, end : end + LIMIT].tolist() for i, end in enumerate(ends)]


def test_samples_of_a_group_and_calls_with_another_key_differ() -> None:
    groups = [
        {tuple(completions()[SAMPLES * i + j].tokens.tolist()) for j in range(SAMPLES)}
        for i in range(len(PROMPTS))
    ]
    assert sum(len(group) == SAMPLES for group in groups) >= len(PROMPTS) - 1
    # The same prompt twice is two requests.
    twice = sampler()([PROMPTS[3], PROMPTS[3]])
    assert twice[0].tokens.tolist() != twice[SAMPLES].tokens.tolist()
    other = sampler()(key=1)
    same = sum(other[r].tokens.tolist() == c.tokens.tolist() for r, c in completions().items())
    assert same <= 4
    assert_same(sampler()(), completions(), tolerance=0)


# What it does not depend on.


@pytest.mark.parametrize(
    "changed",
    [
        {"slots": 3, "chunk": 3},
        {"page_size": 16, "dispatch_ahead": True},
        {"page_size": 1, "chunk": 5, "prefill_widths": (2,), "prefill_tokens": 4},
        CRAMPED,
        AHEAD,
    ],
    ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()),
)
def test_sizes_do_not_matter(changed: dict[str, Any]) -> None:
    got = sampler(**changed)
    got.engine.stats.evictions = 0
    assert_same(got(), completions())
    assert (got.engine.stats.evictions > 0) == ("cache_tokens" in changed)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("dispatch_ahead", [False, True])
@pytest.mark.parametrize("slots", [1, 5, 32])
@pytest.mark.parametrize("page_size", [2, 5, 32])
def test_more_sizes_do_not_matter(page_size: int, slots: int, dispatch_ahead: bool) -> None:
    for chunk, spare in ((1, 1), (7, 2), (16, 0)):
        pages = -(-(LONGEST + LIMIT) // page_size) + spare
        got = tiny_engines.Sampler(
            slots=slots,
            page_size=page_size,
            chunk=chunk,
            dispatch_ahead=dispatch_ahead,
            cache_tokens=page_size * pages if spare else 0,
            # The largest holds a page, or all of a request that was evicted.
            prefill_widths=(3, max(8, min(page_size, LONGEST + LIMIT))),
        )
        assert_same(got(), completions())


@pytest.mark.slow
@pytest.mark.parametrize("cache_tokens", [0, 8 * 28])
@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 2, 4), (8, 1, 1)])
def test_the_mesh_does_not_matter(sizes: tuple[int, int, int], cache_tokens: int) -> None:
    """(1, 2, 4) has fewer key/value heads (2) than parts of the tensor axis."""
    got = tiny_engines.Sampler(sizes, cache_tokens=cache_tokens, slots=16)
    assert_same(got(), completions())


def test_neighbours_and_the_number_of_prompts_do_not_matter() -> None:
    few = sampler()(PROMPTS[:3])
    assert_same(few, {r: c for r, c in completions().items() if r < 3 * SAMPLES})
    # The same ids beside other prompts.
    changed = sampler()([PROMPTS[0], *PROMPTS[:0:-1]])
    first = range(SAMPLES)
    assert_same({r: changed[r] for r in first}, {r: completions()[r] for r in first})


def test_the_default_kind_of_keys_does_not_matter() -> None:
    """JAX_DEFAULT_PRNG_IMPL=rbg is usual on TPU."""
    with jax.default_prng_impl("rbg"):
        assert_same(sampler()(), completions())


@functools.cache
def alone(request: int, prompt: int, limit: int) -> Completions:
    return sampler().serve([Ask(request, PROMPTS[prompt], limit)])


@st.composite
def requests(draw: st.DrawFn) -> list[Ask]:
    """Distinct ids in any order, with repeated and new prompts and any limits."""
    prompts = draw(st.lists(st.integers(0, len(PROMPTS) - 1), min_size=1, max_size=20))
    ids = draw(st.permutations(range(len(prompts))))
    limits = st.sampled_from([1, 2, 5, LIMIT])
    return [Ask(i, PROMPTS[p], draw(limits)) for i, p in zip(ids, prompts, strict=True)]


@settings(max_examples=25)
@given(requests(), st.integers(1, 4), st.sampled_from([{}, CRAMPED, AHEAD]))
def test_each_request_is_answered_as_if_it_were_alone(
    asked: list[Ask], waves: int, changed: dict[str, Any]
) -> None:
    number = {id(prompt): i for i, prompt in enumerate(PROMPTS)}
    got = sampler(**changed).serve(asked, waves)
    wanted: Completions = {}
    for ask in asked:
        wanted |= alone(ask.id, number[id(ask.prompt)], ask.limit)
    assert_same(got, wanted)


# The loop.


def test_completions_are_handed_out_as_they_finish() -> None:
    """A short one comes out chunks before a long one that was begun with it."""
    asked = [Ask(i, PROMPTS[i], limit) for i, limit in enumerate((LIMIT, 1, LIMIT, 3))]
    engine, turns = sampler().engine, {}
    key = np.zeros(2, np.uint32)
    with jax.set_mesh(sampler().mesh):
        engine.open(sampler().params)
        for ask in asked:
            engine.submit(ask.id, ask.prompt, key, max_new_tokens=ask.limit)
        turn = 0
        while engine.busy:
            turn += 1
            for request, completion in engine.step():
                turns[request] = turn
                assert turn == -(-len(completion.tokens) // 4)
    assert turns[1] == turns[3] == 1 and max(turns.values()) > 1


def test_the_device_stays_a_chunk_ahead() -> None:
    ahead = sampler(page_size=16, dispatch_ahead=True)
    with jax.set_mesh(ahead.mesh):
        ahead.engine.open(ahead.params)
        for i, prompt in enumerate(PROMPTS):
            ahead.engine.submit(i, prompt, np.zeros(2, np.uint32))
        assert ahead.engine.step() == [] and len(ahead.engine._in_flight) == 1
        assert ahead.engine.step() and len(ahead.engine._in_flight) == 1
        ahead.engine.cancel()
    ahead.assert_empty()


def test_a_hundred_times_more_requests_than_slots() -> None:
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(300)]
    got = sampler(slots=3, chunk=3)(prompts, samples=1)
    assert got.keys() == set(range(300))
    assert_teacher_forced(got, dict(enumerate(prompts)), TEMPERATURE)


@pytest.mark.parametrize("length", [1, 4, 5, 8])
def test_prompts_of_one_token_and_of_whole_pages(length: int) -> None:
    prompt = np.arange(length, dtype=np.int32)
    got = sampler()([prompt], samples=9)  # more than slots
    assert_teacher_forced(got, dict.fromkeys(range(9), prompt), TEMPERATURE)


def test_prompts_longer_than_a_stretch() -> None:
    """Eight tokens in stretches of two, which is what `prefill_positions` counts."""
    got = sampler(page_size=1, chunk=5, prefill_widths=(2,), prefill_tokens=4)
    got.engine.close()  # or the prompt would be found in the cache
    before = got.engine.stats.prefill_positions
    assert_teacher_forced(got([PROMPTS[1]]), dict.fromkeys(range(3), PROMPTS[1]), TEMPERATURE)
    assert got.engine.stats.prefill_positions - before == 4 * 2  # calls of one row


def test_a_limit_of_one() -> None:
    got = sampler().serve([Ask(i, p, limit=1) for i, p in enumerate(PROMPTS)])
    for i, completion in got.items():
        full = alone(i, i, LIMIT)[i]
        assert completion.tokens.tolist() == full.tokens[:1].tolist()
        assert completion.finished == (full.tokens[0] in STOP)


def test_no_prompts_give_no_completions() -> None:
    assert sampler()([]) == {}


def test_min_new_tokens() -> None:
    """Neither stop tokens nor stop strings end a completion before."""
    choice = Choice(stop_ids=STOP, min_new_tokens=6)
    stops = tuple("acegi")
    got = sampler(choice=choice, stop_strings=stops, decode_text=letters)()
    for completion in got.values():
        assert not np.isin(completion.tokens[:6], STOP).any()
        assert len(completion.tokens) > 6 and completion.finished == (
            completion.tokens[-1] in STOP or letters(completion.tokens.tolist())[-1] in stops
        )
    assert {len(c.tokens) for c in got.values()} >= {7, 8} and VOCAB > 8


# Stop strings.


def letters(tokens: list[int]) -> str:
    return "".join(chr(ord("a") + t) for t in tokens)


def test_a_stop_string_ends_a_completion_where_it_is_complete() -> None:
    """Wherever chunks of 3 and of 4 tokens end; the tokens before are what they were."""
    texts = {r: letters(c.tokens.tolist()) for r, c in completions().items()}
    longest = max(texts.values(), key=len)
    stops = (longest[3:6], longest[1:2] + "zz", texts[0][-2:])
    assert all(len(s) >= 2 for s in stops)
    wanted: Completions = {}
    for request, text in texts.items():
        ends = [text.find(s) + len(s) for s in stops if s in text]
        end = min(ends, default=len(text))
        full = completions()[request]
        wanted[request] = type(full)(
            full.tokens[:end], full.logprobs[:end], full.finished or bool(ends)
        )
    assert any(len(w.tokens) < len(texts[r]) for r, w in wanted.items())
    for changed in ({}, {"slots": 3, "chunk": 3}, AHEAD):
        got = sampler(**changed, stop_strings=stops, decode_text=letters)
        assert_same(got(), wanted)


# Mistakes.


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([PROMPTS[0], np.zeros(0, np.int32)], "prompt 1: has 0 tokens, wanted 1 to 8"),
        ([np.zeros(9, np.int32)], "prompt 0: has 9 tokens, wanted 1 to 8"),
    ],
)
def test_empty_and_too_long_prompts_are_refused(prompts: list[np.ndarray], message: str) -> None:
    with pytest.raises(CipoError, match=message):
        sampler()(prompts)
    sampler().assert_empty()


@pytest.mark.parametrize("limit", [0, LIMIT + 1])
def test_limits_out_of_range_are_refused(limit: int) -> None:
    with pytest.raises(CipoError, match=f"max_new_tokens: got {limit}, wanted 1 to {LIMIT}"):
        sampler().serve([Ask(0, PROMPTS[0], limit)])


def test_prompts_that_leave_too_few_positions_are_refused() -> None:
    # 256 positions less 12 for the completion.
    got = tiny_engines.Sampler(max_prompt_tokens=250)
    with pytest.raises(CipoError, match="prompt 0: has 245 tokens, wanted 1 to 244"):
        got([np.zeros(245, np.int32)])


def test_a_cache_too_small_for_one_request_is_refused() -> None:
    with pytest.raises(CipoError, match=r"cache_tokens: got 23, wanted 0 .* or at least 24"):
        tiny_engines.Sampler(cache_tokens=23)
    with pytest.raises(CipoError, match=r"cache_tokens: got 60, .*at least 96: .* 4 row shards"):
        tiny_engines.Sampler((2, 2, 1), cache_tokens=60)


def test_a_share_of_the_prompts_gets_the_ids_it_has_among_all() -> None:
    engine, turns = sampler().engine, []
    key = jax.random.key(0)

    def before_chunk() -> None:
        turns.append(len(done))

    done: Completions = {}
    share = range(2, 5)
    for request, completion in engine.sample(
        sampler().params, PROMPTS, SAMPLES, key, share, before_chunk
    ):
        done[request] = completion
    asked = range(2 * SAMPLES, 5 * SAMPLES)
    assert_same(done, {r: completions()[r] for r in asked})
    # Before the first chunk, and again while there was something left to decode.
    assert turns[0] == 0 and len(turns) > 1 and turns[-1] < len(done)


def test_what_is_raised_before_a_chunk_ends_the_call() -> None:
    def before_chunk() -> None:
        raise KeyError("asked to end")

    engine = sampler().engine
    arriving = engine.sample(
        sampler().params, PROMPTS, SAMPLES, jax.random.key(0), before_chunk=before_chunk
    )
    with pytest.raises(KeyError, match="asked to end"):
        next(arriving)
    sampler().assert_empty()


def test_the_engine_brings_its_own_mesh() -> None:
    engine = sampler().engine
    got = dict(engine.sample(sampler().params, PROMPTS, SAMPLES, jax.random.key(0)))
    assert_same(got, completions(), tolerance=0)


@pytest.mark.slow
def test_sampling_may_see_the_devices_otherwise_than_training() -> None:
    """Parameters sharded eight ways, sampled with four shards of rows and two of heads."""
    training = sharding.make_mesh(1, 8, 1)
    params = jax.device_put(tiny_engines.params(), model.param_shardings(CONFIG, training))
    engine = tiny_engines.Sampler(sizes=(4, 1, 2)).engine
    got = dict(engine.sample(params, PROMPTS, SAMPLES, jax.random.key(0)))
    assert_same(got, completions())
