"""What the parts of a run report of their own work."""

import jax
import pytest

from cipo_jax.config import default_config
from cipo_jax.config.resolve import resolve
from cipo_jax.run.parameters import fresh_parameters
from cipo_jax.run.parts import open_parts
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
        params = fresh_parameters(config.model, config.seed, parts.policy)
        prompts = [parts.prompts.base(problem)] * 2
        attempts = parts.attempt(params, prompts, 4, jax.random.key(0), "test")
        assert len(attempts) == 8
        stats = parts.end_sampling()
        assert 0 < stats["sampler/useful_rows"] <= 1
        assert stats["sampler/evictions"] == 0 and 0 < stats["sampler/cache_used"] < 1
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
