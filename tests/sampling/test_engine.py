"""The sampler as its callers see it: what a completion is, and what it does not depend on."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
import tiny_models

from cipo_jax.policy import model, sharding
from cipo_jax.sampling import engine
from cipo_jax.sampling.decode import DecodeSettings, decode_chunk
from cipo_jax.types import CipoError, Completion

VOCAB, LIMIT, STOP = 16, 12, (1, 7)
CONFIG = dataclasses.replace(
    tiny_models.TINY_CONFIG,
    vocab_size=VOCAB,
    num_layers=2,
    d_model=16,
    head_dim=8,
    mlp_dim=24,
    qk_norm=False,
)
SETTINGS = DecodeSettings(max_new_tokens=LIMIT, chunk=4, temperature=0.8, stop_ids=STOP)
PROMPTS = [
    np.random.default_rng(length).integers(0, VOCAB, length).astype(np.int32)
    for length in (3, 8, 1, 5, 5, 7, 2)
]
SAMPLES = 2
KEY = 0

Completions = dict[int, Completion]


@functools.cache
def params() -> model.Params:
    return jax.device_get(tiny_models.tiny_params(CONFIG))


class Sampler:
    """A sampler on a mesh of its own that counts the decode steps it has run."""

    def __init__(
        self,
        slots: int = 8,
        buckets: Sequence[int] = (8,),
        sizes: tuple[int, int, int] = (1, 1, 1),
        **settings: Any,
    ) -> None:
        self.mesh = sharding.make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
        self.params = jax.device_put(params(), model.param_shardings(CONFIG, self.mesh))
        self.steps: list[int] = []

        def watched(*args: Any) -> Any:
            state = decode_chunk(*args)
            if sizes == (1, 1, 1):
                jax.debug.callback(lambda step: self.steps.append(int(step)), state.step)
            return state

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "decode_chunk", watched)
            self.sample = engine.make_sampler(
                CONFIG, self.mesh, dataclasses.replace(SETTINGS, **settings), slots, buckets
            )

    def in_order(
        self, prompts: Sequence[np.ndarray] = PROMPTS, key: int = KEY
    ) -> list[tuple[int, Completion]]:
        with jax.set_mesh(self.mesh):
            return list(self.sample(self.params, prompts, SAMPLES, jax.random.key(key)))

    def __call__(self, prompts: Sequence[np.ndarray] = PROMPTS, key: int = KEY) -> Completions:
        pairs = self.in_order(prompts, key)
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)


@functools.cache
def standard() -> Sampler:
    """Eight slots: four prompts of two samples a wave, so two waves for `PROMPTS`."""
    return Sampler()


@functools.cache
def completions() -> Completions:
    return standard()()


def assert_same(got: Completions, wanted: Completions, tolerance: float = 1e-5) -> None:
    assert got.keys() == wanted.keys()
    for request, completion in wanted.items():
        np.testing.assert_array_equal(got[request].tokens, completion.tokens)
        np.testing.assert_allclose(
            got[request].logprobs, completion.logprobs, rtol=0, atol=tolerance
        )
        assert got[request].finished == completion.finished


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


@functools.cache
def scorer() -> Any:
    return jax.jit(functools.partial(model.token_logprobs, CONFIG))


def assert_teacher_forced(results: Completions, temperature: float) -> None:
    """Each completion's log-probs are the trainer's, computed without a cache."""
    width = 8 + LIMIT
    tokens = np.zeros((len(results), width), np.int32)
    segments = np.zeros_like(tokens)
    spans = []
    for row, (request, completion) in enumerate(sorted(results.items())):
        prompt = PROMPTS[request // SAMPLES]
        spans.append(slice(len(prompt), len(prompt) + len(completion.tokens)))
        tokens[row, : spans[-1].stop] = [*prompt, *completion.tokens]
        segments[row, : spans[-1].stop] = 1
    positions = np.broadcast_to(np.arange(width, dtype=np.int32), tokens.shape)
    logprobs, _ = jax.device_get(scorer()(params(), tokens, positions, segments, temperature))
    for row, (_, completion) in enumerate(sorted(results.items())):
        np.testing.assert_allclose(completion.logprobs, logprobs[row, spans[row]], atol=1e-5)


def test_logprobs_are_those_of_teacher_forcing() -> None:
    assert_teacher_forced(completions(), SETTINGS.temperature)


def test_greedy_is_the_argmax_of_full_forward_passes() -> None:
    results = Sampler(temperature=0.0)()
    assert_teacher_forced(results, 1.0)

    @jax.jit
    def most_likely(params, tokens, positions, segments):
        hidden, _ = model.hidden_states(CONFIG, params, tokens, positions, segments)
        return model.unembed(CONFIG, params, hidden).argmax(axis=-1)

    tokens = np.zeros((len(PROMPTS), 8 + LIMIT), np.int32)
    for row, prompt in enumerate(PROMPTS):
        tokens[row, : len(prompt)] = prompt
    positions = np.broadcast_to(np.arange(8 + LIMIT, dtype=np.int32), tokens.shape)
    ends = np.array([len(p) for p in PROMPTS])
    rows = np.arange(len(PROMPTS))
    for step in range(LIMIT):
        segments = (positions < (ends + step)[:, None]).astype(np.int32)
        following = np.asarray(most_likely(params(), tokens, positions, segments))
        tokens[rows, ends + step] = following[rows, ends + step - 1]
    for request, completion in results.items():
        i = request // SAMPLES
        wanted = tokens[i, ends[i] : ends[i] + LIMIT].tolist()
        first_stop = next((t for t, token in enumerate(wanted, 1) if token in STOP), LIMIT)
        assert completion.tokens.tolist() == wanted[:first_stop]


# What it does not depend on.


def test_samples_of_a_group_and_calls_with_another_key_differ() -> None:
    groups = [
        (completions()[2 * i].tokens.tolist(), completions()[2 * i + 1].tokens.tolist())
        for i in range(len(PROMPTS))
    ]
    assert sum(first != second for first, second in groups) >= len(PROMPTS) - 1
    # Requests 3 and 4 ask for the same prompt, and are different requests.
    twice = standard()([PROMPTS[3], PROMPTS[3]])
    assert twice[0].tokens.tolist() != twice[2].tokens.tolist()
    other = standard()(key=KEY + 1)
    same = sum(other[r].tokens.tolist() == c.tokens.tolist() for r, c in completions().items())
    assert same <= 2
    assert_same(standard()(), completions(), tolerance=0)


def test_neighbours_and_the_number_of_prompts_do_not_matter() -> None:
    # The first three prompts alone: one wave, other rows, other neighbours, empty slots.
    few = standard()(PROMPTS[:3])
    assert_same(few, {r: c for r, c in completions().items() if r < 3 * SAMPLES})
    # The same ids beside other prompts.
    others = [PROMPTS[0], *PROMPTS[:0:-1]]
    changed = standard()(others)
    assert_same({r: changed[r] for r in (0, 1)}, {r: completions()[r] for r in (0, 1)})


def test_slots_chunk_and_bucket_do_not_matter() -> None:
    assert_same(Sampler(slots=5, buckets=(16,), chunk=3)(), completions())


@pytest.mark.slow
def test_the_mesh_does_not_matter() -> None:
    assert_same(Sampler(sizes=(2, 2, 2))(), completions())


# The loop.


def test_completions_are_handed_out_as_they_finish() -> None:
    sampler = standard()
    sampler.steps.clear()
    wave_of: dict[int, int] = {}
    chunks: list[tuple[int, int]] = []  # (wave, chunk in which it finished) in order of arrival
    longest_first = sorted(range(len(PROMPTS)), key=lambda i: -len(PROMPTS[i]))
    for place, i in enumerate(longest_first):
        for j in range(SAMPLES):
            wave_of[i * SAMPLES + j] = place // 4

    with jax.set_mesh(sampler.mesh):
        arriving = sampler.sample(sampler.params, PROMPTS, SAMPLES, jax.random.key(KEY))
        for request, completion in arriving:
            jax.effects_barrier()
            chunk = -(-len(completion.tokens) // SETTINGS.chunk)
            chunks.append((wave_of[request], chunk))
            # Handed out after the chunk in which it finished, before the next one has run.
            assert sampler.steps[-1] <= chunk * SETTINGS.chunk
    assert chunks == sorted(chunks)
    assert {chunk for wave, chunk in chunks if wave == 0} >= {1, 3}


def test_a_wave_stops_with_its_last_completion() -> None:
    sampler = standard()
    sampler.steps.clear()
    results = sampler(PROMPTS[:1])
    jax.effects_barrier()
    longest = max(len(c.tokens) for c in results.values())
    assert sampler.steps[-1] == longest < LIMIT


def test_no_prompts_give_no_completions() -> None:
    assert standard()([]) == {}


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
        standard()(prompts)


def test_prompts_that_leave_too_few_positions_are_refused() -> None:
    # 256 positions less 12 for the completion.
    with pytest.raises(CipoError, match="prompt 0: has 245 tokens, wanted 1 to 244"):
        Sampler(buckets=(8, 250))([np.zeros(245, np.int32)])


def test_outside_its_mesh_the_sampler_refuses() -> None:
    with pytest.raises(RuntimeError, match="call this inside"):
        list(standard().sample(params(), PROMPTS, 1, jax.random.key(0)))


@pytest.mark.parametrize(
    ("declared", "longest", "wanted"),
    [
        ((), 100, (16, 32, 64, 100)),
        ((), 64, (16, 32, 64)),
        ((), 9, (9,)),
        ((72, 24), 50, (24, 72)),
        ((50,), 50, (50,)),
    ],
)
def test_prompt_buckets(declared: tuple, longest: int, wanted: tuple) -> None:
    assert engine.prompt_buckets(declared, longest) == wanted


def test_buckets_below_the_longest_prompt_are_refused() -> None:
    with pytest.raises(CipoError, match=r"sampling.prompt_buckets: got \(24, 40\).* least 50"):
        engine.prompt_buckets((24, 40), 50)
