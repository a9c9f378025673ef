"""The schedule on random sizes and loads: it ends, loses nothing, shares no page being written.

It is driven by the engine, whose device programs are played by a few lines of NumPy that draw at
random when a completion stops."""

from typing import Any

import jax
import numpy as np
import pytest
import tiny_models
from tiny_engines import CONFIG, params

from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.decode import ChunkResult
from cipo_jax.sampling.engine import Engine
from cipo_jax.sampling.settings import EngineSettings, table_width

STOP = 1


def random_settings(rng: np.random.Generator) -> EngineSettings:
    page = int(rng.integers(1, 9))
    settings = EngineSettings(
        max_prompt_tokens=int(rng.integers(1, 40)),
        max_new_tokens=int(rng.integers(1, 20)),
        choice=Choice(stop_ids=(STOP,)),
        slots=int(rng.integers(1, 9)),
        chunk=int(rng.integers(1, 9)),
        page_size=page,
        prefill_widths=(max(page, int(rng.integers(1, 10))),),
        prefill_tokens=int(rng.integers(1, 80)),
        dispatch_ahead=bool(rng.integers(2)),
    )
    width = table_width(settings)
    pages = int(rng.choice([0, width + 1, width + 2, 2 * width + 1]))
    return EngineSettings(**{**vars(settings), "cache_tokens": pages * page})


class Device:
    """Stands in for the compiled programs of an engine."""

    def __init__(self, engine: Engine, rng: np.random.Generator) -> None:
        self.engine, self.rng = engine, rng
        self.sampled: dict[int, int] = {}  # slot -> tokens so far, of live ones
        self.limit: dict[int, int] = {}
        engine._prefill = lambda context, params, pages, *rest: pages  # type: ignore[assignment]
        engine._decode = self.decode  # type: ignore[assignment]

    def decode(self, params: Any, pages: Any, slots: Any, plan: Any) -> Any:
        plan = jax.device_get(plan)
        for slot in np.flatnonzero(plan.is_fresh):
            self.sampled[slot] = int(plan.fresh.sampled[slot])
            self.limit[slot] = int(plan.fresh.limit[slot])
        self.check_pages()
        chunk, B = self.engine.settings.chunk, len(plan.rows)
        tokens, sampled = np.zeros((chunk, B), np.int32), np.zeros(B, np.int32)
        live = np.zeros(B, bool)
        for i, slot in enumerate(plan.rows):
            if slot == self.engine.settings.slots:
                continue
            live[i] = slot in self.limit
            step = 0
            while live[i] and step < chunk:
                tokens[step, i] = self.rng.integers(1, 7)
                self.sampled[slot] += 1
                live[i] = tokens[step, i] != STOP and self.sampled[slot] < self.limit[slot]
                step += 1
            sampled[i] = self.sampled[slot]
            if not live[i]:
                self.limit.pop(slot, None)
        logprobs = np.zeros((chunk, B), np.float32)
        return pages, slots, ChunkResult(*map(jax.numpy.asarray, (tokens, logprobs, sampled, live)))

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


def play(seed: int) -> Engine:
    rng = np.random.default_rng(seed)
    settings, mesh = random_settings(rng), tiny_models.one_device()
    with jax.set_mesh(mesh):
        engine = Engine(CONFIG, mesh, settings)
        engine.open(params())
        Device(engine, rng)
        done: list[Any] = []
        submitted = 0
        for _ in range(rng.integers(1, 12)):
            samples = int(rng.integers(1, 6))
            # Two token values, so that prompts have beginnings in common.
            prompt = rng.integers(0, 2, rng.integers(1, settings.max_prompt_tokens + 1))
            engine.submit(submitted, prompt.astype(np.int32), np.zeros(2, np.uint32), samples)
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
    for _, completion in done:
        assert completion.finished == (completion.tokens[-1] == STOP)
        assert completion.finished or len(completion.tokens) == settings.max_new_tokens
        assert not (completion.tokens[:-1] == STOP).any()
    return engine


def test_any_load_is_served() -> None:
    engines = [play(seed) for seed in range(30)]
    assert sum(e.stats.evictions for e in engines) > 3
    assert sum(e.stats.reused_tokens for e in engines) > 10


@pytest.mark.slow
def test_many_loads_are_served() -> None:
    for seed in range(1000, 1120):
        play(seed)
