"""A small sampling engine and what tests ask of it. Engines are shared: each compiles its own
programs."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import tiny_models

from cipo_jax.policy import model, sharding
from cipo_jax.policy.random_keys import key_data, random_key
from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.engine import Engine
from cipo_jax.sampling.settings import EngineSettings
from cipo_jax.types import Completion

VOCAB, LONGEST, LIMIT, STOP = 16, 8, 12, (1, 7)
CONFIG = dataclasses.replace(
    tiny_models.TINY_CONFIG,
    vocab_size=VOCAB,
    num_layers=2,
    d_model=16,
    head_dim=8,
    mlp_dim=24,
    qk_norm=False,
)
TEMPERATURE = 0.8
STANDARD: dict[str, Any] = {"slots": 8, "chunk": 4, "page_size": 4, "prefill_tokens": 64}
PROMPTS = [
    np.random.default_rng(length).integers(0, VOCAB, length).astype(np.int32)
    for length in (3, 8, 1, 5, 5, 7, 2)
]
SAMPLES = 3

Completions = dict[int, Completion]


@dataclasses.dataclass(frozen=True, eq=False)
class Ask:
    """One request."""

    id: int
    prompt: np.ndarray
    limit: int = LIMIT
    temperature: float | None = None


@functools.cache
def params() -> model.Params:
    return jax.device_get(tiny_models.tiny_params(CONFIG))


class Sampler:
    """An engine on a mesh of its own."""

    def __init__(self, sizes: tuple[int, int, int] = (1, 1, 1), **settings: Any) -> None:
        self.mesh = sharding.make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
        self.params = jax.device_put(params(), model.param_shardings(CONFIG, self.mesh))
        decode_text = settings.pop("decode_text", None)
        standard: dict[str, Any] = {
            "max_prompt_tokens": LONGEST,
            "max_new_tokens": LIMIT,
            "choice": Choice(stop_ids=STOP),
            "temperature": TEMPERATURE,
        }
        with jax.set_mesh(self.mesh):
            wanted = EngineSettings(**{**standard, **STANDARD, **settings})
            self.engine = Engine(CONFIG, self.mesh, wanted, decode_text)

    def in_order(
        self, prompts: Sequence[np.ndarray] = PROMPTS, samples: int = SAMPLES, key: int = 0
    ) -> list[tuple[int, Completion]]:
        with jax.set_mesh(self.mesh):
            return list(self.engine.sample(self.params, prompts, samples, random_key(key)))

    def __call__(
        self, prompts: Sequence[np.ndarray] = PROMPTS, samples: int = SAMPLES, key: int = 0
    ) -> Completions:
        """Completions of a call, with nothing left behind and none handed out twice."""
        pairs = self.in_order(prompts, samples, key)
        assert len(dict(pairs)) == len(pairs)
        self.assert_empty()
        return dict(pairs)

    def serve(self, asked: Sequence[Ask], waves: int = 1) -> Completions:
        """Requests as they come: a share of them is submitted, then the engine takes a turn."""
        engine, done = self.engine, {}
        key = key_data(random_key(0))
        with jax.set_mesh(self.mesh):
            engine.open(self.params)
            for wave in np.array_split(np.arange(len(asked)), waves):
                for i in wave:
                    ask = asked[i]
                    engine.submit(ask.id, ask.prompt, key, 1, ask.temperature, ask.limit)
                done |= dict(engine.step())
            while engine.busy:
                done |= dict(engine.step())
        self.assert_empty()
        return done

    def assert_empty(self) -> None:
        """Nobody holds a page or a slot."""
        assert not self.engine.busy
        schedule = self.engine._schedule
        assert [pool.held for pool in schedule.pools] == [0] * schedule.shards
        assert sum(map(len, schedule.free)) == schedule.slots_per_shard * schedule.shards


@functools.cache
def sampler(**settings: Any) -> Sampler:
    return Sampler(**settings)


@functools.cache
def completions() -> Completions:
    """What the standard engine says to `PROMPTS`."""
    return sampler()()


def assert_same(got: Completions, wanted: Completions, tolerance: float = 1e-5) -> None:
    assert got.keys() == wanted.keys()
    for request, completion in wanted.items():
        np.testing.assert_array_equal(got[request].tokens, completion.tokens)
        np.testing.assert_allclose(
            got[request].logprobs, completion.logprobs, rtol=0, atol=tolerance
        )
        assert got[request].finished == completion.finished


@functools.cache
def _scorer() -> Any:
    return jax.jit(functools.partial(model.token_logprobs, CONFIG))


def assert_teacher_forced(
    results: Completions, prompts: dict[int, np.ndarray], temperature: float
) -> None:
    """Each completion's log-probs are the trainer's, computed without a cache."""
    width, rows = LONGEST + LIMIT, 32
    everything = sorted(results.items())
    for first in range(0, len(everything), rows):
        some = everything[first : first + rows]
        tokens, segments = (np.zeros((rows, width), np.int32) for _ in range(2))
        for row, (request, completion) in enumerate(some):
            both = [*prompts[request], *completion.tokens]
            tokens[row, : len(both)], segments[row, : len(both)] = both, 1
        positions = np.broadcast_to(np.arange(width, dtype=np.int32), tokens.shape)
        logprobs, _ = jax.device_get(_scorer()(params(), tokens, positions, segments, temperature))
        for row, (request, completion) in enumerate(some):
            begin = len(prompts[request])
            wanted = logprobs[row, begin : begin + len(completion.tokens)]
            np.testing.assert_allclose(completion.logprobs, wanted, rtol=0, atol=2e-5)
