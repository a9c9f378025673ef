"""What the parts of a run report of their own work."""

from types import SimpleNamespace
from typing import Any

import jax
import pytest

from cipo_jax.config import default_config
from cipo_jax.config.resolve import resolve
from cipo_jax.run.parts import _end_sampling, fresh_params, open_parts
from cipo_jax.run.rollout import VerifyTimes
from cipo_jax.sampling.settings import EngineStats
from cipo_jax.types import Problem


def test_end_of_sampling_reports_and_gives_the_cache_back() -> None:
    c = default_config()
    c.model.num_layers, c.model.d_model, c.model.head_dim, c.model.mlp_dim = 1, 16, 8, 24
    c.mesh.fsdp, c.mesh.data = 1, -1
    c.data.max_completion_tokens = 8
    c.sampling.slots, c.sampling.page_size = 16, 4
    config = resolve(c)
    problem = Problem("p", "Compute ((7+2)*3).", answer="27")
    with open_parts(config) as parts:
        params = fresh_params(config, parts)
        prompts = [parts.base_prompt(problem)] * 2
        attempts = parts.attempt(params, prompts, 4, jax.random.key(0), "test")
        assert len(attempts) == 8
        stats = parts.end_sampling()
        assert 0 < stats["sampler/useful_rows"] <= 1
        assert stats["sampler/preemptions"] == 0 and 0 < stats["sampler/cache_used"] < 1
        assert stats["sampler/reused_prompt"] == pytest.approx(0)  # both prompts at the same time
        assert 0 <= stats["time/verify_hidden"] <= 1
        assert 0 < stats["time/verify_p50"] <= stats["time/verify_p99"]
        assert stats["verify/lost_workers"] == 0
        # Counted anew, and nothing is said of nothing.
        again = parts.end_sampling()
        assert not {"sampler/useful_rows", "sampler/reused_prompt", "time/verify_hidden"} & set(
            again
        )
        assert again["sampler/cache_used"] == 0


def test_what_the_numbers_of_sampling_are() -> None:
    engine = SimpleNamespace(num_pages=50, stats=EngineStats())
    engine.stats = EngineStats(
        prompt_tokens=40,
        reused_tokens=10,
        row_steps=80,
        sampled_tokens=60,
        preemptions=3,
        peak_pages=20,
    )
    closed: list[bool] = []
    judged = {"latency_p50_seconds": 0.1, "latency_p99_seconds": 0.9, "restarts": 5}
    sampler: Any = SimpleNamespace(engine=engine, close=lambda: closed.append(True))
    pool: Any = SimpleNamespace(stats=lambda: judged)
    times = VerifyTimes(pending=8.0, waited=2.0, lost_workers=4)
    assert _end_sampling(sampler, pool, times) == {
        "sampler/preemptions": 3,
        "sampler/cache_used": 0.4,
        "sampler/useful_rows": 0.75,
        "sampler/reused_prompt": 0.25,
        "time/verify_hidden": 0.75,
        "time/verify_wait": 2.0,
        "time/verify_p50": 0.1,
        "time/verify_p99": 0.9,
        "verify/lost_workers": 1,
    }
    assert closed and engine.stats == EngineStats()
    assert (times.pending, times.waited, times.lost_workers) == (0, 0, 5)
