"""What sampling reports of its own work."""

from types import SimpleNamespace
from typing import Any

from cipo_jax.run.hosts.processes import Hosts
from cipo_jax.run.sampler import HostSampler
from cipo_jax.sampling.settings import EngineStats


def test_closing_reports_and_counts_anew() -> None:
    closed: list[bool] = []
    engine: Any = SimpleNamespace(num_pages=50, close=lambda: closed.append(True))
    engine.stats = EngineStats(
        prompt_tokens=40,
        reused_tokens=10,
        row_steps=80,
        sampled_tokens=60,
        evictions=3,
        peak_pages=20,
    )
    assert HostSampler(engine, Hosts(), None).close() == {
        "sampler/evictions": 3,
        "sampler/cache_used": 0.4,
        "sampler/useful_rows": 0.75,
        "sampler/reused_prompt": 0.25,
    }
    assert closed and engine.stats == EngineStats()
