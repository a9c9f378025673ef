"""The schedule on random sizes and loads: it is refused, or ends, loses nothing, and shares no page
being written.

It is driven by the engine, whose device programs are played by a few lines of NumPy that draw at
random when a completion stops."""

import re
from typing import Any

import jax
import numpy as np
import pytest
from tiny_engines import CONFIG, params

from cipo_jax.policy import sharding
from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.decode import ChunkResult
from cipo_jax.sampling.engine import Engine
from cipo_jax.sampling.schedule import Schedule
from cipo_jax.sampling.settings import EngineSettings, table_width
from cipo_jax.types import CipoError

STOP = 1


def random_settings(rng: np.random.Generator, shards: int) -> EngineSettings:
    """Sizes that need not fit to each other."""
    page = int(rng.choice([rng.integers(1, 9), rng.integers(9, 50)]))
    settings = EngineSettings(
        max_prompt_tokens=int(rng.integers(1, 40)),
        max_new_tokens=int(rng.integers(1, 50)),
        choice=Choice(stop_ids=(STOP,)),
        slots=int(rng.integers(1, 13)),
        chunk=int(rng.integers(1, 9)),
        page_size=page,
        prefill_widths=tuple(rng.integers(1, 64, rng.integers(0, 3)).tolist()),
        prefill_tokens=int(rng.integers(1, 80)),
        dispatch_ahead=bool(rng.integers(2)),
    )
    width = table_width(settings)
    pages = int(rng.choice([width, width + 1, width + 1, width + 2, 2 * width + 1]))
    tokens = int(rng.choice([0, 1, 1, 1])) * (pages * page + int(rng.integers(0, page))) * shards
    return EngineSettings(**{**vars(settings), "cache_tokens": tokens})


class Device:
    """Stands in for the compiled programs of an engine."""

    def __init__(self, engine: Engine, rng: np.random.Generator) -> None:
        self.engine, self.rng = engine, rng
        self.sampled: dict[int, int] = {}  # slot -> tokens so far, of live ones
        self.limit: dict[int, int] = {}
        engine._new_pages = tuple  # type: ignore[assignment]
        engine._prefill = lambda context, params, pages, *rest: pages  # type: ignore[assignment]
        engine._decode = self.decode  # type: ignore[assignment]

    def decode(self, params: Any, pages: Any, slots: Any, plan: Any) -> Any:
        plan = jax.device_get(plan)
        for slot in np.flatnonzero(plan.is_fresh):
            self.sampled[slot] = int(plan.fresh.sampled[slot])
            self.limit[slot] = int(plan.fresh.limit[slot])
        self.check_pages()
        chunk, B = self.engine.settings.chunk, len(plan.rows)
        nobody = self.engine._schedule.slots_per_shard * self.engine._schedule.shards
        tokens, sampled = np.zeros((chunk, B), np.int32), np.zeros(B, np.int32)
        live = np.zeros(B, bool)
        for i, slot in enumerate(plan.rows):
            if slot == nobody:
                continue
            live[i] = slot in self.limit
            step = 0
            while live[i] and step < chunk:
                tokens[step, i] = self.rng.integers(1, 33)
                self.sampled[slot] += 1
                live[i] = tokens[step, i] != STOP and self.sampled[slot] < self.limit[slot]
                step += 1
            sampled[i] = self.sampled[slot]
            if not live[i]:
                self.limit.pop(slot, None)
        logprobs = np.zeros((chunk, B), np.float32)
        return pages, slots, jax.device_put(ChunkResult(tokens, logprobs, sampled, live))

    def check_pages(self) -> None:
        """A row has the pages that it will write to for itself."""
        engine = self.engine
        page_size = engine.settings.page_size
        for row in engine._schedule.placed.values():
            first = len(row.request.prompt_tokens) - 1 + len(row.request.tokens)
            reach = row.reach(engine.settings.chunk)
            written = row.pages[first // page_size : -(-reach // page_size)]
            assert len(row.pages) * page_size >= reach
            assert (engine._schedule.pools[row.shard]._holders[written] == 1).all()


def play(seed: int) -> Engine | None:
    """An engine that has served a random load; None if its settings were refused."""
    rng = np.random.default_rng(seed)
    shards = int(rng.choice([1, 1, 2]))
    mesh = sharding.make_mesh(shards, 1, 1, devices=jax.devices()[:shards])
    settings = random_settings(rng, shards)
    with jax.set_mesh(mesh):
        try:
            engine = Engine(CONFIG, mesh, settings)
        except CipoError as refused:
            assert re.search("config.sampling.(cache_tokens|prefill_widths): got", str(refused))
            return None
        Device(engine, rng)
        engine.open(params())
        done: list[Any] = []
        submitted = 0
        limits: dict[int, int] = {}
        for _ in range(rng.integers(1, 12)):
            samples = int(rng.integers(1, 6))
            # Two token values, so that prompts have beginnings in common.
            prompt = rng.integers(0, 2, rng.integers(1, settings.max_prompt_tokens + 1))
            limit = int(max(rng.integers(1, settings.max_new_tokens + 1, 2)))
            key = np.zeros(2, np.uint32)
            engine.submit(submitted, prompt.astype(np.int32), key, samples, max_new_tokens=limit)
            limits |= dict.fromkeys(range(submitted, submitted + samples), limit)
            submitted += samples
            if rng.random() < 0.3:
                done += engine.step()
        turns = 0
        while engine.busy:
            done += engine.step()
            turns += 1
            assert turns < 10_000, settings
    assert sorted(request for request, _ in done) == list(range(submitted)), settings
    assert all(pool.held == 0 for pool in engine._schedule.pools), settings
    assert settings.cache_tokens or not engine.stats.evictions, settings
    for request, completion in done:
        assert completion.finished == (completion.tokens[-1] == STOP)
        assert completion.finished or len(completion.tokens) == limits[request]
        assert not (completion.tokens[:-1] == STOP).any()
    return engine


def test_any_load_is_served() -> None:
    engines = [play(seed) for seed in range(80, 120)]
    served = [engine for engine in engines if engine is not None]
    assert 10 < len(served) < len(engines)
    assert sum(e.stats.evictions > 0 for e in served) > 2
    assert sum(e.stats.reused_tokens for e in served) > 10


@pytest.mark.slow
@pytest.mark.long
def test_many_loads_are_served() -> None:
    for seed in range(1000, 1400):
        play(seed)


def test_prompts_are_prefilled_at_the_width_they_need_with_few_empty_rows() -> None:
    settings = EngineSettings(
        max_prompt_tokens=64,
        max_new_tokens=8,
        choice=Choice(stop_ids=(STOP,)),
        slots=8,
        page_size=16,
        prefill_widths=(16, 64),
    )
    schedule = Schedule(settings, 1)
    for i, length in enumerate((9, 60, 9, 10, 50, 11, 9)):
        tokens = np.full(length, i, np.int32)
        schedule.submit(i, tokens, np.zeros(2, np.uint32), 1, 1.0, 8)
    calls = [(c.rows, c.width, len(c.stretches[0])) for c in schedule.plan_prefill()]
    assert calls == [(2, 64, 2), (2, 16, 2), (2, 16, 2), (1, 16, 1)]
